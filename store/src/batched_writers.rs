//! Batched writes that every order needs from the worker ([ADR 13](../../docs/adr/0013-batched-statements.md)).

use crate::{
    Result,
    orders::projection::{self, OrderChange, ProjectionOutcome},
    postgres::{
        batch::{BatchLimits, Batcher, Linger},
        pooled::PooledConnections,
    },
    stock::reservations::{self, ReservationResult},
};
use sqlx::{PgConnection, PgPool};
use std::sync::Arc;
use waybill_domain::{
    event::TimelineEntry,
    ids::{OrderId, ShipmentId},
    state::OrderState,
};

/// Items per batch: enough to make the cost of a commit's flush negligible, few enough to keep the locks short and to
/// limit the number of items that fail together with a connection.
const BATCH_ITEMS_MAX: usize = 50;
/// Two batches rarely need the same order's row: one is collected and written while the other's commit is flushed.
const PROJECTION_FLUSHERS: usize = 2;
/// Two batches with the same SKUs would only wait for each other's locks, each on a separate connection.
const STOCK_FLUSHERS: usize = 1;

/// Batches the writes of concurrent callers, each for one order.
#[derive(Debug, Clone)]
pub struct BatchedWriters {
    pool: PgPool,
    projections: Batcher<Arc<QueuedChange>, Option<ProjectionOutcome>>,
    reservations: Batcher<OrderId, Option<ReservationResult>>,
    hand_overs: Batcher<(OrderId, ShipmentId), ()>,
}

/// An [`OrderChange`] that is queued.
#[derive(Debug)]
struct QueuedChange {
    order: OrderId,
    base_version: i64,
    entries: Vec<TimelineEntry>,
    state: OrderState,
}

impl QueuedChange {
    fn change(&self) -> OrderChange<'_> {
        let Self { order, base_version, entries, state, .. } = self;
        OrderChange { id: *order, base_version: *base_version, entries, state }
    }
}

impl BatchedWriters {
    /// Starts the tasks that write, once per process. If not `batched`, each item is written separately, and as many
    /// concurrently as the pool has connections: for measurements, and to find out whether batching causes a problem.
    pub fn start(pool: &PgPool, batched: bool) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let limits = |flusher_count| match batched {
            true => BatchLimits { items_max: BATCH_ITEMS_MAX, flushers: flusher_count, linger: Linger::None },
            false => BatchLimits { items_max: 1, flushers: connections, linger: Linger::None },
        };
        let pooled = |flusher_count| PooledConnections::new(pool, limits(flusher_count).flushers);
        let (projection_connections, reservation_connections, hand_over_connections) =
            (pooled(PROJECTION_FLUSHERS), pooled(STOCK_FLUSHERS), pooled(STOCK_FLUSHERS));
        Self {
            pool: pool.clone(),
            projections: Batcher::spawn(
                limits(PROJECTION_FLUSHERS),
                |change: &Arc<QueuedChange>| change.order,
                move |changes| {
                    let pooled = projection_connections.clone();
                    async move { pooled.run(|db| Box::pin(apply_projections(db, changes))).await }
                },
            ),
            reservations: Batcher::spawn(
                limits(STOCK_FLUSHERS),
                |order| *order,
                move |orders| {
                    let pooled = reservation_connections.clone();
                    async move {
                        pooled
                            .run(|db| Box::pin(async move { reservations::reserve(db, &orders).await }))
                            .await
                    }
                },
            ),
            hand_overs: Batcher::spawn(
                limits(STOCK_FLUSHERS),
                |pair| *pair,
                move |pairs| {
                    let pooled = hand_over_connections.clone();
                    async move { pooled.run(|db| Box::pin(hand_over_all(db, pairs))).await }
                },
            ),
        }
    }

    /// [`projection::apply`]: in a batch if the order was not written to since `base_version`, otherwise separately.
    ///
    /// # Errors
    /// When Postgres fails or times out, or there is no such order.
    pub async fn project(
        &self,
        order: OrderId,
        base_version: i64,
        entries: &[TimelineEntry],
        state: &OrderState,
    ) -> Result<ProjectionOutcome> {
        let change =
            Arc::new(QueuedChange { order, base_version, entries: entries.to_vec(), state: state.clone() });
        match self.projections.submit(change).await? {
            Some(applied) => Ok(applied),
            None => projection::apply(&self.pool, order, base_version, entries, state).await,
        }
    }

    /// [`reservations::reserve`]: `None` if there is no such order.
    ///
    /// # Errors
    /// When Postgres fails, or the order cannot be parsed or priced.
    pub async fn reserve(&self, order: OrderId) -> Result<Option<ReservationResult>> {
        self.reservations.submit(order).await
    }

    /// [`reservations::mark_handed_over`].
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn hand_over(&self, order: OrderId, shipment: ShipmentId) -> Result<()> {
        self.hand_overs.submit((order, shipment)).await
    }
}

async fn apply_projections(
    db: &mut PgConnection,
    changes: Vec<Arc<QueuedChange>>,
) -> Result<Vec<Option<ProjectionOutcome>>> {
    let changes: Vec<OrderChange<'_>> = changes.iter().map(|change| change.change()).collect();
    projection::apply_batch(db, &changes).await
}

async fn hand_over_all(db: &mut PgConnection, pairs: Vec<(OrderId, ShipmentId)>) -> Result<Vec<()>> {
    reservations::mark_handed_over(db, &pairs).await?;
    Ok(vec![(); pairs.len()])
}
