//! Reading one order, for many callers at a time.

use super::{OrderRecord, read_orders};
use crate::{
    Result,
    postgres::{
        batch::{BatchLimits, Batcher, Linger},
        pooled::PooledConnections,
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

/// Orders of one statement, and statements at a time: see [`crate::postgres::group`]. What they share is the round trip.
const ORDER_LIMITS: BatchLimits = BatchLimits { items_max: 64, flushers: 2, linger: Linger::None };
/// The same of stamps. A row_version costs Postgres a tenth of what the statement does, so one large one at a time is better than
/// two small ones; it may be large, since where Postgres is a millisecond away there are a thousand a second.
const ROW_VERSION_LIMITS: BatchLimits =
    BatchLimits { items_max: 256, flushers: 1, linger: Linger::YieldOnce };
/// A row_version that is not there after this long is not waited for: all others wait behind it, and the order can be read.
const ROW_VERSION_TIMEOUT: Duration = Duration::from_secs(1);

/// Which writing of an order's row one has read: each later one has another. It is the number of the transaction that
/// wrote it (Postgres' `xmin`), which comes again after four billion; so nobody should keep it for days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowVersion(i64);

impl From<i64> for RowVersion {
    fn from(xmin: i64) -> Self {
        Self(xmin)
    }
}

/// Each caller has an answer of their own, also of the same order: a number tells them apart.
type BatchedLookup<O> = Batcher<(u64, OrderId), Option<O>>;

/// Reads orders as they are now, those that are asked for at the same time together.
#[derive(Debug, Clone)]
pub struct OrderReader {
    orders: BatchedLookup<Arc<OrderRecord>>,
    stamps: BatchedLookup<RowVersion>,
    callers: Arc<AtomicU64>,
}

impl OrderReader {
    /// Starts the tasks that read. Not `grouped`, each order is read alone, and as many at a time as the pool has
    /// connections.
    pub fn start(pool: PgPool, batched: bool) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let unbatched = BatchLimits { items_max: 1, flushers: connections, linger: Linger::None };
        let [of_orders, of_stamps] =
            if batched { [ORDER_LIMITS, ROW_VERSION_LIMITS] } else { [unbatched; 2] };
        let reading = PooledConnections::new(&pool, of_orders.flushers);
        let stamping = PooledConnections::new(&pool, of_stamps.flushers).with_timeout(ROW_VERSION_TIMEOUT);
        Self {
            orders: start_lookup(of_orders, move |wanted| {
                let pooled = reading.clone();
                async move { pooled.run(|db| Box::pin(async move { read_orders(db, &wanted).await })).await }
            }),
            stamps: start_lookup(of_stamps, move |wanted| {
                let pooled = stamping.clone();
                async move { pooled.run(|db| Box::pin(async move { read_row_versions(db, &wanted).await })).await }
            }),
            callers: Arc::default(),
        }
    }

    /// The merchant's order of that id; another merchant's order is not found.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn find(&self, merchant: MerchantId, id: OrderId) -> Result<Option<Arc<OrderRecord>>> {
        let order = self.orders.submit((self.next_caller_id(), id)).await?;
        Ok(order.filter(|order| order.merchant_id == merchant))
    }

    /// How the order's row stands now. What was read of it before is still true if it had the same row_version, and it is
    /// much cheaper to learn than to read it again; who does not learn it within a second reads it.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn row_version(&self, id: OrderId) -> Result<Option<RowVersion>> {
        self.stamps.submit((self.next_caller_id(), id)).await
    }

    fn next_caller_id(&self) -> u64 {
        self.callers.fetch_add(1, Ordering::Relaxed)
    }
}

fn start_lookup<O, R, F>(limits: BatchLimits, read: R) -> BatchedLookup<O>
where
    O: Send + 'static,
    R: Fn(Vec<OrderId>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Vec<Option<O>>>> + Send + 'static,
{
    Batcher::spawn(
        limits,
        |(caller, _): &(u64, OrderId)| *caller,
        move |wanted| read(wanted.into_iter().map(|(_, id)| id).collect()),
    )
}

async fn read_row_versions(db: impl PgExecutor<'_>, wanted: &[OrderId]) -> Result<Vec<Option<RowVersion>>> {
    let ids: Vec<Uuid> = wanted.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select id, xmin::text::bigint as "row_version!" from orders where id = any($1)"#,
        &ids
    )
    .fetch_all(db)
    .await?;
    let stamps: HashMap<Uuid, RowVersion> =
        rows.into_iter().map(|row| (row.id, RowVersion(row.row_version))).collect();
    Ok(wanted.iter().map(|id| stamps.get(&id.0).copied()).collect())
}
