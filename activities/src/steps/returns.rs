//! A return's steps, all of them in Postgres. The outbox dispatcher starts the resulting refund's workflow.

use crate::{OrderSteps, retry::StepFailure};
use waybill_domain::{
    allocation::SHIPMENTS_MAX, ids::ReturnId, money::Amount, refundable::RefundRejection,
    returns::ReturnState,
};
use waybill_store::{
    refunds::{self, NewRefund, RefundRequestOutcome},
    returns::{self, ReturnRecord},
};
use waybill_workflows::after_sales::payloads::{ReturnExpected, ReturnOutcome, ReturnRef};

/// Returns the return of a step. It exists, because its workflow was started for it.
async fn find(steps: &OrderSteps, id: ReturnId) -> Result<ReturnRecord, StepFailure> {
    returns::get(&steps.pool, id).await?.ok_or_else(|| StepFailure::Permanent("return_not_found".into()))
}

pub(crate) async fn expect_return(
    steps: &OrderSteps,
    input: &ReturnRef,
) -> Result<ReturnExpected, StepFailure> {
    let seen_at = jiff::Timestamp::now();
    let record = find(steps, input.return_id).await?;
    returns::mark_started(&steps.pool, record.id, seen_at).await?;
    let received = record.state != ReturnState::Awaiting;
    // For a restarted workflow, part or all of the wait time has elapsed.
    let waited = jiff::Timestamp::now().duration_since(record.created_at).as_secs();
    let wait_seconds = steps.wait_times.return_seconds.saturating_sub(waited.max(0).unsigned_abs());
    Ok(ReturnExpected { wait_seconds, received })
}

pub(crate) async fn flag_overdue(steps: &OrderSteps, input: &ReturnRef) -> Result<(), StepFailure> {
    returns::flag_overdue(&steps.pool, &find(steps, input.return_id).await?).await?;
    steps.notifier.notify_order(input.order_id);
    Ok(())
}

pub(crate) async fn restock(steps: &OrderSteps, input: &ReturnRef) -> Result<(), StepFailure> {
    Ok(returns::restock(&steps.pool, &find(steps, input.return_id).await?).await?)
}

/// Requests the refund of the received items, unless their amount was already refunded or is disputed, and closes the
/// return.
pub(crate) async fn settle(steps: &OrderSteps, input: &ReturnRef) -> Result<ReturnOutcome, StepFailure> {
    let record = find(steps, input.return_id).await?;
    if record.state == ReturnState::Closed {
        // An earlier attempt closed it. This return does not refund an amount that became refundable since.
        return Ok(ReturnOutcome { refunded: requested_amount(steps, &record).await? });
    }
    let ReturnRefunds { refunded, disputed } = refund(steps, &record).await?;
    let received = record.lines.iter().any(|l| l.restocked + l.written_off > 0);
    let outcome = match (received, refunded.is_zero()) {
        (false, _) => "nothing_received",
        (true, true) if !disputed.is_zero() => "not_refunded_disputed",
        (true, true) => "nothing_left_to_refund",
        (true, false) => "refunded",
    };
    let disputed = Some(disputed).filter(|disputed| !disputed.is_zero());
    returns::close(&steps.pool, &record, outcome, disputed).await?;
    steps.notifier.notify_order(input.order_id);
    Ok(ReturnOutcome { refunded })
}

/// Returns the total of a return's refunds.
async fn requested_amount(steps: &OrderSteps, record: &ReturnRecord) -> Result<Amount, StepFailure> {
    let refunds = refunds::find_by_order(&steps.pool, record.order_id).await?;
    let of_return = refunds.iter().filter(|refund| refund.return_id == Some(record.id));
    Amount::sum(of_return.map(|refund| refund.amount)).map_err(|e| StepFailure::Permanent(e.to_string()))
}

/// The refunds that were requested for a return.
struct ReturnRefunds {
    refunded: Amount,
    /// The amount that is not refunded because it is disputed.
    disputed: Amount,
}

/// Requests the refunds of a return: for each captured payment, as much as can still be refunded.
async fn refund(steps: &OrderSteps, record: &ReturnRecord) -> Result<ReturnRefunds, StepFailure> {
    let mut missing = record.amount.unwrap_or_default();
    let mut refunds = ReturnRefunds { refunded: Amount::ZERO, disputed: Amount::ZERO };
    for part in 0..SHIPMENTS_MAX {
        let PartialRefund { requested, disputed } = refund_part(steps, record, part, missing).await?;
        refunds.disputed = disputed.min(missing);
        let Some(amount) = requested else { break };
        missing = missing.minus_or_zero(amount);
        refunds.refunded =
            refunds.refunded.plus(amount).map_err(|e| StepFailure::Permanent(e.to_string()))?;
    }
    Ok(refunds)
}

/// One of a return's refunds.
struct PartialRefund {
    /// None if nothing can be refunded.
    requested: Option<Amount>,
    /// The remainder of the captures that cannot be refunded because it is disputed.
    disputed: Amount,
}

/// Requests one refund, of at most `amount`.
async fn refund_part(
    steps: &OrderSteps,
    record: &ReturnRecord,
    part: usize,
    mut amount: Amount,
) -> Result<PartialRefund, StepFailure> {
    let mut disputed_now = Amount::ZERO;
    // Concurrent refunds only reduce the refundable amount. If one of them fails, it rises, and the loop requests it
    // again.
    while !amount.is_zero() {
        let new = NewRefund {
            id: record.id.refund_id(part),
            order_id: record.order_id,
            merchant_id: record.merchant_id,
            amount,
            reason: "return".into(),
            return_id: Some(record.id),
            request_key: None,
        };
        match refunds::request(&steps.pool, &new).await? {
            RefundRequestOutcome::Accepted(refund) => {
                return Ok(PartialRefund { requested: Some(refund.amount), disputed: disputed_now });
            }
            RefundRequestOutcome::Rejected(RefundRejection::MoreThanCaptured { left, disputed }) => {
                (amount, disputed_now) = (left, disputed);
            }
            RefundRequestOutcome::Rejected(RefundRejection::Disputed { max_refundable: most, disputed }) => {
                (amount, disputed_now) = (most, disputed);
            }
            RefundRequestOutcome::Rejected(RefundRejection::ExceedsEachPayment { max_refundable: most }) => {
                amount = most
            }
        }
    }
    Ok(PartialRefund { requested: None, disputed: disputed_now })
}
