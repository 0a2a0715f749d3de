//! Stock by SKU and location.

use crate::{Result, StoreError};
use sqlx::{PgExecutor, PgPool};
use waybill_domain::ids::{Location, MerchantId, Sku};

/// Postgres' code for a number that its column can't hold (PostgreSQL manual, appendix A).
const NUMERIC_OUT_OF_RANGE: &str = "22003";

/// The most pieces of a SKU at one location: less than half of what its columns hold, so that what was set aside or came
/// back always finds its place.
pub const PIECES_MAX: i32 = 1_000_000_000;
/// The most locations of a SKU, give or take what is put at the same time: an order that wants it locks them all, and other
/// merchants' orders with it.
pub const LOCATIONS_MAX: usize = 100;

/// What one location has of one SKU, in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockLevel {
    /// Where.
    pub location: String,
    /// Free to be ordered.
    pub available: i32,
    /// Set aside for orders and still here. On hand is `available + reserved`.
    pub reserved: i32,
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
pub enum StockRefusal {
    /// What is on hand would be less than what is reserved for orders, or than nothing.
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
    /// More pieces than can be counted.
    TooMany {
        /// Where.
        location: String,
    },
    /// More locations than a SKU may have.
    TooManyLocations,
}

/// Sets what is on hand at each of these locations; others stay as they are. All or nothing.
///
/// # Errors
/// When Postgres fails.
pub async fn put(
    pool: &PgPool,
    merchant: MerchantId,
    sku: &Sku,
    on_hand: &[(Location, i32)],
) -> Result<std::result::Result<Vec<StockLevel>, StockRefusal>> {
    let mut tx = crate::begin(pool).await?;
    // In one order everywhere, so that two writers never wait for each other.
    let mut on_hand = on_hand.to_vec();
    on_hand.sort();
    let mut new = false;
    for (location, pieces) in &on_hand {
        // A row that was inserted has no `xmax`.
        let row = sqlx::query!(
            r#"insert into stock (merchant_id, sku, location, available) values ($1, $2, $3, $4)
             on conflict (merchant_id, sku, location) do update
               set available = greatest(excluded.available - stock.reserved, 0), updated_at = now()
             returning reserved, xmax = '0' as "is_new!""#,
            merchant.0,
            sku.as_str(),
            location.as_str(),
            pieces
        )
        .fetch_one(&mut *tx)
        .await?;
        if row.reserved > *pieces {
            tx.rollback().await?;
            return below_reserved(pool, merchant, sku, location).await.map(Err);
        }
        new |= row.is_new;
    }
    let levels = get(&mut *tx, merchant, sku).await?;
    if new && levels.len() > LOCATIONS_MAX {
        return Ok(Err(StockRefusal::TooManyLocations));
    }
    tx.commit().await?;
    Ok(Ok(levels))
}

/// A change that stock does not allow, with the stock as it is now that the change has been rolled back.
async fn below_reserved(
    pool: &PgPool,
    merchant: MerchantId,
    sku: &Sku,
    location: &Location,
) -> Result<StockRefusal> {
    let levels = get(pool, merchant, sku).await?;
    let here = levels.iter().find(|level| level.location == location.as_str());
    Ok(StockRefusal::BelowReserved {
        location: location.as_str().to_owned(),
        on_hand: here.map_or(0, StockLevel::on_hand),
        reserved: here.map_or(0, |level| level.reserved),
    })
}

/// What each location has; empty for a SKU that was never set.
///
/// # Errors
/// When Postgres fails.
pub async fn get(db: impl PgExecutor<'_>, merchant: MerchantId, sku: &Sku) -> Result<Vec<StockLevel>> {
    Ok(sqlx::query_as!(
        StockLevel,
        "select location, available, reserved, sold from stock where merchant_id = $1 and sku = $2 order by location",
        merchant.0,
        sku.as_str()
    )
    .fetch_all(db)
    .await?)
}

/// A change of what is on hand.
#[derive(Debug, Clone)]
pub struct Adjustment {
    /// What.
    pub sku: Sku,
    /// Where.
    pub location: Location,
    /// Pieces more, or fewer.
    pub delta: i32,
    /// Why, in the merchant's words.
    pub reason: String,
}

/// Adds to or takes from what is on hand, once per key.
///
/// # Errors
/// When Postgres fails.
pub async fn adjust(
    pool: &PgPool,
    merchant: MerchantId,
    key: &str,
    adjustment: &Adjustment,
) -> Result<std::result::Result<Vec<StockLevel>, StockRefusal>> {
    let mut tx = crate::begin(pool).await?;
    let Adjustment { sku, location, delta, reason } = adjustment;
    let new = sqlx::query!(
        "insert into stock_adjustments (merchant_id, idempotency_key, sku, location, delta, reason)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        merchant.0,
        key,
        sku.as_str(),
        location.as_str(),
        delta,
        reason
    )
    .execute(&mut *tx)
    .await?;
    if new.rows_affected() == 0 {
        let same = sqlx::query_scalar!(
            r#"select (sku = $3 and location = $4 and delta = $5) as "same!" from stock_adjustments
               where merchant_id = $1 and idempotency_key = $2"#,
            merchant.0,
            key,
            sku.as_str(),
            location.as_str(),
            delta
        )
        .fetch_one(&mut *tx)
        .await?;
        // Ended before another connection is asked for: whoever holds one and waits for one can wait for ever.
        tx.rollback().await?;
        return Ok(if same { Ok(get(pool, merchant, sku).await?) } else { Err(StockRefusal::KeyReused) });
    }
    // Not an upsert: Postgres checks the row it would insert, and a row of fewer than no pieces never passes, even
    // where there is one to take them from.
    let changed = sqlx::query!(
        "update stock set available = available + $4, updated_at = now()
         where merchant_id = $1 and sku = $2 and location = $3",
        merchant.0,
        sku.as_str(),
        location.as_str(),
        delta
    )
    .execute(&mut *tx)
    .await;
    let mut new = false;
    let changed = match changed {
        Ok(done) if done.rows_affected() == 0 => {
            new = true;
            sqlx::query!(
                "insert into stock (merchant_id, sku, location, available) values ($1, $2, $3, $4)
                 on conflict (merchant_id, sku, location) do update
                   set available = stock.available + excluded.available, updated_at = now()",
                merchant.0,
                sku.as_str(),
                location.as_str(),
                delta
            )
            .execute(&mut *tx)
            .await
        }
        changed => changed,
    };
    match changed {
        Ok(_) => {}
        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(NUMERIC_OUT_OF_RANGE) => {
            return Ok(Err(StockRefusal::TooMany { location: location.as_str().to_owned() }));
        }
        Err(sqlx::Error::Database(e)) if e.constraint() == Some("stock_not_oversold") => {
            tx.rollback().await?;
            return below_reserved(pool, merchant, sku, location).await.map(Err);
        }
        Err(e) => return Err(StoreError::Database(e)),
    }
    let levels = get(&mut *tx, merchant, sku).await?;
    let here = levels.iter().find(|level| level.location == location.as_str());
    if *delta > 0 && here.is_some_and(|here| here.on_hand() > i64::from(PIECES_MAX)) {
        return Ok(Err(StockRefusal::TooMany { location: location.as_str().to_owned() }));
    }
    if new && levels.len() > LOCATIONS_MAX {
        return Ok(Err(StockRefusal::TooManyLocations));
    }
    tx.commit().await?;
    Ok(Ok(levels))
}

/// One SKU's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Books {
    /// What.
    pub sku: String,
    /// Where.
    pub location: String,
    /// `available + reserved + sold` of the stock row.
    pub pieces: i64,
    /// `reserved` of the stock row less what reservations say is held: 0 when the books agree.
    pub held_difference: i64,
    /// `sold` of the stock row less what reservations say was sold: 0 when the books agree.
    pub sold_difference: i64,
}

/// Compares every stock row with the reservations it should follow from.
///
/// # Errors
/// When Postgres fails.
pub async fn books(pool: &PgPool) -> Result<Vec<Books>> {
    Ok(sqlx::query_as!(
        Books,
        r#"select s.sku, s.location, (s.available + s.reserved + s.sold)::bigint as "pieces!",
             (s.reserved - coalesce(sum(r.quantity) filter (where r.state = 'held'), 0))::bigint as "held_difference!",
             (s.sold - coalesce(sum(r.quantity - r.missing - r.returned) filter (where r.state = 'sold'), 0))::bigint as "sold_difference!"
           from stock s left join reservations r
             on r.merchant_id = s.merchant_id and r.sku = s.sku and r.location = s.location
           group by s.merchant_id, s.sku, s.location order by s.sku, s.location"#
    )
    .fetch_all(pool)
    .await?)
}
