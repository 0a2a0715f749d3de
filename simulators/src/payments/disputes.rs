//! Disputed charges: the customer's bank withdraws the amount until the dispute is closed.

use jiff::Timestamp;
use serde::Deserialize;

use super::intents::{invalid, unexpected};
use super::missing_body;
use super::model::{Dispute, DisputeStatus, Item, Payments};
use crate::exchange::OperationOutcome;
use crate::new_id;

const REASON_DEFAULT: &str = "fraudulent";

/// The disputed amount and the reason.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DisputeRequest {
    reason: Option<String>,
    /// Default: the full amount received.
    amount: Option<i64>,
}

/// The customer disputes the received amount.
pub(super) fn open(records: &Payments, intent: &str, complaint: DisputeRequest) -> OperationOutcome<Item> {
    let op = "dispute";
    let Some(mut intent) = records.intents.get(intent).cloned() else {
        return OperationOutcome::new(op, 404, missing_body("payment_intent", intent));
    };
    if intent.amount_received == 0 {
        return unexpected(op, &intent);
    }
    let amount = complaint.amount.unwrap_or(intent.amount_received);
    if !(1..=intent.amount_received).contains(&amount) {
        let message =
            format!("The disputed amount must be between 1 and the {} received.", intent.amount_received);
        return invalid(op, "parameter_invalid", &message, &intent);
    }
    intent.disputed = true;
    let dispute = Dispute {
        id: new_id("dp"),
        payment_intent: intent.id.clone(),
        charge: intent.charge.clone(),
        amount,
        currency: intent.currency.clone(),
        reason: complaint.reason.unwrap_or_else(|| REASON_DEFAULT.to_owned()),
        status: DisputeStatus::NeedsResponse,
        created: Timestamp::now().as_second(),
    };
    let event = intent.event_about("charge.dispute.created", dispute.json());
    let done = OperationOutcome::new(op, 200, dispute.json()).event(event);
    done.change(Item::Intent(intent)).change(Item::Dispute(dispute))
}

/// The bank decides. The charge stays marked as disputed, regardless of the outcome.
pub(super) fn close(records: &Payments, id: &str, status: DisputeStatus) -> OperationOutcome<Item> {
    let op = "close_dispute";
    let dispute = records.disputes.get(id);
    let Some((dispute, intent)) =
        dispute.and_then(|dispute| Some((dispute, records.intents.get(&dispute.payment_intent)?)))
    else {
        return OperationOutcome::new(op, 404, missing_body("dispute", id));
    };
    if dispute.status != DisputeStatus::NeedsResponse {
        return invalid(op, "dispute_already_closed", "The dispute was closed before.", intent);
    }
    let dispute = Dispute { status, ..dispute.clone() };
    let event = intent.event_about("charge.dispute.closed", dispute.json());
    OperationOutcome::new(op, 200, dispute.json()).event(event).change(Item::Dispute(dispute))
}
