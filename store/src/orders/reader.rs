//! Reads single orders for many concurrent callers, in batches.

use super::{OrderRecord, select};
use crate::{
    Result,
    postgres::{
        group::{Gather, Group, Limits},
        kept::Kept,
    },
};
use sqlx::{PgExecutor, PgPool};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use uuid::Uuid;
use waybill_domain::ids::{MerchantId, OrderId};

/// Orders per statement, and concurrent statements: see [`crate::postgres::batch`]. The batch shares the round trip.
const ORDERS: Limits = Limits { items_max: 64, lanes: 2, gather: Gather::Nobody };
/// The same for row versions. A row version costs Postgres a tenth of the statement, so one large statement at a time
/// is better than two small ones. It may be large: if Postgres is a millisecond away, a thousand statements run per
/// second.
const STAMPS: Limits = Limits { items_max: 256, lanes: 1, gather: Gather::Ready };
/// The timeout of a row version: all other callers wait for the same statement, and can read the order instead.
const STAMP_MAX: Duration = Duration::from_secs(1);

/// The version of an order's row: each write creates another one. It is the id of the transaction that wrote the row
/// (Postgres' `xmin`), which wraps around after four billion transactions, so a caller must not store it for days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(i64);

impl From<i64> for Stamp {
    fn from(xmin: i64) -> Self {
        Self(xmin)
    }
}

/// Each caller gets a separate result, also for the same order: a number distinguishes the callers.
type Lookup<O> = Group<(u64, OrderId), Option<O>>;

/// Reads the current state of orders, those of concurrent callers in one batch.
#[derive(Debug, Clone)]
pub struct Reader {
    orders: Lookup<Arc<OrderRecord>>,
    stamps: Lookup<Stamp>,
    callers: Arc<AtomicU64>,
}

impl Reader {
    /// Starts the tasks that read. If not `batched`, each order is read separately, and as many concurrently as the
    /// pool has connections.
    pub fn start(pool: PgPool, grouped: bool) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let alone = Limits { items_max: 1, lanes: connections, gather: Gather::Nobody };
        let [of_orders, of_stamps] = if grouped { [ORDERS, STAMPS] } else { [alone; 2] };
        let reading = Kept::of(&pool, of_orders.lanes);
        let stamping = Kept::of(&pool, of_stamps.lanes).within(STAMP_MAX);
        Self {
            orders: start(of_orders, move |wanted| {
                let kept = reading.clone();
                async move { kept.run(|db| Box::pin(async move { select(db, &wanted).await })).await }
            }),
            stamps: start(of_stamps, move |wanted| {
                let kept = stamping.clone();
                async move { kept.run(|db| Box::pin(async move { stamps(db, &wanted).await })).await }
            }),
            callers: Arc::default(),
        }
    }

    /// The merchant's order with that id; another merchant's order is not found.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn find(&self, merchant: MerchantId, id: OrderId) -> Result<Option<Arc<OrderRecord>>> {
        let order = self.orders.write((self.caller(), id)).await?;
        Ok(order.filter(|order| order.merchant_id == merchant))
    }

    /// Returns the current version of the order's row. A cached order is still valid if the version is the same, and
    /// reading the version is much cheaper than reading the order. If the version does not arrive within a second, the
    /// caller reads the order.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn stamp(&self, id: OrderId) -> Result<Option<Stamp>> {
        self.stamps.write((self.caller(), id)).await
    }

    fn caller(&self) -> u64 {
        self.callers.fetch_add(1, Ordering::Relaxed)
    }
}

fn start<O, R, F>(limits: Limits, read: R) -> Lookup<O>
where
    O: Send + 'static,
    R: Fn(Vec<OrderId>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Vec<Option<O>>>> + Send + 'static,
{
    Group::start(
        limits,
        |(caller, _): &(u64, OrderId)| *caller,
        move |wanted| read(wanted.into_iter().map(|(_, id)| id).collect()),
    )
}

async fn stamps(db: impl PgExecutor<'_>, wanted: &[OrderId]) -> Result<Vec<Option<Stamp>>> {
    let ids: Vec<Uuid> = wanted.iter().map(|id| id.0).collect();
    let rows =
        sqlx::query!(r#"select id, xmin::text::bigint as "stamp!" from orders where id = any($1)"#, &ids)
            .fetch_all(db)
            .await?;
    let stamps: HashMap<Uuid, Stamp> = rows.into_iter().map(|row| (row.id, Stamp(row.stamp))).collect();
    Ok(wanted.iter().map(|id| stamps.get(&id.0).copied()).collect())
}
