//! Disputes of charges, as reported by the payment provider. Deliberately absent: responding to one, which happens in
//! the provider's dashboard; the effect of a dispute on refunds, which is in [`waybill_domain::refundable`].

use crate::{
    Result,
    orders::{
        attention::{self, AttentionRecord},
        projection,
    },
    parse,
};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use waybill_domain::{attention::AttentionReason, event::OrderEvent, ids::OrderId, money::Amount};

/// The writer of disputes' entries in the timeline.
const TIMELINE_WRITER: &str = "dispute";

/// The provider's state of a dispute.
#[derive(Debug, Clone)]
pub struct DisputeUpdate {
    /// The provider's id of the dispute.
    pub id: String,
    /// The order of its payment.
    pub order_id: OrderId,
    /// The provider's id of the payment.
    pub payment: String,
    /// In minor units of the order's currency.
    pub amount: Amount,
    /// The provider's code for the reason.
    pub reason: String,
    /// The provider's status.
    pub status: String,
    /// The deadline for a response.
    pub due_by: Option<Timestamp>,
    /// Whether it has been decided; `status` has the outcome.
    pub closed: bool,
}

/// A dispute as stored in Postgres.
#[derive(Debug, Clone)]
pub struct DisputeRecord {
    /// The provider's id of the dispute.
    pub id: String,
    /// In minor units of the order's currency.
    pub amount: Amount,
    /// The provider's code for the reason.
    pub reason: String,
    /// The provider's status.
    pub status: String,
    /// The deadline for a response.
    pub due_by: Option<Timestamp>,
    /// When Waybill first received it.
    pub opened_at: Timestamp,
    /// When it was decided.
    pub closed_at: Option<Timestamp>,
}

/// Records the provider's state, together with the timeline and the attention. A duplicate changes nothing, and neither
/// does a late event, after the dispute was closed or an inquiry (`warning_…`) became a dispute. Returns whether
/// anything changed.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn record_update(pool: &PgPool, update: &DisputeUpdate) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    let order = update.order_id;
    sqlx::query!("select 1 as one from orders where id = $1 for update", order.0).fetch_one(&mut *tx).await?;
    let opened = insert(&mut tx, update).await?;
    let record = AttentionRecord {
        reason: AttentionReason::Disputed,
        subject: update.id.clone(),
        detail: json!({"amount": update.amount, "reason": update.reason, "due_by": update.due_by}),
    };
    if opened {
        let event = OrderEvent::DisputeOpened {
            dispute_id: update.id.clone(),
            amount: update.amount,
            reason: update.reason.clone(),
        };
        projection::append(&mut tx, order, TIMELINE_WRITER, &[event]).await?;
        attention::raise(&mut tx, order, &record).await?;
    }
    let changed = sqlx::query!(
        "update disputes set status = $2, due_by = coalesce($3, due_by),
           closed_at = case when $4 then now() end
         where id = $1 and closed_at is null
           and ($4 or status <> $2 and (starts_with(status, 'warning_') or not starts_with($2, 'warning_')))",
        update.id,
        update.status,
        update.due_by.map(|at| at.to_sqlx()) as _,
        update.closed
    )
    .execute(&mut *tx)
    .await?;
    let changed = changed.rows_affected() == 1;
    if changed && update.closed {
        let event =
            OrderEvent::DisputeClosed { dispute_id: update.id.clone(), outcome: update.status.clone() };
        projection::append(&mut tx, order, TIMELINE_WRITER, &[event]).await?;
        attention::clear(&mut tx, order, record.reason, Some(&record.subject)).await?;
    }
    tx.commit().await?;
    Ok(opened || changed)
}

/// Returns whether the dispute is new.
async fn insert(tx: &mut PgConnection, update: &DisputeUpdate) -> Result<bool> {
    let new = sqlx::query!(
        "insert into disputes (id, order_id, amount, reason, status, due_by, payment) values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (id) do nothing",
        update.id,
        update.order_id.0,
        update.amount.minor(),
        update.reason,
        update.status,
        update.due_by.map(|at| at.to_sqlx()) as _,
        update.payment
    )
    .execute(tx)
    .await?;
    Ok(new.rows_affected() == 1)
}

/// The order's disputes, oldest first. Scoped by the caller's earlier read of the order.
///
/// # Errors
/// When Postgres fails.
pub async fn find_by_order(pool: &PgPool, order: OrderId) -> Result<Vec<DisputeRecord>> {
    let rows = sqlx::query!(
        r#"select id, amount, reason, status, due_by as "due_by: jiff_sqlx::Timestamp",
             opened_at as "opened_at: jiff_sqlx::Timestamp", closed_at as "closed_at: jiff_sqlx::Timestamp"
           from disputes where order_id = $1 order by opened_at, id"#,
        order.0
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(DisputeRecord {
                id: r.id,
                amount: parse("amount", Amount::new(r.amount))?,
                reason: r.reason,
                status: r.status,
                due_by: r.due_by.map(jiff_sqlx::Timestamp::to_jiff),
                opened_at: r.opened_at.to_jiff(),
                closed_at: r.closed_at.map(jiff_sqlx::Timestamp::to_jiff),
            })
        })
        .collect()
}
