//! The two servers that Waybill stands on, real ones: Temporal and Postgres.

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

/// Both servers as they can be started on this machine.
#[derive(Clone, Debug)]
pub struct Installations {
    /// Temporal.
    pub temporal: temporal::Installation,
    /// Postgres.
    pub postgres: postgres::Installation,
}

impl Installations {
    /// Finds both, or fetches what is missing.
    pub async fn locate(outside: &ExternalDir) -> Result<Self> {
        let outside = outside.clone();
        let temporal = tokio::task::spawn_blocking(temporal::Installation::locate);
        let postgres = tokio::task::spawn_blocking(move || postgres::Installation::locate(&outside));
        let (temporal, postgres) = tokio::try_join!(temporal, postgres)?;
        Ok(Self { temporal: temporal?, postgres: postgres? })
    }
}

/// Where Postgres' data lies: in the stack's directory if the user who runs it may go there.
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
    /// The workflow engine.
    pub temporal: Temporal,
    /// The database.
    pub postgres: Postgres,
    /// Where stacks on these servers may keep their files.
    pub dir: PathBuf,
    /// What goes when they stop for good.
    remove: Vec<PathBuf>,
}

impl Servers {
    /// Starts both at once.
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

    /// An error that says which server has ended by itself, if one has.
    pub fn check(&mut self) -> Result<()> {
        self.temporal.child.check()?;
        self.postgres.child.check()
    }

    /// Servers that all tests of this process share. They are stopped, and their data is removed, when the
    /// process ends, however it ends.
    pub async fn for_tests() -> Result<&'static Self> {
        static SHARED: OnceCell<Servers> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::temporary(false)).await
    }

    /// Servers of a test's own, to be killed and restarted at will: Temporal keeps its data in a file.
    pub async fn private() -> Result<Self> {
        Self::temporary(true).await
    }

    /// Stops both for good, Temporal first; temporary ones leave nothing behind.
    pub async fn stop(&mut self) {
        self.temporal.child.stop().await;
        self.postgres.child.stop().await;
        for dir in &self.remove {
            // What stays in a temporary directory harms nobody.
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
            // Both servers get these: whichever ends last leaves nothing.
            remove: vec![dir.clone(), outside.path().to_owned()],
        };
        Self::start(installations, &data, free_port()?, &config, &dir).await
    }
}

/// A new directory that every user may enter, as a data directory of another user lies in it.
fn temporary_dir() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = std::env::temp_dir().join(format!("waybill-test-{}", uuid::Uuid::now_v7().simple()));
    std::fs::DirBuilder::new()
        .mode(0o755)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir.canonicalize()?)
}
