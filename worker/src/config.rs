//! The worker's settings.

use clap::Parser;
use secrecy::SecretString;
use std::net::SocketAddr;
use url::Url;
use waybill_runtime::args::CommonArgs;

/// Settings, from flags or the environment.
#[derive(Debug, Clone, Parser)]
#[command(name = "waybill-worker", about = "Hosts Waybill's workflows and activities", version)]
pub struct WorkerArgs {
    /// Servers.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    #[arg(long, env = "WAYBILL_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    pub metrics_listen: SocketAddr,
    /// Which task queues this worker serves: any of orders, payments, shipping.
    #[arg(long, env = "WAYBILL_QUEUES", value_delimiter = ',', default_value = "orders,payments,shipping")]
    pub queues: Vec<String>,
    /// Stripe's API, or something that speaks it.
    #[arg(long, env = "WAYBILL_STRIPE_BASE_URL", default_value = "https://api.stripe.com/")]
    pub stripe_base_url: Url,
    /// Stripe's secret key.
    #[arg(long, env = "WAYBILL_STRIPE_API_KEY", hide_env_values = true)]
    pub stripe_api_key: SecretString,
    /// Where a customer comes back to after proving to their bank who they are (3-D Secure). Without it Stripe gives
    /// no page to send them to.
    #[arg(long, env = "WAYBILL_PAYMENT_RETURN_URL")]
    pub payment_return_url: Option<Url>,
    /// The carrier's API.
    #[arg(long, env = "WAYBILL_CARRIER_BASE_URL")]
    pub carrier_base_url: Url,
    /// The carrier's key.
    #[arg(long, env = "WAYBILL_CARRIER_API_KEY", hide_env_values = true)]
    pub carrier_api_key: SecretString,
    /// How long an order waits for a reviewer before it expires: three days, a long weekend.
    #[arg(long, env = "WAYBILL_REVIEW_WAIT_SECONDS", default_value_t = 3 * 24 * 3_600)]
    pub review_wait_seconds: u64,
    /// How long an order waits for its customer before it expires: two days.
    #[arg(long, env = "WAYBILL_CUSTOMER_WAIT_SECONDS", default_value_t = 2 * 24 * 3_600)]
    pub customer_wait_seconds: u64,
    /// How long an order waits for its customer to prove to their bank who they are: an hour, as checkouts do.
    #[arg(long, env = "WAYBILL_PAYMENT_ACTION_WAIT_SECONDS", default_value_t = 3_600)]
    pub payment_action_wait_seconds: u64,
    /// How often orders whose workflow was ended from outside are looked for.
    #[arg(long, env = "WAYBILL_SWEEP_SECONDS", default_value_t = 300)]
    pub sweep_seconds: u64,
    /// How long such an order must have been without a change.
    #[arg(long, env = "WAYBILL_SWEEP_AGE_SECONDS", default_value_t = 600)]
    pub sweep_age_seconds: u64,
    /// How often stock, reservations, our ledger and the payment provider's are compared.
    #[arg(long, env = "WAYBILL_RECONCILE_SECONDS", default_value_t = 3_600)]
    pub reconcile_seconds: u64,
    /// How long goods may take to come back before somebody is told: thirty days.
    #[arg(long, env = "WAYBILL_RETURN_WAIT_SECONDS", default_value_t = 30 * 24 * 3_600)]
    pub return_wait_seconds: u64,
    /// How long before it lapses an authorization is renewed: a day, in which a person can still find another way. One
    /// that lasts less than two days is renewed when half of its time is over.
    #[arg(long, env = "WAYBILL_HOLD_RENEW_SECONDS", default_value_t = 24 * 3_600)]
    pub hold_renew_seconds: u64,
    /// Faults on purpose, for staging: see `activities::chaos`.
    #[arg(long, env = "WAYBILL_CHAOS", default_value = "")]
    pub chaos: String,
}
