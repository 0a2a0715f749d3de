//! A return's steps: all of them in Postgres. The refund that follows is started by the pump.

use crate::{OrderSteps, retry::StepFailure};
use waybill_domain::{ids::ReturnId, money::Amount, returns::ReturnState};
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
    Ok(ReturnExpected { wait_seconds: steps.waits.return_seconds, received })
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

async fn refund(steps: &OrderSteps, record: &ReturnRecord) -> Result<Amount, StepFailure> {
    let mut amount = record.amount.unwrap_or_default();
    // What is left only becomes less while others refund, unless a refund fails: then it is asked for once more.
    while !amount.is_zero() {
        let new = NewRefund {
            id: record.id.refund_id(),
            order_id: record.order_id,
            merchant_id: record.merchant_id,
            amount,
            reason: "return".into(),
            return_id: Some(record.id),
            request_key: None,
        };
        match refunds::request(&steps.pool, &new).await? {
            Requested::Accepted(refund) => return Ok(refund.amount),
            Requested::MoreThanCaptured { left } => amount = left,
        }
    }
    Ok(Amount::ZERO)
}
