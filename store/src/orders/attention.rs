//! Attention records: why an order requires operator attention for reasons outside its workflow, which may have ended.
//! `orders.concern` has the latest open one, so that the query for orders that require attention finds them too.

use crate::{
    Result,
    inbox::{self, Message},
    orders::{
        operator_actions::{self, OperatorActionRecord},
        projection,
    },
    parse,
};
use serde::Deserialize;
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{
    attention::{AttentionItem, AttentionReason, clear_attention_item},
    event::OrderEvent,
    ids::OrderId,
    status::OrderStatus,
};

/// One attention record.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct AttentionRecord {
    /// The reason.
    pub reason: AttentionReason,
    /// The subject: the id of a refund, a return, a dispute, a drift, a shipment.
    pub subject: String,
    /// The details.
    pub detail: serde_json::Value,
}

/// Raises attention. Writes one record per reason and subject, and an event; a cleared record is raised again. Returns
/// whether it was raised by this call.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn raise(tx: &mut PgConnection, order: OrderId, record: &AttentionRecord) -> Result<bool> {
    // Locks the order's row first: all writers to its timeline serialize on it.
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0)
        .fetch_optional(&mut *tx)
        .await?;
    let new = sqlx::query!(
        "insert into concerns (order_id, reason, subject, detail) values ($1, $2, $3, $4)
         on conflict (order_id, reason, subject) do update
           set detail = excluded.detail, raised_at = now(), cleared_at = null
         where concerns.cleared_at is not null",
        order.0,
        record.reason.as_str(),
        record.subject,
        Json(&record.detail) as _
    )
    .execute(&mut *tx)
    .await?;
    if new.rows_affected() == 0 {
        return Ok(false);
    }
    let event = OrderEvent::AttentionRaised { reason: record.reason, step: record.subject.clone() };
    projection::append(tx, order, "concern", &[event]).await?;
    update_latest_reason(tx, order).await?;
    Ok(true)
}

/// Like [`raise`], but never again for the same subject: a record that an operator has dismissed stays dismissed.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn raise_once(tx: &mut PgConnection, order: OrderId, record: &AttentionRecord) -> Result<bool> {
    let known = sqlx::query_scalar!(
        r#"select exists (select from concerns where order_id = $1 and reason = $2 and subject = $3) as "known!""#,
        order.0,
        record.reason.as_str(),
        record.subject
    )
    .fetch_one(&mut *tx)
    .await?;
    if known { Ok(false) } else { raise(tx, order, record).await }
}

/// Updates the detail of an open record. Within a transaction that has locked the order's row.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn update(tx: &mut PgConnection, order: OrderId, record: &AttentionRecord) -> Result<()> {
    sqlx::query!(
        "update concerns set detail = $4
         where order_id = $1 and reason = $2 and subject = $3 and cleared_at is null",
        order.0,
        record.reason.as_str(),
        record.subject,
        Json(&record.detail) as _
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Like [`raise`], in its own transaction.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn raise_committed(pool: &PgPool, order: OrderId, record: &AttentionRecord) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    let new = raise(&mut tx, order, record).await?;
    tx.commit().await?;
    Ok(new)
}

/// Like [`clear`], in its own transaction. Takes no lock if there is nothing to clear.
///
/// # Errors
/// When Postgres fails.
pub async fn clear_if_raised(
    pool: &PgPool,
    order: OrderId,
    reason: AttentionReason,
    subject: &str,
) -> Result<bool> {
    let raised = sqlx::query_scalar!(
        r#"select exists (select from concerns
             where order_id = $1 and reason = $2 and subject = $3 and cleared_at is null) as "raised!""#,
        order.0,
        reason.as_str(),
        subject
    )
    .fetch_one(pool)
    .await?;
    if !raised {
        return Ok(false);
    }
    let mut tx = crate::begin(pool).await?;
    let cleared = clear(&mut tx, order, reason, Some(subject)).await?;
    tx.commit().await?;
    Ok(cleared)
}

/// Clears the open records with this subject, or all with the reason. Returns whether there were any.
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
    update_latest_reason(tx, order).await?;
    Ok(true)
}

/// Clears attention items that the workflow of an ended order left open: those with this subject or, without one, all
/// with the reason. Returns whether there were any. Does nothing while the order is open, because its workflow owns the
/// items.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub(crate) async fn clear_of_ended_workflow(
    tx: &mut PgConnection,
    order: OrderId,
    reason: AttentionReason,
    about: Option<&str>,
) -> Result<bool> {
    let row = sqlx::query!(
        r#"select status, needs as "needs: Json<Vec<AttentionItem>>" from orders where id = $1 for update"#,
        order.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let status: OrderStatus = parse("order status", row.status.parse())?;
    let mut needs = row.needs.map_or_else(Vec::new, |needs| needs.0);
    if !status.is_terminal() || !clear_attention_item(&mut needs, reason, about) {
        return Ok(false);
    }
    sqlx::query!(
        "update orders set needs = $2, attention = $3 where id = $1",
        order.0,
        (!needs.is_empty()).then_some(Json(&needs)) as _,
        needs.last().map(|item| item.reason.as_str())
    )
    .execute(&mut *tx)
    .await?;
    projection::append(tx, order, "concern", &[OrderEvent::AttentionCleared { reason }]).await?;
    Ok(true)
}

/// Applies an operator's action to attention that no workflow handles, for this subject or for all subjects with the
/// reason: writes the audit record and the event and clears the attention, in one transaction. Returns whether there
/// was any; if not, it writes nothing.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn apply_operator_action(
    pool: &PgPool,
    command: &OperatorActionRecord,
    subject: Option<&str>,
) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    let cleared = clear(&mut tx, command.order_id, command.attention, subject).await?;
    let left_behind = clear_of_ended_workflow(&mut tx, command.order_id, command.attention, subject).await?;
    if !cleared && !left_behind {
        return Ok(false);
    }
    operator_actions::insert_audit(&mut tx, command).await?;
    projection::append(&mut tx, command.order_id, "operator", &[operator_event(command)]).await?;
    tx.commit().await?;
    Ok(true)
}

/// Records that an operator retries steps of refunds or returns, together with the messages for their workflows. Clears
/// nothing: the steps do that when they succeed. A duplicate request changes nothing.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn record_retry(pool: &PgPool, command: &OperatorActionRecord, messages: &[Message]) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    sqlx::query!("select 1 as one from orders where id = $1 for update", command.order_id.0)
        .fetch_one(&mut *tx)
        .await?;
    if !operator_actions::insert_audit(&mut tx, command).await? {
        return Ok(());
    }
    projection::append(&mut tx, command.order_id, "operator", &[operator_event(command)]).await?;
    for message in messages {
        inbox::store_message(&mut *tx, message).await?;
    }
    tx.commit().await?;
    Ok(())
}

fn operator_event(command: &OperatorActionRecord) -> OrderEvent {
    OrderEvent::OperatorActed {
        action: command.action.as_str().to_owned(),
        attention: command.attention,
        reason: command.reason.clone(),
        reference: command.reference.clone(),
    }
}

async fn update_latest_reason(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!(
        "update orders set concern = (
           select reason from concerns where order_id = $1 and cleared_at is null
           order by raised_at desc, reason desc, subject desc limit 1)
         where id = $1",
        order.0
    )
    .execute(tx)
    .await?;
    Ok(())
}
