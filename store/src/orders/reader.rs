//! Reads single orders for many concurrent callers, in batches.

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

/// Orders per statement, and concurrent statements: see [`crate::postgres::batch`]. The batch shares the round trip.
const ORDER_LIMITS: BatchLimits = BatchLimits { items_max: 64, flushers: 2, linger: Linger::None };
/// The same for row versions. A row version costs Postgres a tenth of the statement, so one large statement at a time
/// is better than two small ones. It may be large: if Postgres is a millisecond away, a thousand statements run per
/// second.
const ROW_VERSION_LIMITS: BatchLimits =
    BatchLimits { items_max: 256, flushers: 1, linger: Linger::YieldOnce };
/// The timeout of a row version: all other callers wait for the same statement, and can read the order instead.
const ROW_VERSION_TIMEOUT: Duration = Duration::from_secs(1);

/// The version of an order's row: each write creates another one. It is the id of the transaction that wrote the row
/// (Postgres' `xmin`), which wraps around after four billion transactions, so a caller must not store it for days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowVersion(i64);

impl From<i64> for RowVersion {
    fn from(xmin: i64) -> Self {
        Self(xmin)
    }
}

/// Each caller gets a separate result, also for the same order: a number distinguishes the callers.
type BatchedLookup<O> = Batcher<(u64, OrderId), Option<O>>;

/// Reads the current state of orders, those of concurrent callers in one batch.
#[derive(Debug, Clone)]
pub struct OrderReader {
    orders: BatchedLookup<Arc<OrderRecord>>,
    stamps: BatchedLookup<RowVersion>,
    callers: Arc<AtomicU64>,
}

impl OrderReader {
    /// Starts the tasks that read. If not `batched`, each order is read separately, and as many concurrently as the
    /// pool has connections.
    pub fn start(pool: PgPool, batched: bool) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let unbatched = BatchLimits { items_max: 1, flushers: connections, linger: Linger::None };
        let [of_orders, of_stamps] =
            if batched { [ORDER_LIMITS, ROW_VERSION_LIMITS] } else { [unbatched; 2] };
        let order_connections = PooledConnections::new(&pool, of_orders.flushers);
        let version_connections =
            PooledConnections::new(&pool, of_stamps.flushers).with_timeout(ROW_VERSION_TIMEOUT);
        Self {
            orders: start_lookup(of_orders, move |wanted| {
                let pooled = order_connections.clone();
                async move { pooled.run(|db| Box::pin(async move { read_orders(db, &wanted).await })).await }
            }),
            stamps: start_lookup(of_stamps, move |wanted| {
                let pooled = version_connections.clone();
                async move { pooled.run(|db| Box::pin(async move { read_row_versions(db, &wanted).await })).await }
            }),
            callers: Arc::default(),
        }
    }

    /// The merchant's order with that id; another merchant's order is not found.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn find(&self, merchant: MerchantId, id: OrderId) -> Result<Option<Arc<OrderRecord>>> {
        let order = self.orders.submit((self.next_caller_id(), id)).await?;
        Ok(order.filter(|order| order.merchant_id == merchant))
    }

    /// Returns the current version of the order's row. A cached order is still valid if the version is the same, and
    /// reading the version is much cheaper than reading the order. If the version does not arrive within a second, the
    /// caller reads the order.
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
