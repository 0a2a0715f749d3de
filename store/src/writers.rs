//! Batched writes that every order needs from the worker ([ADR 13](../../docs/adr/0013-grouped-statements.md)).

use crate::{
    Result,
    orders::projection::{self, Applied, Change},
    postgres::{
        group::{Gather, Group, Limits},
        kept::Kept,
    },
    stock::reservations::{self, Reserved},
};
use sqlx::{PgConnection, PgPool};
use std::sync::Arc;
use waybill_domain::{
    event::Entry,
    ids::{OrderId, ShipmentId},
    state::OrderState,
};

/// Items per batch: enough to make the cost of a commit's flush negligible, few enough to keep the locks short and to
/// limit the number of items that fail together with a connection.
const ITEMS_MAX: usize = 50;
/// Two batches rarely need the same order's row: one is collected and written while the other's commit is flushed.
const PROJECTION_LANES: usize = 2;
/// Two batches with the same SKUs would only wait for each other's locks, each on a separate connection.
const STOCK_LANES: usize = 1;

/// Batches the writes of concurrent callers, each for one order.
#[derive(Debug, Clone)]
pub struct Writers {
    pool: PgPool,
    projections: Group<Arc<Telling>, Option<Applied>>,
    reservations: Group<OrderId, Option<Reserved>>,
    hand_overs: Group<(OrderId, ShipmentId), ()>,
}

/// An [`OrderChange`] that is queued.
#[derive(Debug)]
struct Telling {
    order: OrderId,
    base_version: i64,
    entries: Vec<Entry>,
    state: OrderState,
}

impl Telling {
    fn change(&self) -> Change<'_> {
        let Self { order, base_version, entries, state, .. } = self;
        Change { id: *order, base_version: *base_version, entries, state }
    }
}

impl Writers {
    /// Starts the tasks that write, once per process. If not `batched`, each item is written separately, and as many
    /// concurrently as the pool has connections: for measurements, and to find out whether batching causes a problem.
    pub fn start(pool: &PgPool, grouped: bool) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let limits = |lanes| match grouped {
            true => Limits { items_max: ITEMS_MAX, lanes, gather: Gather::Nobody },
            false => Limits { items_max: 1, lanes: connections, gather: Gather::Nobody },
        };
        let kept = |lanes| Kept::of(pool, limits(lanes).lanes);
        let (projecting, reserving, selling) = (kept(PROJECTION_LANES), kept(STOCK_LANES), kept(STOCK_LANES));
        Self {
            pool: pool.clone(),
            projections: Group::start(
                limits(PROJECTION_LANES),
                |telling: &Arc<Telling>| telling.order,
                move |tellings| {
                    let kept = projecting.clone();
                    async move { kept.run(|db| Box::pin(project_all(db, tellings))).await }
                },
            ),
            reservations: Group::start(
                limits(STOCK_LANES),
                |order| *order,
                move |orders| {
                    let kept = reserving.clone();
                    async move {
                        kept.run(|db| Box::pin(async move { reservations::reserve(db, &orders).await })).await
                    }
                },
            ),
            hand_overs: Group::start(
                limits(STOCK_LANES),
                |pair| *pair,
                move |pairs| {
                    let kept = selling.clone();
                    async move { kept.run(|db| Box::pin(hand_over_all(db, pairs))).await }
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
        entries: &[Entry],
        state: &OrderState,
    ) -> Result<Applied> {
        let telling =
            Arc::new(Telling { order, base_version, entries: entries.to_vec(), state: state.clone() });
        match self.projections.write(telling).await? {
            Some(applied) => Ok(applied),
            None => projection::apply(&self.pool, order, base_version, entries, state).await,
        }
    }

    /// [`reservations::reserve`]: `None` if there is no such order.
    ///
    /// # Errors
    /// When Postgres fails, or the order cannot be parsed or priced.
    pub async fn reserve(&self, order: OrderId) -> Result<Option<Reserved>> {
        self.reservations.write(order).await
    }

    /// [`reservations::hand_over`].
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn hand_over(&self, order: OrderId, shipment: ShipmentId) -> Result<()> {
        self.hand_overs.write((order, shipment)).await
    }
}

async fn project_all(db: &mut PgConnection, tellings: Vec<Arc<Telling>>) -> Result<Vec<Option<Applied>>> {
    let changes: Vec<Change<'_>> = tellings.iter().map(|telling| telling.change()).collect();
    projection::apply_all(db, &changes).await
}

async fn hand_over_all(db: &mut PgConnection, pairs: Vec<(OrderId, ShipmentId)>) -> Result<Vec<()>> {
    reservations::hand_over(db, &pairs).await?;
    Ok(vec![(); pairs.len()])
}
