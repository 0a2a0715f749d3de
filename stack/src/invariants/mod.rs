//! What must be true of a stack whatever happened to it: read from our tables, from Temporal and from both simulators'
//! ledgers. `cargo dev chaos` and every integration test check it.

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

/// Connections to look with.
const CONNECTIONS: u32 = 4;

/// When the check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// While orders are under way: what is never allowed, not even for a moment.
    Always,
    /// When everything has come to rest: also what has to be so in the end.
    AtRest,
}

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The order that it is about, if it is about one.
    pub order: Option<String>,
    /// The rule that is broken.
    pub rule: &'static str,
    /// What is there instead.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.order.as_deref().unwrap_or("-");
        write!(f, "{}: {} (order {order})", self.rule, self.detail)
    }
}

/// Everything that is looked at.
pub struct Sources<'a> {
    pool: PgPool,
    temporal: TemporalHttp,
    payments: &'a PaymentsSim,
    queue_prefix: &'a str,
}

impl<'a> Sources<'a> {
    /// A stack's database, Temporal, payment provider, and what the names of its task queues begin with.
    ///
    /// # Errors
    /// When the database can't be connected to.
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

    /// What the names of the stack's task queues begin with.
    pub fn queue_prefix(&self) -> &str {
        self.queue_prefix
    }

    /// Every order of the stack.
    ///
    /// # Errors
    /// When Postgres does not answer, or an order can't be read.
    pub async fn orders(&self) -> Result<BTreeMap<String, Order>> {
        orders::load(&self.pool).await
    }

    /// Checks everything that must be so at this moment.
    ///
    /// # Errors
    /// When something can't be read.
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
