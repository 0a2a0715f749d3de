//! What operators did: the audit, and what it means for the payment ledger.

use crate::{Result, parse, payments::OperationKind};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_domain::{
    ids::{OrderId, ShipmentId},
    operator::OperatorAction,
    state::AttentionReason,
};

/// One thing that an operator did.
#[derive(Debug, Clone)]
pub struct OperatorActionRecord {
    /// Names it: the same id counts once.
    pub id: Uuid,
    /// The order.
    pub order_id: OrderId,
    /// The id of an API key, or `temporal`.
    pub actor: String,
    /// What was done.
    pub action: OperatorAction,
    /// About what.
    pub attention: AttentionReason,
    /// Of `resolve`: under which number it was done by other means.
    pub reference: Option<String>,
    /// In the operator's words.
    pub reason: String,
    /// The payment operation that it ends, if it ends one.
    pub payment_operation: Option<OperationKind>,
    /// The shipment that it gives a label, if it gives one: `reference` is its tracking number.
    pub labelled_shipment: Option<ShipmentId>,
}

/// Writes down what an operator did. What they resolved counts as done in the payment ledger, under their reference;
/// what they skipped counts as declined. A label that they booked counts as the shipment's.
///
/// # Errors
/// When Postgres fails.
pub async fn record_action(pool: &PgPool, word: &OperatorActionRecord) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    insert_audit(&mut tx, word).await?;
    let ended = match word.action {
        OperatorAction::Retry => None,
        OperatorAction::Resolve => Some(("succeeded", None)),
        OperatorAction::Skip => Some(("declined", Some("skipped_by_operator"))),
    };
    if let (Some(kind), Some((state, code))) = (word.payment_operation, ended) {
        sqlx::query!(
            "update payment_operations set state = $2, code = $3, provider_ref = coalesce($4, provider_ref),
               updated_at = now()
             where key = $1 and state = 'pending'",
            kind.key(word.order_id),
            state,
            code,
            word.reference
        )
        .execute(&mut *tx)
        .await?;
    }
    if let (Some(OperationKind::Void), Some(_)) = (word.payment_operation, ended) {
        // Nothing else is done about the order's holds.
        sqlx::query!(
            "update payment_operations set state = 'declined', code = 'order_undone', updated_at = now()
             where order_id = $1 and state = 'pending' and kind in ('authorize', 'void')",
            word.order_id.0
        )
        .execute(&mut *tx)
        .await?;
    }
    if let (Some(shipment), OperatorAction::Resolve) = (word.labelled_shipment, word.action) {
        sqlx::query!(
            "update shipments set tracking_number = $2 where id = $1 and label_id is null",
            shipment.0,
            word.reference
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// What the word of this id was about, if it was written down.
///
/// # Errors
/// When Postgres fails.
pub async fn find_attention(pool: &PgPool, id: Uuid) -> Result<Option<AttentionReason>> {
    let about = sqlx::query_scalar!("select attention from operator_actions where id = $1", id);
    let about = about.fetch_optional(pool).await?;
    about.map(|reason| parse("an attention reason", reason.parse())).transpose()
}

/// The audit alone. Says whether it is new.
pub(crate) async fn insert_audit(tx: &mut PgConnection, word: &OperatorActionRecord) -> Result<bool> {
    let new = sqlx::query!(
        "insert into operator_actions (id, order_id, actor, action, attention, reference, reason)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing",
        word.id,
        word.order_id.0,
        word.actor,
        word.action.as_str(),
        word.attention.as_str(),
        word.reference,
        word.reason
    )
    .execute(tx)
    .await?;
    Ok(new.rows_affected() == 1)
}
