//! Waybill on top of the servers: a database, two simulators, an API and workers. `cargo dev` starts one stack; each
//! end-to-end test starts its own.

mod builder;

pub use builder::StackBuilder;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;

use crate::binaries::Binaries;
use crate::child_process::{Child, ChildSpec, ProcessDirs};
use crate::client::Client;
use crate::goods;
use crate::invariants::{Moment, Sources};
use crate::ports::{free_port, loopback};
use crate::servers::Servers;
use crate::servers::temporal_http::TemporalHttp;
use crate::stack_dir::Secrets;
use waybill_simulators::{CarrierSim, PaymentsSim};

/// Connecting to two servers and registering with one can take long on a busy machine.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// All scopes of a merchant's key.
const SCOPES: &str = "orders:write,orders:read,stock:write,operate,admin";

/// The ports of a stack.
#[derive(Clone, Copy, Debug)]
pub struct StackPorts {
    /// The API.
    pub api: u16,
    /// The first worker's health and metrics; further workers take free ports.
    pub worker: u16,
    /// The payment provider.
    pub payments: u16,
    /// The carrier.
    pub carrier: u16,
}

impl StackPorts {
    fn free() -> Result<Self> {
        Ok(Self { api: free_port()?, worker: free_port()?, payments: free_port()?, carrier: free_port()? })
    }
}

/// A running Waybill. Dropping it stops its processes without waiting for their exit.
pub struct Stack {
    /// A client of the API, with a key of the merchant `demo` that has all scopes.
    pub client: Client,
    /// The key.
    pub key: String,
    /// The database URL, for direct access.
    pub database_url: String,
    /// The payment provider.
    pub payments: PaymentsSim,
    /// The carrier.
    pub carrier: CarrierSim,
    /// The secrets shared with the payment provider and the carrier.
    pub secrets: Secrets,
    /// The API's process.
    pub api: Child,
    /// Further API processes.
    pub more_apis: Vec<Child>,
    /// The workers' processes.
    pub workers: Vec<Child>,
    /// Temporal's HTTP API.
    pub temporal: TemporalHttp,
    queue_prefix: String,
    checked: bool,
    binaries: Binaries,
    dirs: ProcessDirs,
    env: Vec<(String, String)>,
}

impl Stack {
    /// A builder for a stack on these servers, with its own database and task queues.
    pub fn builder(servers: &Servers) -> StackBuilder<'_> {
        let name = format!("t{}", Uuid::now_v7().simple());
        StackBuilder {
            servers,
            dir: servers.dir.join(&name),
            queue_prefix: format!("{name}-"),
            database: name,
            ports: None,
            env: Vec::new(),
            worker: true,
            auto: None,
            secrets: Secrets::generate(),
            key: None,
            binaries: None,
            checked: false,
        }
    }

    /// Returns the sources for the invariant checks.
    ///
    /// # Errors
    /// When the database connection fails.
    pub fn sources(&self) -> Result<Sources<'_>> {
        Sources::new(&self.database_url, self.temporal.clone(), &self.payments, &self.queue_prefix)
    }

    /// The prefix of its task queues.
    pub fn queue_prefix(&self) -> &str {
        &self.queue_prefix
    }

    /// Starts another API on a free port and waits until it is ready; returns a client for it.
    pub async fn add_api(&mut self) -> Result<Client> {
        let port = free_port()?;
        let name = format!("API {}", self.more_apis.len() + 2);
        let mut spec = ChildSpec::new(&name, &self.binaries.api, &self.dirs).args(["serve"]);
        spec.env.clone_from(&self.env);
        spec.env.push(("WAYBILL_LISTEN".to_owned(), loopback(port).to_string()));
        let mut api = Child::spawn(spec)?;
        let client = Client::new(&format!("http://127.0.0.1:{port}"), &self.key)?;
        let url = format!("{}/readyz", client.base());
        api.ready(READY_WAIT_MAX, || responds_ok(&client, &url)).await?;
        self.more_apis.push(api);
        Ok(client)
    }

    /// Starts another worker on a free port and waits until it is ready.
    pub async fn add_worker(&mut self) -> Result<()> {
        self.add_worker_at(free_port()?).await
    }

    /// Restarts the API and waits until it is ready.
    pub async fn restart_api(&mut self) -> Result<()> {
        self.api.restart().await?;
        self.api_ready().await
    }

    /// Creates a key with all scopes for another merchant.
    pub async fn create_key(&self, merchant: &str) -> Result<String> {
        create_key(&self.binaries.api, &self.env, merchant).await
    }

    /// Runs a subcommand of `waybill-api` on this stack's database; returns its output.
    pub async fn run_api_command(&self, args: &[&str]) -> Result<String> {
        run_command(&self.binaries.api, args, &self.env).await
    }

    /// Returns an error that names a process that has ended unexpectedly.
    pub fn check(&mut self) -> Result<()> {
        self.api.check()?;
        self.workers.iter_mut().try_for_each(Child::check)
    }

    /// Stops everything in order: the APIs, the workers, then the provider and the carrier.
    ///
    /// # Panics
    /// When the invariants are to be checked and one is broken.
    pub async fn stop(mut self) {
        if self.checked {
            self.assert_invariants().await;
        }
        self.api.stop().await;
        futures::future::join_all(self.more_apis.iter_mut().map(Child::stop)).await;
        futures::future::join_all(self.workers.iter_mut().map(Child::stop)).await;
        self.payments.stop().await;
        self.carrier.stop().await;
    }

    async fn assert_invariants(&self) {
        let checked = async { self.sources()?.check(Moment::Always).await };
        let found = checked.await.map_err(|err| format!("the invariants cannot be checked: {err:#}"));
        assert_eq!(found, Ok(Vec::new()), "an invariant is broken");
    }

    async fn add_worker_at(&mut self, port: u16) -> Result<()> {
        let name = match self.workers.len() {
            0 => "worker".to_owned(),
            others => format!("worker {}", others + 1),
        };
        let mut spec = ChildSpec::new(&name, &self.binaries.worker, &self.dirs);
        spec.env.clone_from(&self.env);
        spec.env.push(("WAYBILL_METRICS_LISTEN".to_owned(), loopback(port).to_string()));
        let mut worker = Child::spawn(spec)?;
        let url = format!("http://127.0.0.1:{port}/readyz");
        worker.ready(READY_WAIT_MAX, || responds_ok(&self.client, &url)).await?;
        self.workers.push(worker);
        Ok(())
    }

    async fn api_ready(&mut self) -> Result<()> {
        let url = format!("{}/readyz", self.client.base());
        self.api.ready(READY_WAIT_MAX, || responds_ok(&self.client, &url)).await
    }

    /// Adds stock for SKUs that have none recorded; sold units stay sold.
    async fn seed_stock(&self) -> Result<()> {
        for (sku, stock) in goods::stock() {
            let known = self.client.get_stock(sku).await?;
            let empty = known.items().is_some_and(<[Value]>::is_empty);
            if known.status.as_u16() == 404 || empty {
                self.client
                    .put_stock(sku, &stock)
                    .await?
                    .success()
                    .with_context(|| format!("cannot add stock of {sku}"))?;
            }
        }
        Ok(())
    }
}

/// Returns whether a URL responds with a success.
pub async fn responds_ok(client: &Client, url: &str) -> bool {
    client.probe(url).await.is_some_and(|status| status.is_success())
}

async fn create_key(api: &Path, env: &[(String, String)], merchant: &str) -> Result<String> {
    let args = ["keys", "create", "--merchant", merchant, "--name", "cargo dev", "--scopes", SCOPES];
    let printed = run_command(api, &args, env).await?;
    printed
        .lines()
        .last()
        .map(|key| key.trim().to_owned())
        .context("`waybill-api keys create` printed no key")
}

async fn run_command(program: &Path, args: &[&str], env: &[(String, String)]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !out.status.success() {
        let reported = String::from_utf8_lossy(&out.stderr);
        bail!("`waybill-api {}` failed:\n{}", args.first().unwrap_or(&""), reported.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
