//! A return's steps: all of them in Postgres. The refund that follows is started by the pump.

use crate::{OrderSteps, retry::StepFailure};
use waybill_domain::{allocation::SHIPMENTS_MAX, ids::ReturnId, money::Amount, returns::ReturnState};
use waybill_store::{
    refunds::{self, NewRefund, Requested},
    returns::{self, ReturnRecord},
};
use waybill_workflows::after::wire::{ReturnExpected, ReturnOutcome, ReturnRef};

/// The return a step is about. Its workflow was started for it, so it is there.
async fn find(steps: &OrderSteps, id: ReturnId) -> Result<ReturnRecord, StepFailure> {
    returns::get(&steps.pool, id).await?.ok_or_else(|| StepFailure::Refused("return_not_found".into()))
}

pub(crate) async fn expect(steps: &OrderSteps, input: &ReturnRef) -> Result<ReturnExpected, StepFailure> {
    let record = find(steps, input.return_id).await?;
    returns::mark_started(&steps.pool, record.id).await?;
    let received = record.state != ReturnState::Awaiting;
    // Of a workflow that begins anew a part is over, or all of it.
    let waited = jiff::Timestamp::now().duration_since(record.created_at).as_secs();
    let wait_seconds = steps.waits.return_seconds.saturating_sub(waited.max(0).unsigned_abs());
    Ok(ReturnExpected { wait_seconds, received })
}

pub(crate) async fn overdue(steps: &OrderSteps, input: &ReturnRef) -> Result<(), StepFailure> {
    returns::overdue(&steps.pool, &find(steps, input.return_id).await?).await?;
    steps.notifier.changed(input.order_id);
    Ok(())
}

pub(crate) async fn restock(steps: &OrderSteps, input: &ReturnRef) -> Result<(), StepFailure> {
    Ok(returns::restock(&steps.pool, &find(steps, input.return_id).await?).await?)
}

/// Has the pieces refunded, as far as their money was not given back before, and closes the return.
pub(crate) async fn settle(steps: &OrderSteps, input: &ReturnRef) -> Result<ReturnOutcome, StepFailure> {
    let record = find(steps, input.return_id).await?;
    let refunded = refund(steps, &record).await?;
    let received = record.lines.iter().any(|l| l.restocked + l.written_off > 0);
    let outcome = match (received, refunded.is_zero()) {
        (false, _) => "nothing_received",
        (true, true) => "nothing_left_to_refund",
        (true, false) => "refunded",
    };
    returns::close(&steps.pool, &record, outcome).await?;
    steps.notifier.changed(input.order_id);
    Ok(ReturnOutcome { refunded })
}

/// Asks for the refunds of a return: of each payment that it was captured of as much as is left there.
async fn refund(steps: &OrderSteps, record: &ReturnRecord) -> Result<Amount, StepFailure> {
    let (mut missing, mut refunded) = (record.amount.unwrap_or_default(), Amount::ZERO);
    for part in 0..SHIPMENTS_MAX {
        let Some(amount) = refund_part(steps, record, part, missing).await? else { break };
        missing = missing.minus_or_zero(amount);
        refunded = refunded.plus(amount).map_err(|e| StepFailure::Refused(e.to_string()))?;
    }
    Ok(refunded)
}

/// Asks for one of them, of at most `amount`. None if nothing is left to be refunded.
async fn refund_part(
    steps: &OrderSteps,
    record: &ReturnRecord,
    part: usize,
    mut amount: Amount,
) -> Result<Option<Amount>, StepFailure> {
    // What is left only becomes less while others refund, unless a refund fails: then it is asked for once more.
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
            Requested::Accepted(refund) => return Ok(Some(refund.amount)),
            Requested::MoreThanCaptured { left } => amount = left,
            Requested::MoreThanOnePayment { most } => amount = most,
        }
    }
    Ok(None)
}
