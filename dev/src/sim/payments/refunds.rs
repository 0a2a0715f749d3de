//! Refunding what was captured.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::json;

use super::form::Form;
use super::intents::{invalid, refused, unexpected};
use super::model::{Decline, Item, Payments, Refund, RefundStatus};
use super::{Shared, missing_body, subject_of};
use crate::sim::exchange::{Asked, Done, Reply, run};
use crate::sim::faults::{Injected, Route};
use crate::sim::new_id;

const OP: &str = "refund";

pub(super) async fn create(State(core): State<Shared>, asked: Asked) -> Result<Response, Reply> {
    let form = Form::parse(&asked.body, &["payment_intent", "amount", "metadata", "reason", "expand"])?;
    let id = form.require("payment_intent")?.to_owned();
    let amount = form.amount("amount")?;
    let metadata = form.metadata();
    let subject = format!("{} {}", subject_of(&core, &id), form.subject());
    let decide = move |records: &Payments, injected: &Injected| {
        let Some(intent) = records.intents.get(&id) else {
            return Done::new(OP, 404, missing_body("payment_intent", &id));
        };
        let left = intent.refundable();
        if injected.refuse {
            return refused(OP);
        }
        if intent.amount_received == 0 {
            return unexpected(OP, intent);
        }
        if left == 0 {
            let message = "The charge has already been refunded.";
            return invalid(OP, "charge_already_refunded", message, intent);
        }
        if amount.is_some_and(|amount| amount > left) {
            let message = format!("The refund is greater than the {left} left on the charge.");
            return invalid(OP, "amount_too_large", &message, intent);
        }
        if let Some(code) = &injected.decline {
            return Done::new(OP, 402, json!({ "error": Decline::named(code).json() }));
        }
        let refund = Refund {
            id: new_id("re"),
            payment_intent: id,
            charge: intent.charge.clone(),
            amount: amount.unwrap_or(left),
            currency: intent.currency.clone(),
            status: match intent.payment_method.as_deref() {
                Some("pm_card_refundFail") => RefundStatus::Failed,
                Some("pm_card_pendingRefund") => RefundStatus::Pending,
                _ => RefundStatus::Succeeded,
            },
            metadata,
            created: Timestamp::now().as_second(),
        };
        let mut intent = intent.clone();
        let done = Done::new(OP, 200, refund.json());
        let done = match refund.status {
            RefundStatus::Failed => done.event(intent.event_about("refund.updated", refund.json())),
            RefundStatus::Pending => {
                intent.amount_refunded += refund.amount;
                done
            }
            RefundStatus::Succeeded => {
                intent.amount_refunded += refund.amount;
                done.event(intent.charge_event("charge.refunded"))
            }
        };
        done.change(Item::Intent(intent)).change(Item::Refund(refund))
    };
    Ok(run(core, asked, Route::Refund, &subject, decide).await)
}

/// A pending refund gets its outcome. A failed one gives its amount back to what can be refunded.
pub(super) fn settle(records: &Payments, id: &str, succeeded: bool) -> Done<Item> {
    let refund = records.refunds.get(id);
    let Some((refund, intent)) = refund
        .and_then(|refund| Some((refund.clone(), records.intents.get(&refund.payment_intent)?.clone())))
    else {
        return Done::new("settle", 404, missing_body("refund", id));
    };
    if refund.status != RefundStatus::Pending {
        return invalid("settle", "refund_not_pending", "Only a pending refund can be settled.", &intent);
    }
    let (mut refund, mut intent) = (refund, intent);
    refund.status = if succeeded { RefundStatus::Succeeded } else { RefundStatus::Failed };
    if !succeeded {
        intent.amount_refunded -= refund.amount;
    }
    let mut events = vec![intent.event_about("refund.updated", refund.json())];
    if succeeded {
        events.push(intent.charge_event("charge.refunded"));
    }
    let done = Done::new("settle", 200, refund.json());
    Done { events, ..done.change(Item::Intent(intent)).change(Item::Refund(refund)) }
}
