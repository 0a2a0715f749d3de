//! Operator actions: the audit records, and their effect on the payment ledger.

use crate::{Result, parse, payments::OperationKind};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_domain::{
    attention::AttentionReason,
    ids::{OrderId, ShipmentId},
    operator::OperatorAction,
};

/// The audit record of one operator action.
#[derive(Debug, Clone)]
pub struct OperatorActionRecord {
    /// Its id: the same id is recorded once.
    pub id: Uuid,
    /// The order.
    pub order_id: OrderId,
    /// The id of an API key, or `temporal`.
    pub actor: String,
    /// The action.
    pub action: OperatorAction,
    /// The attention reason that it applies to.
    pub attention: AttentionReason,
    /// For `resolve`: the reference at the provider or the carrier.
    pub reference: Option<String>,
    /// The operator's explanation.
    pub reason: String,
    /// The payment operation that it completes, if any.
    pub payment_operation: Option<OperationKind>,
    /// The shipment that it labels, if any: `reference` is its tracking number.
    pub labelled_shipment: Option<ShipmentId>,
}

/// Records an operator action. A resolved payment operation becomes succeeded in the ledger, with the operator's
/// reference; a skipped one becomes declined. A manually booked label becomes the shipment's label.
///
/// # Errors
/// When Postgres fails.
pub async fn record_action(pool: &PgPool, message: &OperatorActionRecord) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    insert_audit(&mut tx, message).await?;
    let ended = match message.action {
        OperatorAction::Retry => None,
        OperatorAction::Resolve => Some(("succeeded", None)),
        OperatorAction::Skip => Some(("declined", Some("skipped_by_operator"))),
    };
    if let (Some(kind), Some((state, code))) = (message.payment_operation, ended) {
        sqlx::query!(
            "update payment_operations set state = $2, code = $3, provider_ref = coalesce($4, provider_ref),
               updated_at = now()
             where key = $1 and state = 'pending'",
            kind.key(message.order_id),
            state,
            code,
            message.reference
        )
        .execute(&mut *tx)
        .await?;
    }
    if let (Some(OperationKind::Void), Some(_)) = (message.payment_operation, ended) {
        // The order's authorizations require no further operation.
        sqlx::query!(
            "update payment_operations set state = 'declined', code = 'order_undone', updated_at = now()
             where order_id = $1 and state = 'pending' and kind in ('authorize', 'void')",
            message.order_id.0
        )
        .execute(&mut *tx)
        .await?;
    }
    if let (Some(shipment), OperatorAction::Resolve) = (message.labelled_shipment, message.action) {
        sqlx::query!(
            "update shipments set tracking_number = $2 where id = $1 and label_id is null",
            shipment.0,
            message.reference
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The attention reason of the action with this id, if it was recorded.
///
/// # Errors
/// When Postgres fails.
pub async fn find_attention(pool: &PgPool, id: Uuid) -> Result<Option<AttentionReason>> {
    let about = sqlx::query_scalar!("select attention from operator_actions where id = $1", id);
    let about = about.fetch_optional(pool).await?;
    about.map(|reason| parse("attention reason", reason.parse())).transpose()
}

/// Inserts only the audit record. Returns whether it is new.
pub(crate) async fn insert_audit(tx: &mut PgConnection, message: &OperatorActionRecord) -> Result<bool> {
    let new = sqlx::query!(
        "insert into operator_actions (id, order_id, actor, action, attention, reference, reason)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing",
        message.id,
        message.order_id.0,
        message.actor,
        message.action.as_str(),
        message.attention.as_str(),
        message.reference,
        message.reason
    )
    .execute(tx)
    .await?;
    Ok(new.rows_affected() == 1)
}
