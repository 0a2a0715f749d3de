//! The invariants of a stack, read from its tables, from Temporal and from both simulators' ledgers. `cargo dev chaos`
//! and every integration test check them.

mod ledgers;
mod orders;
pub mod timeline;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use sqlx::PgPool;

pub use orders::Order;

use crate::servers::temporal_http::TemporalHttp;
use waybill_simulators::PaymentsSim;

/// Database connections for the checks.
const CONNECTIONS: u32 = 4;

/// When the check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// While orders are in progress: only the rules that hold at every moment.
    Always,
    /// When the stack is quiescent: also the rules that hold only at the end.
    AtRest,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The affected order, if the rule is about one order.
    pub order: Option<String>,
    /// The rule that is broken.
    pub rule: &'static str,
    /// The observed state.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.order.as_deref().unwrap_or("-");
        write!(f, "{}: {} (order {order})", self.rule, self.detail)
    }
}

/// The sources that the checks read.
pub struct Sources<'a> {
    pool: PgPool,
    temporal: TemporalHttp,
    payments: &'a PaymentsSim,
    queue_prefix: &'a str,
}

impl<'a> Sources<'a> {
    /// Connects to a stack's database, Temporal and payment provider.
    ///
    /// # Errors
    /// When the database connection fails.
    pub fn new(
        database_url: &str,
        temporal: TemporalHttp,
        payments: &'a PaymentsSim,
        queue_prefix: &'a str,
    ) -> Result<Self> {
        let pool = waybill_store::connect(database_url, CONNECTIONS)?;
        Ok(Self { pool, temporal, payments, queue_prefix })
    }

    /// The database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The prefix of the stack's task queues.
    pub fn queue_prefix(&self) -> &str {
        self.queue_prefix
    }

    /// Every order of the stack.
    ///
    /// # Errors
    /// When Postgres does not respond, or an order cannot be read.
    pub async fn orders(&self) -> Result<BTreeMap<String, Order>> {
        orders::load(&self.pool).await
    }

    /// Checks all invariants that hold at this time.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub async fn check(&self, moment: Moment) -> Result<Vec<Violation>> {
        let orders = self.orders().await?;
        let mut found: Vec<Violation> = orders.values().flat_map(Order::check_anytime).collect();
        found.extend(ledgers::check_stock(&self.pool).await?);
        found.extend(ledgers::check_provider(&orders, &self.payments.snapshot(), moment));
        if moment == Moment::AtRest {
            found.extend(orders.values().flat_map(Order::check_at_rest));
            found.extend(ledgers::check_nothing_pending(&self.pool).await?);
            found.extend(orders::check_workflows(&orders, &self.temporal, self.queue_prefix).await?);
        }
        found.sort();
        Ok(found)
    }
}
