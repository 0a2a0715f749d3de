//! The read model's only writer after an order was accepted: its workflow, through one idempotent statement.

use crate::{Result, StoreError, parse};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, types::Json};
use waybill_domain::{event::Entry, ids::OrderId, state::OrderState};

/// What a projection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The order's version now.
    pub version: i64,
    /// Whether something was written; a repetition writes nothing.
    pub written: bool,
}

/// Appends entries and takes over the state, once. `base_version` is what the workflow last knew.
///
/// Repeated with the same content it writes nothing and answers as before. With other content at the same base (a
/// workflow task that was lost after its projection, and took another way when it was run again) it appends behind
/// what was written: the workflow is the only writer, so what it says last is right, and nothing that a reader
/// may have seen is taken back.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn apply(
    pool: &PgPool,
    id: OrderId,
    base_version: i64,
    entries: &[Entry],
    state: &OrderState,
) -> Result<Applied> {
    let content = parse("a projection", serde_json::to_vec(&(base_version, entries, state)))?;
    let digest: &[u8] = &Sha256::digest(&content)[..16];
    let mut tx = pool.begin().await?;
    let version = sqlx::query_scalar!("select version from orders where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    let repeated = sqlx::query_scalar!(
        "select max(seq) from order_events where order_id = $1 and projection = $2",
        id.0,
        digest
    )
    .fetch_one(&mut *tx)
    .await?;
    if let Some(version) = repeated {
        return Ok(Applied { version, written: false });
    }
    let mut rows = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let value = parse("an event", serde_json::to_value(&entry.event))?;
        rows.0.push(value["type"].as_str().unwrap_or_default().to_owned());
        rows.1.push(entry.status.as_str().to_owned());
        rows.2.push(value["data"].clone());
    }
    let (kinds, statuses, data) = rows;
    sqlx::query!(
        "insert into order_events (order_id, seq, type, status, data, projection)
         select $1, $2 + n, kind, status, data, $6
         from unnest($3::text[], $4::text[], $5::jsonb[]) with ordinality as e (kind, status, data, n)",
        id.0,
        version,
        &kinds,
        &statuses,
        &data,
        digest
    )
    .execute(&mut *tx)
    .await?;
    let version = version + i64::try_from(entries.len()).unwrap_or(i64::MAX);
    sqlx::query!(
        "update orders set status = $2, outcome = $3, payment_status = $4, attention = $5, authorized = $6,
           captured = $7, refunded = $8, line_states = $9, shipments = $10, version = $11,
           workflow_started_at = coalesce(workflow_started_at, now()), updated_at = now()
         where id = $1",
        id.0,
        state.status.as_str(),
        state.outcome.map(|o| o.as_str()),
        state.payment_status.as_str(),
        state.attention.map(|a| a.as_str()),
        state.authorized.minor(),
        state.captured.minor(),
        state.refunded.minor(),
        (!state.lines.is_empty()).then_some(Json(&state.lines)) as _,
        Json(&state.shipments) as _,
        version
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Applied { version, written: true })
}
