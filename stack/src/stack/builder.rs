//! Configures and starts a stack.

use super::{Stack, StackPorts, create_key, run_command};
use crate::binaries::Binaries;
use crate::child_process::{Child, ChildSpec, ProcessDirs};
use crate::client::Client;
use crate::ports::loopback;
use crate::servers::Servers;
use crate::stack_dir::Secrets;
use anyhow::Result;
use std::path::{Path, PathBuf};
use waybill_simulators::{AutoProgress, CarrierSim, CarrierSimConfig, PaymentsSim, PaymentsSimConfig};

/// Connections per process of a test's stack; sixteen such stacks fit into one Postgres.
const TEST_CONNECTIONS: &str = "8";

/// Builds a stack. By default everything is new, with one worker and a carrier without automatic progress.
#[derive(Debug)]
pub struct StackBuilder<'a> {
    pub(super) servers: &'a Servers,
    pub(super) dir: PathBuf,
    pub(super) database: String,
    pub(super) queue_prefix: String,
    pub(super) ports: Option<StackPorts>,
    pub(super) env: Vec<(String, String)>,
    pub(super) worker: bool,
    pub(super) auto: Option<AutoProgress>,
    pub(super) secrets: Secrets,
    pub(super) key: Option<String>,
    pub(super) binaries: Option<Binaries>,
    pub(super) checked: bool,
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
