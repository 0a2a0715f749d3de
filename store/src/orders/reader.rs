//! Reading one order, for many callers at a time.

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

/// Orders of one statement, and statements at a time: see [`crate::postgres::group`]. What they share is the round trip.
const ORDERS: Limits = Limits { items_max: 64, lanes: 2, gather: Gather::Nobody };
/// The same of stamps. A stamp costs Postgres a tenth of what the statement does, so one large one at a time is better than
/// two small ones; it may be large, since where Postgres is a millisecond away there are a thousand a second.
const STAMPS: Limits = Limits { items_max: 256, lanes: 1, gather: Gather::Ready };
/// A stamp that is not there after this long is not waited for: all others wait behind it, and the order can be read.
const STAMP_MAX: Duration = Duration::from_secs(1);

/// Which writing of an order's row one has read: each later one has another. It is the number of the transaction that
/// wrote it (Postgres' `xmin`), which comes again after four billion; so nobody should keep it for days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(i64);

impl From<i64> for Stamp {
    fn from(xmin: i64) -> Self {
        Self(xmin)
    }
}

/// Each caller has an answer of their own, also of the same order: a number tells them apart.
type Lookup<O> = Group<(u64, OrderId), Option<O>>;

/// Reads orders as they are now, those that are asked for at the same time together.
#[derive(Debug, Clone)]
pub struct Reader {
    orders: Lookup<Arc<OrderRecord>>,
    stamps: Lookup<Stamp>,
    callers: Arc<AtomicU64>,
}

impl Reader {
    /// Starts the tasks that read. Not `grouped`, each order is read alone, and as many at a time as the pool has
    /// connections.
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

    /// The merchant's order of that id; another merchant's order is not found.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn find(&self, merchant: MerchantId, id: OrderId) -> Result<Option<Arc<OrderRecord>>> {
        let order = self.orders.write((self.caller(), id)).await?;
        Ok(order.filter(|order| order.merchant_id == merchant))
    }

    /// How the order's row stands now. What was read of it before is still true if it had the same stamp, and it is
    /// much cheaper to learn than to read it again; who does not learn it within a second reads it.
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
