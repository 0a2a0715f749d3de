//! Records the outcome of a refund: in the ledger, the order and its timeline, and as attention if it failed.

use super::{RefundRecord, TIMELINE_WRITER, lock_order, read_refund};
use crate::{
    Result,
    orders::{
        attention::{self, AttentionRecord},
        projection,
    },
    payments::OperationKind,
};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use waybill_domain::{
    attention::AttentionReason,
    event::OrderEvent,
    refund::{RefundSource, RefundState},
};

/// Records a new state of the refund, once, and returns the current refund. A state that is not new is not written: see
/// [`RefundState::can_transition_to`].
///
/// # Errors
/// When Postgres fails, or there is no such refund.
pub async fn record_state(
    pool: &PgPool,
    refund: &RefundRecord,
    to: RefundState,
    provider_ref: Option<&str>,
    code: Option<&str>,
) -> Result<RefundRecord> {
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, refund.order_id).await?;
    let before = read_refund(&mut tx, refund.id).await?;
    if !advance_state(&mut tx, &before, to, provider_ref, code).await? {
        return Ok(before);
    }
    let after = read_refund(&mut tx, refund.id).await?;
    tx.commit().await?;
    Ok(after)
}

/// The same, within a transaction that has locked the order's row. Returns whether the state is new.
pub(super) async fn advance_state(
    tx: &mut PgConnection,
    before: &RefundRecord,
    to: RefundState,
    provider_ref: Option<&str>,
    code: Option<&str>,
) -> Result<bool> {
    if !before.state.can_transition_to(to) {
        return Ok(false);
    }
    sqlx::query!(
        "update refunds set state = $2, provider_ref = coalesce($3, provider_ref), code = $4, updated_at = now()
         where id = $1",
        before.id.0,
        to.as_str(),
        provider_ref,
        code
    )
    .execute(&mut *tx)
    .await?;
    update_ledger(tx, before, to, code).await?;
    append_event(tx, before, to, code).await?;
    Ok(true)
}

/// Updates the ledger and the order's refunded amount.
async fn update_ledger(
    tx: &mut PgConnection,
    before: &RefundRecord,
    to: RefundState,
    code: Option<&str>,
) -> Result<()> {
    let ledger = match to {
        RefundState::Requested | RefundState::Pending => return Ok(()),
        RefundState::Succeeded => "succeeded",
        RefundState::Failed => "declined",
    };
    sqlx::query!(
        "update payment_operations set state = $2, code = $3, updated_at = now() where key = $1",
        OperationKind::Refund(before.id).key(before.order_id),
        ledger,
        code
    )
    .execute(&mut *tx)
    .await?;
    let change = match (before.state, to) {
        (_, RefundState::Succeeded) => before.amount.minor(),
        (RefundState::Succeeded, _) => -before.amount.minor(),
        _ => return Ok(()),
    };
    sqlx::query!("update orders set refunded = refunded + $2 where id = $1", before.order_id.0, change)
        .execute(tx)
        .await?;
    Ok(())
}

/// Appends the event to the timeline, and raises or clears attention.
async fn append_event(
    tx: &mut PgConnection,
    before: &RefundRecord,
    to: RefundState,
    code: Option<&str>,
) -> Result<()> {
    let (refund_id, order) = (before.id, before.order_id);
    let code = code.unwrap_or_default().to_owned();
    // Without a source it was requested in Waybill, as were all refunds before provider refunds were recorded.
    let source = Some(before.source).filter(|source| *source == RefundSource::Provider);
    let event = match to {
        RefundState::Requested => return Ok(()),
        RefundState::Pending => {
            OrderEvent::RefundPending { refund_id, amount: source.map(|_| before.amount), source }
        }
        RefundState::Succeeded => OrderEvent::Refunded { refund_id, amount: before.amount, source },
        RefundState::Failed => OrderEvent::RefundFailed { refund_id, code: code.clone() },
    };
    projection::append(tx, order, TIMELINE_WRITER, &[event]).await?;
    let subject = refund_id.to_string();
    // The provider has responded, with either result.
    attention::clear(tx, order, AttentionReason::RefundFailing, Some(&subject)).await?;
    if to == RefundState::Failed {
        let detail = json!({"amount": before.amount, "code": code});
        let record = AttentionRecord { reason: AttentionReason::RefundFailed, subject, detail };
        attention::raise(tx, order, &record).await?;
    }
    Ok(())
}
