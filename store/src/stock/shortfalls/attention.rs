//! Attention for short orders: derived from their reservations, so that it is correct after any change of those.

use crate::{
    Result,
    orders::{
        attention::{self, AttentionRecord},
        projection,
    },
};
use serde_json::json;
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{
    attention::AttentionReason,
    event::{LineQuantity, OrderEvent},
    ids::{OrderId, ShipmentId},
};

const REASON: AttentionReason = AttentionReason::StockShortfall;
/// The writer of these entries in the timeline.
const TIMELINE_WRITER: &str = "stock";
/// The step of an attention record that the order's workflow can resolve: the shipment has not left. The query of
/// [`find_outdated`] repeats it.
const STEP: &str = "reserve";

/// Orders whose attention records do not match their reservations, at most `limit`.
///
/// # Errors
/// When Postgres fails.
pub async fn find_outdated(pool: &PgPool, limit: u16) -> Result<Vec<OrderId>> {
    let orders = sqlx::query_scalar!(
        r#"with short as (
             select order_id, shipment_id::text as subject, bool_or(state = 'sold') as has_left,
               jsonb_agg(jsonb_build_object('line', line, 'quantity', short) order by line) as missing
             from reservations where short > 0 group by order_id, shipment_id
           ), raised as (
             select order_id, subject, detail -> 'missing' as missing from concerns
             where reason = 'stock_shortfall' and cleared_at is null and detail ->> 'step' = 'reserve'
           )
           select distinct order_id as "order_id!" from short full join raised using (order_id, subject)
           where short.subject is null or raised.subject is null or short.has_left
             or short.missing is distinct from raised.missing
           limit $1"#,
        i64::from(limit)
    )
    .fetch_all(pool)
    .await?;
    Ok(orders.into_iter().map(OrderId).collect())
}

/// A shipment of the order that is short, or that left while it was short.
struct ShortShipmentRow {
    shipment: ShipmentId,
    location: String,
    has_left: bool,
    missing: Vec<LineQuantity>,
}

/// Raises, updates and clears the order's attention records about missing items, with entries in its timeline. Returns
/// whether anything changed; a retry changes nothing.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn update_order_attention(pool: &PgPool, order: OrderId) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    // Locks the order's row before its reservations: all writers to its timeline serialize on it.
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0).fetch_one(&mut *tx).await?;
    let short = read(&mut tx, order).await?;
    let mut changed = false;
    for shipment in &short {
        changed |= update_attention(&mut tx, order, shipment).await?;
    }
    let raised = sqlx::query_scalar!(
        "select subject from concerns
         where order_id = $1 and reason = $2 and cleared_at is null and detail ->> 'step' = $3",
        order.0,
        REASON.as_str(),
        STEP
    )
    .fetch_all(&mut *tx)
    .await?;
    for subject in raised {
        if !short.iter().any(|s| s.shipment.to_string() == subject) {
            changed |= attention::clear(&mut tx, order, REASON, Some(&subject)).await?;
        }
    }
    tx.commit().await?;
    Ok(changed)
}

async fn read(tx: &mut PgConnection, order: OrderId) -> Result<Vec<ShortShipmentRow>> {
    let rows = sqlx::query!(
        r#"select shipment_id, location, bool_or(state = 'sold') as "has_left!",
             jsonb_agg(jsonb_build_object('line', line, 'quantity', short) order by line) as "missing!: Json<Vec<LineQuantity>>"
           from reservations where order_id = $1 and short > 0 group by shipment_id, location order by shipment_id"#,
        order.0
    )
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ShortShipmentRow {
            shipment: ShipmentId(row.shipment_id),
            location: row.location,
            has_left: row.has_left,
            missing: row.missing.0,
        })
        .collect())
}

async fn update_attention(tx: &mut PgConnection, order: OrderId, short: &ShortShipmentRow) -> Result<bool> {
    let ShortShipmentRow { shipment, location, has_left, missing } = short;
    let detail = match has_left {
        // Without a step: nothing remains to be served, and an operator resolves it after a stock count.
        true => json!({"location": location, "missing": missing, "has_left": true}),
        false => json!({"step": STEP, "location": location, "missing": missing}),
    };
    let open = sqlx::query_scalar!(
        "select detail from concerns
         where order_id = $1 and reason = $2 and subject = $3 and cleared_at is null",
        order.0,
        REASON.as_str(),
        shipment.to_string()
    )
    .fetch_optional(&mut *tx)
    .await?;
    if open.as_ref() == Some(&detail) {
        return Ok(false);
    }
    let (shipment_id, missing) = (*shipment, missing.clone());
    let event = match has_left {
        true => OrderEvent::LeftWithMissingItems { shipment_id, missing },
        false => OrderEvent::Shortfall { shipment_id, missing },
    };
    projection::append(tx, order, TIMELINE_WRITER, &[event]).await?;
    let subject = shipment.to_string();
    if open.is_none() {
        attention::raise(tx, order, &AttentionRecord { reason: REASON, subject, detail }).await?;
    } else {
        attention::update(tx, order, &AttentionRecord { reason: REASON, subject, detail }).await?;
    }
    if *has_left {
        // The timeline has the event, and `missing` has the quantity.
        sqlx::query!(
            "update reservations set short = 0 where order_id = $1 and shipment_id = $2 and state = 'sold'",
            order.0,
            shipment.0
        )
        .execute(tx)
        .await?;
    }
    Ok(true)
}
