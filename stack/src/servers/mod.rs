//! The two servers that Waybill requires: Temporal and Postgres.

pub mod account;
pub mod external_dir;
pub mod postgres;
pub mod pypi;
pub mod tcp_proxy;
pub mod temporal;
pub mod temporal_http;
pub mod version;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use crate::child_process::ProcessDirs;
use crate::ports::free_port;
use crate::servers::external_dir::ExternalDir;
use crate::servers::postgres::Postgres;
use crate::servers::temporal::{Temporal, TemporalConfig};

/// Both servers' installations on this machine.
#[derive(Clone, Debug)]
pub struct Installations {
    /// Temporal.
    pub temporal: temporal::Installation,
    /// Postgres.
    pub postgres: postgres::Installation,
}

impl Installations {
    /// Finds both servers, or fetches the missing ones.
    pub async fn locate(outside: &ExternalDir) -> Result<Self> {
        let outside = outside.clone();
        let temporal = tokio::task::spawn_blocking(temporal::Installation::locate);
        let postgres = tokio::task::spawn_blocking(move || postgres::Installation::locate(&outside));
        let (temporal, postgres) = tokio::try_join!(temporal, postgres)?;
        Ok(Self { temporal: temporal?, postgres: postgres? })
    }
}

/// The Postgres data directory: in the stack's directory if the user who runs Postgres can access it.
pub fn postgres_data(
    installation: &postgres::Installation,
    dir: &Path,
    outside: &ExternalDir,
) -> Result<PathBuf> {
    let home = match &installation.account {
        Some(account) if !account.can_access(dir) => outside.make()?,
        _ => dir,
    };
    Ok(home.join("postgres"))
}

/// Temporal and Postgres, running.
#[derive(Debug)]
pub struct Servers {
    /// The Temporal server.
    pub temporal: Temporal,
    /// The Postgres server.
    pub postgres: Postgres,
    /// The directory for the files of stacks on these servers.
    pub dir: PathBuf,
    /// Directories to remove when the servers are stopped permanently.
    remove: Vec<PathBuf>,
}

impl Servers {
    /// Starts both servers concurrently.
    pub async fn start(
        installations: Installations,
        data: &Path,
        postgres_port: u16,
        config: &TemporalConfig,
        dir: &Path,
    ) -> Result<Self> {
        let dirs = ProcessDirs::below(dir)?;
        let postgres =
            Postgres::start(installations.postgres, data, postgres_port, &dirs, config.remove.clone());
        let temporal = Temporal::start(installations.temporal, config, &dirs);
        let (postgres, temporal) = tokio::try_join!(postgres, temporal)?;
        Ok(Self { temporal, postgres, dir: dir.to_owned(), remove: config.remove.clone() })
    }

    /// Returns an error that names a server that has ended unexpectedly.
    pub fn check(&mut self) -> Result<()> {
        self.temporal.child.check()?;
        self.postgres.child.check()
    }

    /// Returns the servers that all tests of this process share. When the process ends, the guards stop them and remove
    /// their data.
    pub async fn for_tests() -> Result<&'static Self> {
        static SHARED: OnceCell<Servers> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::temporary(false)).await
    }

    /// Starts servers for one test, which may kill and restart them. Temporal stores its data in a file.
    pub async fn private() -> Result<Self> {
        Self::temporary(true).await
    }

    /// Stops both permanently, Temporal first; removes the data of temporary servers.
    pub async fn stop(&mut self) {
        self.temporal.child.stop().await;
        self.postgres.child.stop().await;
        for dir in &self.remove {
            // A leftover temporary directory has no effect.
            let _ = std::fs::remove_dir_all(dir);
        }
    }

    async fn temporary(on_disk: bool) -> Result<Self> {
        let dir = temporary_dir()?;
        let outside = ExternalDir::of(&dir);
        let installations = Installations::locate(&outside).await?;
        let data = postgres_data(&installations.postgres, &dir, &outside)?;
        installations.postgres.init(&data)?;
        let config = TemporalConfig {
            port: free_port()?,
            ui_port: None,
            http_port: Some(free_port()?),
            metrics_port: Some(free_port()?),
            database: on_disk.then(|| dir.join("temporal.db")),
            // Both servers' guards get these directories; the last one to end removes everything.
            remove: vec![dir.clone(), outside.path().to_owned()],
        };
        Self::start(installations, &data, free_port()?, &config, &dir).await
    }
}

/// Creates a directory that every user may enter, because it contains the data directory of another user.
fn temporary_dir() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = std::env::temp_dir().join(format!("waybill-test-{}", uuid::Uuid::now_v7().simple()));
    std::fs::DirBuilder::new()
        .mode(0o755)
        .create(&dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir.canonicalize()?)
}
