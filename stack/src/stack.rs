//! Waybill on top of the servers: a database, two simulators, an API and workers. `cargo dev` starts one stack; each
//! end-to-end test starts its own.

use std::path::{Path, PathBuf};
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
use waybill_simulators::{AutoProgress, CarrierSim, CarrierSimConfig, PaymentsSim, PaymentsSimConfig};

/// Connecting to two servers and registering with one can take long on a busy machine.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Connections per process of a test's stack; sixteen such stacks fit into one Postgres.
const TEST_CONNECTIONS: &str = "8";
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

/// Builds a stack. By default everything is new, with one worker and a carrier without automatic progress.
#[derive(Debug)]
pub struct StackBuilder<'a> {
    servers: &'a Servers,
    dir: PathBuf,
    database: String,
    queue_prefix: String,
    ports: Option<StackPorts>,
    env: Vec<(String, String)>,
    worker: bool,
    auto: Option<AutoProgress>,
    secrets: Secrets,
    key: Option<String>,
    binaries: Option<Binaries>,
    checked: bool,
}

impl<'a> StackBuilder<'a> {
    /// Sets whether [`Stack::stop`] checks the invariants and panics on a violation. Tests that corrupt the ledgers on
    /// purpose disable it.
    #[must_use]
    pub fn check_invariants(mut self, checked: bool) -> Self {
        self.checked = checked;
        self
    }

    /// Sets a variable for the API and all workers.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets whether to start a worker.
    #[must_use]
    pub fn worker(mut self, start: bool) -> Self {
        self.worker = start;
        self
    }

    /// Uses other binaries than this workspace's, for example those of another commit.
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// Makes the carrier hand over and deliver automatically.
    #[must_use]
    pub fn auto(mut self, auto: AutoProgress) -> Self {
        self.auto = Some(auto);
        self
    }

    /// Uses these ports instead of free ones.
    #[must_use]
    pub fn ports(mut self, ports: StackPorts) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Stores logs and ledgers in the given directory and uses the database `waybill` and unprefixed task queues, so
    /// that later runs can use the stack's data.
    #[must_use]
    pub fn persistent(mut self, dir: &Path, secrets: &Secrets, key: Option<&str>) -> Self {
        self.dir = dir.to_owned();
        self.database = "waybill".to_owned();
        self.queue_prefix = String::new();
        self.secrets = secrets.clone();
        self.key = key.map(str::to_owned);
        self
    }

    /// Starts everything: database and migrations, a key, simulators, API, worker, stock.
    pub async fn start(self) -> Result<Stack> {
        let binaries = match &self.binaries {
            Some(binaries) => binaries.clone(),
            None => Binaries::get().await?.clone(),
        };
        let dirs = ProcessDirs::below(&self.dir)?;
        let ports = self.ports.map_or_else(StackPorts::free, Ok)?;
        let database_url = self.servers.postgres.create_database(&self.database).await?;

        let api = format!("http://127.0.0.1:{}", ports.api);
        let payments = PaymentsSim::start(PaymentsSimConfig {
            listen: loopback(ports.payments),
            ledger: self.dir.join("payments.jsonl"),
            api_key: self.secrets.payments_key.clone(),
            webhook_secret: self.secrets.payments_webhook.clone(),
            webhook_url: Some(format!("{api}/v1/payments/events")),
        });
        let carrier = CarrierSim::start(CarrierSimConfig {
            listen: loopback(ports.carrier),
            ledger: self.dir.join("carrier.jsonl"),
            api_key: self.secrets.carrier_key.clone(),
            webhook_secret: self.secrets.carrier_webhook.clone(),
            webhook_base: Some(api.clone()),
            auto: self.auto,
        });
        let (payments, carrier) = tokio::try_join!(payments, carrier)?;

        let env = self.environment(&database_url, &payments.url(), &carrier.url());
        run_command(&binaries.api, &["migrate"], &env).await?;
        let key = match self.key {
            Some(key) => key,
            None => create_key(&binaries.api, &env, "demo").await?,
        };
        let mut spec = ChildSpec::new("API", &binaries.api, &dirs).args(["serve"]);
        spec.env.clone_from(&env);
        spec.env.push(("WAYBILL_LISTEN".to_owned(), loopback(ports.api).to_string()));
        let mut stack = Stack {
            client: Client::new(&api, &key)?,
            key,
            database_url,
            payments,
            carrier,
            secrets: self.secrets,
            api: Child::spawn(spec)?,
            more_apis: Vec::new(),
            workers: Vec::new(),
            temporal: self.servers.temporal.http()?,
            queue_prefix: self.queue_prefix,
            checked: self.checked,
            binaries,
            dirs,
            env,
        };
        stack.api_ready().await?;
        if self.worker {
            stack.add_worker_at(ports.worker).await?;
        }
        stack.seed_stock().await?;
        Ok(stack)
    }

    fn environment(
        &self,
        database_url: &str,
        payments_url: &str,
        carrier_url: &str,
    ) -> Vec<(String, String)> {
        let temporal_url = self.servers.temporal.url();
        let ours = [
            ("WAYBILL_DATABASE_URL", database_url),
            ("WAYBILL_TEMPORAL_ADDRESS", temporal_url.as_str()),
            ("WAYBILL_TEMPORAL_NAMESPACE", "default"),
            ("WAYBILL_TASK_QUEUE_PREFIX", &self.queue_prefix),
            ("WAYBILL_LOG_FORMAT", "human"),
            ("WAYBILL_QUEUES", "orders,payments,shipping"),
            ("WAYBILL_STRIPE_BASE_URL", payments_url),
            ("WAYBILL_STRIPE_API_KEY", &self.secrets.payments_key),
            ("WAYBILL_PAYMENT_WEBHOOK_SECRET", &self.secrets.payments_webhook),
            ("WAYBILL_CARRIER_BASE_URL", carrier_url),
            ("WAYBILL_CARRIER_API_KEY", &self.secrets.carrier_key),
            ("WAYBILL_CARRIER_WEBHOOK_SECRET", &self.secrets.carrier_webhook),
        ];
        // Tests run in parallel on one Postgres.
        let few =
            (!self.queue_prefix.is_empty()).then_some(("WAYBILL_DATABASE_CONNECTIONS", TEST_CONNECTIONS));
        let ours = ours.into_iter().chain(few).map(|(name, value)| (name.to_owned(), value.to_owned()));
        // The caller's variables come last and take precedence.
        ours.chain(self.env.iter().cloned()).collect()
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
