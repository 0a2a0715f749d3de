//! Why somebody is needed for an order, where it is not its workflow that says so: the workflow may have ended long
//! ago. `orders.concern` has the latest open one, so that such orders are found like the others that need somebody.

use crate::{
    Result,
    operations::{self, OperatorWord},
    parse, projection,
};
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{event::OrderEvent, ids::OrderId, state::AttentionReason};

/// One thing that somebody is needed for.
#[derive(Debug, Clone, PartialEq)]
pub struct Concern {
    /// Why.
    pub reason: AttentionReason,
    /// What it is about: the id of a refund, a return, a dispute, a drift.
    pub subject: String,
    /// What is known.
    pub detail: serde_json::Value,
}

/// Somebody is needed. Written once per reason and subject, also to the timeline; one that was cleared is raised again.
/// Says whether it is news.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn raise(tx: &mut PgConnection, order: OrderId, concern: &Concern) -> Result<bool> {
    // The order's row first: whoever appends to its timeline takes turns there.
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0)
        .fetch_optional(&mut *tx)
        .await?;
    let new = sqlx::query!(
        "insert into concerns (order_id, reason, subject, detail) values ($1, $2, $3, $4)
         on conflict (order_id, reason, subject) do update
           set detail = excluded.detail, raised_at = now(), cleared_at = null
         where concerns.cleared_at is not null",
        order.0,
        concern.reason.as_str(),
        concern.subject,
        Json(&concern.detail) as _
    )
    .execute(&mut *tx)
    .await?;
    if new.rows_affected() == 0 {
        return Ok(false);
    }
    let event = OrderEvent::AttentionRaised { reason: concern.reason, step: concern.subject.clone() };
    projection::append(tx, order, "concern", &[event]).await?;
    show_latest(tx, order).await?;
    Ok(true)
}

/// What somebody was needed for is settled: of this subject, or of every subject with the reason. Says whether there
/// was such a thing.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn clear(
    tx: &mut PgConnection,
    order: OrderId,
    reason: AttentionReason,
    subject: Option<&str>,
) -> Result<bool> {
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0)
        .fetch_optional(&mut *tx)
        .await?;
    let cleared = sqlx::query!(
        "update concerns set cleared_at = now()
         where order_id = $1 and reason = $2 and ($3::text is null or subject = $3) and cleared_at is null",
        order.0,
        reason.as_str(),
        subject
    )
    .execute(&mut *tx)
    .await?;
    if cleared.rows_affected() == 0 {
        return Ok(false);
    }
    projection::append(tx, order, "concern", &[OrderEvent::AttentionCleared { reason }]).await?;
    show_latest(tx, order).await?;
    Ok(true)
}

/// What an operator did about concerns with a reason: written down, told, and the concerns cleared, together. Says
/// whether there was such a concern; if not, nothing is written.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn operate(pool: &PgPool, word: &OperatorWord) -> Result<bool> {
    let mut tx = pool.begin().await?;
    if !clear(&mut tx, word.order_id, word.attention, None).await? {
        return Ok(false);
    }
    operations::write(&mut tx, word).await?;
    let acted = OrderEvent::OperatorActed {
        action: word.action.as_str().to_owned(),
        attention: word.attention,
        reason: word.reason.clone(),
        reference: word.reference.clone(),
    };
    projection::append(&mut tx, word.order_id, "operator", &[acted]).await?;
    tx.commit().await?;
    Ok(true)
}

async fn show_latest(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!(
        "update orders set concern = (
           select reason from concerns where order_id = $1 and cleared_at is null order by raised_at desc limit 1)
         where id = $1",
        order.0
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Everything that is open, the oldest first.
///
/// # Errors
/// When Postgres fails.
pub async fn open(tx: &mut PgConnection, order: OrderId) -> Result<Vec<Concern>> {
    let rows = sqlx::query!(
        "select reason, subject, detail from concerns where order_id = $1 and cleared_at is null order by raised_at",
        order.0
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|r| {
            let reason = parse("an attention reason", r.reason.parse())?;
            Ok(Concern { reason, subject: r.subject, detail: r.detail })
        })
        .collect()
}
