//! Stock by SKU and location: levels, adjustments, reservations and shortfalls.
//! Tables: `stock`, `stock_adjustments`, `stock_holds`, `reservations`, `settled_shortfalls`.
//! Inserts also the `shipments` of a reservation.

mod adjust;
pub mod reservations;
pub mod shortfalls;

pub use adjust::{Adjustment, adjust, put};

use crate::Result;
use sqlx::{PgExecutor, PgPool};
use waybill_domain::ids::{MerchantId, Sku};

/// The maximum number of units of a SKU at one location: less than half of the column's range, so that reserved and
/// returned units never overflow it.
pub const UNITS_MAX: i32 = 1_000_000_000;
/// The maximum number of locations of a SKU (concurrent writes may exceed it slightly): an order with the SKU locks the
/// rows of all of them, and so blocks other orders.
pub const LOCATIONS_MAX: usize = 100;

/// The stock of one SKU at one location, in units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockLevel {
    /// The location.
    pub location: String,
    /// Available for orders.
    pub available: i32,
    /// Reserved for orders and still on hand. On hand is `available + reserved`.
    pub reserved: i32,
    /// Reserved for orders but missing, according to a stock count: see [`crate::stock::shortfalls`].
    pub short: i32,
    /// Handed over to carriers, in total.
    pub sold: i32,
}

impl StockLevel {
    /// The units on hand, reserved or not.
    pub fn on_hand(&self) -> i64 {
        i64::from(self.available) + i64::from(self.reserved)
    }
}

/// Why stock was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockRejection {
    /// The quantity on hand would be below the reserved quantity, and the caller does not allow that; or it would be
    /// negative.
    BelowReserved {
        /// The location.
        location: String,
        /// Units on hand now.
        on_hand: i64,
        /// The reserved units among them.
        reserved: i32,
    },
    /// The key was used for another adjustment.
    KeyReused,
    /// The quantity would exceed the maximum.
    QuantityTooLarge {
        /// The location.
        location: String,
    },
    /// The SKU would have too many locations.
    TooManyLocations,
}

/// The stock of each location; empty for a SKU that was never set.
///
/// # Errors
/// When Postgres fails.
pub async fn get(db: impl PgExecutor<'_>, merchant: MerchantId, sku: &Sku) -> Result<Vec<StockLevel>> {
    Ok(sqlx::query_as!(
        StockLevel,
        "select location, available, reserved, short, sold from stock where merchant_id = $1 and sku = $2 order by location",
        merchant.0,
        sku.as_str()
    )
    .fetch_all(db)
    .await?)
}

/// The comparison of one stock row with its reservations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockReconciliation {
    /// The SKU.
    pub sku: String,
    /// The location.
    pub location: String,
    /// `available + reserved + sold` of the stock row.
    pub units: i64,
    /// `reserved` of the stock row less the held and present units of the reservations: 0 if they agree.
    pub held_difference: i64,
    /// `short` of the stock row less the held and missing units of the reservations: 0 if they agree.
    pub short_difference: i64,
    /// `sold` of the stock row less the sold units of the reservations: 0 if they agree.
    pub sold_difference: i64,
}

/// Compares every stock row with its reservations.
///
/// # Errors
/// When Postgres fails.
pub async fn reconcile_reservations(pool: &PgPool) -> Result<Vec<StockReconciliation>> {
    Ok(sqlx::query_as!(
        StockReconciliation,
        r#"select s.sku, s.location, (s.available + s.reserved + s.sold)::bigint as "units!",
             (s.reserved - coalesce(sum(r.quantity - r.short) filter (where r.state = 'held'), 0))::bigint as "held_difference!",
             (s.short - coalesce(sum(r.short) filter (where r.state = 'held'), 0))::bigint as "short_difference!",
             (s.sold - coalesce(sum(r.quantity - r.missing - r.returned) filter (where r.state = 'sold'), 0))::bigint as "sold_difference!"
           from stock s left join reservations r
             on r.merchant_id = s.merchant_id and r.sku = s.sku and r.location = s.location
           group by s.merchant_id, s.sku, s.location order by s.sku, s.location"#
    )
    .fetch_all(pool)
    .await?)
}
