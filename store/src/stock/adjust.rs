//! Sets and adjusts the quantity on hand.

use super::{LOCATIONS_MAX, StockLevel, StockRejection, UNITS_MAX, get};
use crate::{Result, StoreError, stock::shortfalls};
use sqlx::{PgConnection, PgPool};
use waybill_domain::ids::{Location, MerchantId, Sku};

/// Postgres' code for a number that its column can't hold (PostgreSQL manual, appendix A).
const NUMERIC_OUT_OF_RANGE: &str = "22003";

/// Sets the quantity on hand at each of these locations, atomically; other locations do not change. A quantity below
/// the reserved one requires `allow_shortfall`: then the newest orders are short.
///
/// # Errors
/// When Postgres fails.
pub async fn put(
    pool: &PgPool,
    merchant: MerchantId,
    sku: &Sku,
    on_hand: &[(Location, i32)],
    allow_shortfall: bool,
) -> Result<std::result::Result<Vec<StockLevel>, StockRejection>> {
    let mut tx = crate::begin(pool).await?;
    // All writers lock rows in the same sequence, to avoid deadlocks.
    let mut on_hand = on_hand.to_vec();
    on_hand.sort();
    let mut new = false;
    for (location, units) in &on_hand {
        let short_before = lock_stock_row(&mut tx, merchant, sku, location).await?.unwrap_or_default();
        // Reservations stay; the stock on hand covers them first. An inserted row has no `xmax`.
        let row = sqlx::query!(
            r#"insert into stock (merchant_id, sku, location, available) values ($1, $2, $3, $4)
             on conflict (merchant_id, sku, location) do update
               set available = greatest(excluded.available - stock.reserved - stock.short, 0),
                 reserved = least(stock.reserved + stock.short, excluded.available),
                 short = greatest(stock.reserved + stock.short - excluded.available, 0), updated_at = now()
             returning short, xmax = '0' as "is_new!""#,
            merchant.0,
            sku.as_str(),
            location.as_str(),
            units
        )
        .fetch_one(&mut *tx)
        .await?;
        if row.short > short_before && !allow_shortfall {
            tx.rollback().await?;
            return below_reserved_error(pool, merchant, sku, location).await.map(Err);
        }
        if row.short != short_before {
            shortfalls::assign_to_newest_orders(&mut tx, merchant, sku.as_str(), location.as_str()).await?;
        }
        new |= row.is_new;
    }
    let levels = get(&mut *tx, merchant, sku).await?;
    if new && levels.len() > LOCATIONS_MAX {
        return Ok(Err(StockRejection::TooManyLocations));
    }
    tx.commit().await?;
    Ok(Ok(levels))
}

/// Locks a stock row, and returns how many items are short there; none if there is no such row.
async fn lock_stock_row(
    tx: &mut PgConnection,
    merchant: MerchantId,
    sku: &Sku,
    location: &Location,
) -> Result<Option<i32>> {
    Ok(sqlx::query_scalar!(
        "select short from stock where merchant_id = $1 and sku = $2 and location = $3 for update",
        merchant.0,
        sku.as_str(),
        location.as_str()
    )
    .fetch_optional(tx)
    .await?)
}

/// The rejection of a change below the reserved quantity, with the stock after the rollback.
async fn below_reserved_error(
    pool: &PgPool,
    merchant: MerchantId,
    sku: &Sku,
    location: &Location,
) -> Result<StockRejection> {
    let levels = get(pool, merchant, sku).await?;
    let here = levels.iter().find(|level| level.location == location.as_str());
    Ok(StockRejection::BelowReserved {
        location: location.as_str().to_owned(),
        on_hand: here.map_or(0, StockLevel::on_hand),
        reserved: here.map_or(0, |level| level.reserved),
    })
}

/// A change of the quantity on hand.
#[derive(Debug, Clone)]
pub struct Adjustment {
    /// The SKU.
    pub sku: Sku,
    /// The location.
    pub location: Location,
    /// The number of units to add or, if negative, to remove.
    pub delta: i32,
    /// The merchant's reason.
    pub reason: String,
    /// Whether the quantity on hand may fall below the reserved quantity.
    pub allow_shortfall: bool,
}

/// Adds to or subtracts from the quantity on hand, once per key. Added units cover a shortfall first.
///
/// # Errors
/// When Postgres fails.
pub async fn adjust(
    pool: &PgPool,
    merchant: MerchantId,
    key: &str,
    adjustment: &Adjustment,
) -> Result<std::result::Result<Vec<StockLevel>, StockRejection>> {
    let mut tx = crate::begin(pool).await?;
    let Adjustment { sku, location, delta, allow_shortfall, .. } = adjustment;
    if !insert_adjustment(&mut tx, merchant, key, adjustment).await? {
        let same = is_same_adjustment(&mut tx, merchant, key, adjustment).await?;
        // Ends the transaction before another connection is acquired: a task that holds one connection and waits for
        // another can wait indefinitely.
        tx.rollback().await?;
        return Ok(if same { Ok(get(pool, merchant, sku).await?) } else { Err(StockRejection::KeyReused) });
    }
    let short_before = lock_stock_row(&mut tx, merchant, sku, location).await?.unwrap_or_default();
    let (short, new) = match apply_delta(&mut tx, merchant, adjustment).await {
        Ok(changed) => changed,
        Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(NUMERIC_OUT_OF_RANGE) => {
            return Ok(Err(StockRejection::QuantityTooLarge { location: location.as_str().to_owned() }));
        }
        Err(sqlx::Error::Database(e)) if e.constraint() == Some("stock_not_oversold") => {
            tx.rollback().await?;
            return below_reserved_error(pool, merchant, sku, location).await.map(Err);
        }
        Err(e) => return Err(StoreError::Database(e)),
    };
    if short > short_before && !allow_shortfall {
        tx.rollback().await?;
        return below_reserved_error(pool, merchant, sku, location).await.map(Err);
    }
    if short != short_before {
        shortfalls::assign_to_newest_orders(&mut tx, merchant, sku.as_str(), location.as_str()).await?;
    }
    let levels = get(&mut *tx, merchant, sku).await?;
    let here = levels.iter().find(|level| level.location == location.as_str());
    if *delta > 0 && here.is_some_and(|here| here.on_hand() > i64::from(UNITS_MAX)) {
        return Ok(Err(StockRejection::QuantityTooLarge { location: location.as_str().to_owned() }));
    }
    if new && levels.len() > LOCATIONS_MAX {
        return Ok(Err(StockRejection::TooManyLocations));
    }
    tx.commit().await?;
    Ok(Ok(levels))
}

/// Inserts an adjustment. Returns whether its key is new.
async fn insert_adjustment(
    tx: &mut PgConnection,
    merchant: MerchantId,
    key: &str,
    adjustment: &Adjustment,
) -> Result<bool> {
    let Adjustment { sku, location, delta, reason, .. } = adjustment;
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
    .execute(tx)
    .await?;
    Ok(new.rows_affected() == 1)
}

/// Returns whether the key was used for the same adjustment.
async fn is_same_adjustment(
    tx: &mut PgConnection,
    merchant: MerchantId,
    key: &str,
    adjustment: &Adjustment,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select (sku = $3 and location = $4 and delta = $5) as "same!" from stock_adjustments
           where merchant_id = $1 and idempotency_key = $2"#,
        merchant.0,
        key,
        adjustment.sku.as_str(),
        adjustment.location.as_str(),
        adjustment.delta
    )
    .fetch_one(tx)
    .await?)
}

/// Updates the row. Returns how many items are short there now, and whether the row is new.
async fn apply_delta(
    tx: &mut PgConnection,
    merchant: MerchantId,
    Adjustment { sku, location, delta, .. }: &Adjustment,
) -> std::result::Result<(i32, bool), sqlx::Error> {
    // Not an upsert: Postgres checks the row it would insert, and a row with a negative quantity never passes, even if
    // the existing row has enough.
    let short = sqlx::query_scalar!(
        "update stock set available = greatest(available + $4 - short, 0),
           reserved = least(reserved + short, available + reserved + $4),
           short = greatest(short - available - $4, 0), updated_at = now()
         where merchant_id = $1 and sku = $2 and location = $3 returning short",
        merchant.0,
        sku.as_str(),
        location.as_str(),
        delta
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(short) = short {
        return Ok((short, false));
    }
    // A concurrent transaction may have inserted it in the meantime; then it is new, and nothing of it is short.
    sqlx::query!(
        "insert into stock (merchant_id, sku, location, available) values ($1, $2, $3, $4)
         on conflict (merchant_id, sku, location) do update
           set available = stock.available + excluded.available, updated_at = now()",
        merchant.0,
        sku.as_str(),
        location.as_str(),
        delta
    )
    .execute(tx)
    .await?;
    Ok((0, true))
}
