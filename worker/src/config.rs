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
    /// Settings that the API takes, too.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address that serves `/healthz`, `/readyz` and `/metrics`.
    #[arg(long, env = "WAYBILL_METRICS_LISTEN", default_value = "127.0.0.1:9464")]
    pub metrics_listen: SocketAddr,
    /// Task queues that this worker polls: any of orders, payments, shipping.
    #[arg(long, env = "WAYBILL_QUEUES", value_delimiter = ',', default_value = "orders,payments,shipping")]
    pub queues: Vec<String>,
    /// Base URL of Stripe's API, or of a compatible one.
    #[arg(long, env = "WAYBILL_STRIPE_BASE_URL", default_value = "https://api.stripe.com/")]
    pub stripe_base_url: Url,
    /// Stripe's secret key.
    #[arg(long, env = "WAYBILL_STRIPE_API_KEY", hide_env_values = true)]
    pub stripe_api_key: SecretString,
    /// URL to which the bank returns a customer after 3-D Secure authentication. Without it, Stripe returns no page to
    /// which to redirect the customer.
    #[arg(long, env = "WAYBILL_PAYMENT_RETURN_URL")]
    pub payment_return_url: Option<Url>,
    /// Base URL of the carrier's API.
    #[arg(long, env = "WAYBILL_CARRIER_BASE_URL")]
    pub carrier_base_url: Url,
    /// The carrier's API key.
    #[arg(long, env = "WAYBILL_CARRIER_API_KEY", hide_env_values = true)]
    pub carrier_api_key: SecretString,
    /// How long an order waits for a reviewer before it expires. Default: three days, a long weekend.
    #[arg(long, env = "WAYBILL_REVIEW_WAIT_SECONDS", default_value_t = 3 * 24 * 3_600)]
    pub review_wait_seconds: u64,
    /// How long an order waits for its customer before it expires. Default: two days.
    #[arg(long, env = "WAYBILL_CUSTOMER_WAIT_SECONDS", default_value_t = 2 * 24 * 3_600)]
    pub customer_wait_seconds: u64,
    /// How long an order waits for its customer's 3-D Secure authentication. Default: an hour, as checkouts do.
    #[arg(long, env = "WAYBILL_PAYMENT_ACTION_WAIT_SECONDS", default_value_t = 3_600)]
    pub payment_action_wait_seconds: u64,
    /// How often the sweeper searches for orders whose workflow was terminated or failed.
    #[arg(long, env = "WAYBILL_SWEEP_SECONDS", default_value_t = 300)]
    pub sweep_seconds: u64,
    /// How long such an order must not have changed.
    #[arg(long, env = "WAYBILL_SWEEP_AGE_SECONDS", default_value_t = 600)]
    pub sweep_age_seconds: u64,
    /// How often stock, reservations, Waybill's ledger and the payment provider's are reconciled.
    #[arg(long, env = "WAYBILL_RECONCILE_SECONDS", default_value_t = 3_600)]
    pub reconcile_seconds: u64,
    /// How long returned items may be in transit before attention is raised. Default: thirty days.
    #[arg(long, env = "WAYBILL_RETURN_WAIT_SECONDS", default_value_t = 30 * 24 * 3_600)]
    pub return_wait_seconds: u64,
    /// How long before an authorization expires the worker re-authorizes the payment. Default: a day, in which an
    /// operator can still find another way. For a lifetime of less than two days, it re-authorizes after half of it.
    #[arg(long, env = "WAYBILL_HOLD_RENEW_SECONDS", default_value_t = 24 * 3_600)]
    pub hold_renew_seconds: u64,
    /// Fault injection, for staging: see `activities::chaos`.
    #[arg(long, env = "WAYBILL_CHAOS", default_value = "")]
    pub chaos: String,
}
