//! Stock by SKU and location.

mod adjust;
pub mod reservations;
pub mod shortfalls;

pub use adjust::{Adjustment, adjust, put};

use crate::Result;
use sqlx::{PgExecutor, PgPool};
use waybill_domain::ids::{MerchantId, Sku};

/// The most units of a SKU at one location: less than half of what its columns hold, so that what was set aside or came
/// back always finds its place.
pub const UNITS_MAX: i32 = 1_000_000_000;
/// The most locations of a SKU, give or take what is put at the same time: an order that wants it locks them all, and other
/// merchants' orders with it.
pub const LOCATIONS_MAX: usize = 100;

/// What one location has of one SKU, in units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockLevel {
    /// Where.
    pub location: String,
    /// Free to be ordered.
    pub available: i32,
    /// Set aside for orders and still here. On hand is `available + reserved`.
    pub reserved: i32,
    /// Reserved for orders and not here, as a count has shown: see [`crate::stock::shortfalls`].
    pub short: i32,
    /// Handed over to carriers since the beginning.
    pub sold: i32,
}

impl StockLevel {
    /// Units that are here, reserved or not.
    pub fn on_hand(&self) -> i64 {
        i64::from(self.available) + i64::from(self.reserved)
    }
}

/// Why stock was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockRejection {
    /// What is on hand would be less than what is reserved for orders, and the caller does not allow that; or less than
    /// nothing.
    BelowReserved {
        /// Where.
        location: String,
        /// Units on hand now.
        on_hand: i64,
        /// Units of these that are reserved for orders.
        reserved: i32,
    },
    /// The key was used for another adjustment.
    KeyReused,
    /// More units than can be counted.
    QuantityTooLarge {
        /// Where.
        location: String,
    },
    /// More locations than a SKU may have.
    TooManyLocations,
}

/// What each location has; empty for a SKU that was never set.
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

/// One SKU's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockReconciliation {
    /// What.
    pub sku: String,
    /// Where.
    pub location: String,
    /// `available + reserved + sold` of the stock row.
    pub units: i64,
    /// `reserved` of the stock row less what reservations say is held and here: 0 when the books agree.
    pub held_difference: i64,
    /// `short` of the stock row less what reservations say is held and not here: 0 when the books agree.
    pub short_difference: i64,
    /// `sold` of the stock row less what reservations say was sold: 0 when the books agree.
    pub sold_difference: i64,
}

/// Compares every stock row with the reservations it should follow from.
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
