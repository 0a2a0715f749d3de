//! Refunds of captured payments.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::form::Form;
use super::intents::{injected_error, invalid, rejected, unexpected};
use super::model::{Decline, Intent, Item, Payments, Refund, RefundStatus};
use super::{Shared, amounts, missing_body, subject_of};
use crate::exchange::{OperationOutcome, Reply, SimRequest, run};
use crate::faults::{InjectedFaults, Route};
use crate::ledger::Event;
use crate::new_id;

const OP: &str = "refund";

pub(super) async fn create(State(core): State<Shared>, requested: SimRequest) -> Result<Response, Reply> {
    let form = Form::parse(&requested.body, &["payment_intent", "amount", "metadata", "reason", "expand"])?;
    let id = form.require("payment_intent")?.to_owned();
    let amount = form.amount("amount")?;
    let metadata = form.metadata();
    let subject = format!("{} {}", subject_of(&core, &id), form.subject());
    let decide = move |records: &Payments, injected: &InjectedFaults| {
        if !records.intents.contains_key(&id) {
            return OperationOutcome::new(OP, 404, missing_body("payment_intent", &id));
        }
        if injected.refuse {
            return injected_error(OP);
        }
        refund(records, &id, amount, metadata, injected.decline.as_deref())
    };
    Ok(run(core, requested, Route::Refund, &subject, decide).await)
}

/// A refund that the merchant makes in the provider's dashboard.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DashboardRefund {
    /// Default: the full refundable amount.
    amount: Option<i64>,
    /// Whether its events are sent.
    webhook: bool,
}

impl Default for DashboardRefund {
    fn default() -> Self {
        Self { amount: None, webhook: true }
    }
}

/// Creates a refund that was not requested over the API: it has no metadata.
pub(super) fn from_dashboard(
    records: &Payments,
    intent: &str,
    requested: &DashboardRefund,
) -> OperationOutcome<Item> {
    let mut done = refund(records, intent, requested.amount, BTreeMap::new(), None);
    if !requested.webhook {
        done.events.clear();
    }
    done
}

fn refund(
    records: &Payments,
    id: &str,
    amount: Option<i64>,
    metadata: BTreeMap<String, String>,
    decline: Option<&str>,
) -> OperationOutcome<Item> {
    let Some(intent) = records.intents.get(id) else {
        return OperationOutcome::new(OP, 404, missing_body("payment_intent", id));
    };
    if let Some(refusal) = refund_rejection(records, intent, amount) {
        return refusal;
    }
    let amount = amount.unwrap_or(intent.refundable());
    if let Err(reply) = amounts::check_multiple("amount", amount, &intent.currency) {
        return rejected(OP, reply);
    }
    if let Some(code) = decline {
        return OperationOutcome::new(OP, 402, json!({ "error": Decline::named(code).json() }));
    }
    let refund = Refund {
        id: new_id("re"),
        payment_intent: id.to_owned(),
        charge: intent.charge.clone(),
        amount,
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
    if refund.status != RefundStatus::Failed {
        intent.amount_refunded += refund.amount;
    }
    let mut events = vec![intent.event_about("refund.created", refund.json())];
    match refund.status {
        RefundStatus::Pending => {}
        RefundStatus::Succeeded => events.push(intent.charge_event("charge.refunded")),
        RefundStatus::Failed => events.extend(failed(&intent, &refund)),
    }
    let done = OperationOutcome::new(OP, 200, refund.json());
    OperationOutcome { events, ..done.change(Item::Intent(intent)).change(Item::Refund(refund)) }
}

/// Returns the reason why the amount of an intent cannot be refunded.
fn refund_rejection(
    records: &Payments,
    intent: &Intent,
    amount: Option<i64>,
) -> Option<OperationOutcome<Item>> {
    let left = intent.refundable();
    let wanted = amount.unwrap_or(left);
    if intent.amount_received == 0 {
        return Some(unexpected(OP, intent));
    }
    if left == 0 {
        let message = "The charge has already been refunded.";
        return Some(invalid(OP, "charge_already_refunded", message, intent));
    }
    if wanted > left {
        let message = format!("The refund is greater than the {left} left on the charge.");
        return Some(invalid(OP, "amount_too_large", &message, intent));
    }
    // The undisputed rest of a partly disputed charge can be refunded.
    if wanted > left - records.disputed(&intent.id) {
        let charge = intent.charge.as_deref().unwrap_or_default();
        let message = format!("Charge {charge} has been charged back; cannot issue a refund.");
        return Some(invalid(OP, "charge_disputed", &message, intent));
    }
    None
}

/// The events about a failed refund.
fn failed(intent: &Intent, refund: &Refund) -> [Event; 2] {
    ["refund.failed", "refund.updated"].map(|kind| intent.event_about(kind, refund.json()))
}

/// A pending refund succeeds or fails.
pub(super) fn settle_refund(records: &Payments, id: &str, succeeded: bool) -> OperationOutcome<Item> {
    change("settle", records, id, |mut refund, intent| {
        if refund.status != RefundStatus::Pending {
            return invalid("settle", "refund_not_pending", "Only a pending refund can be settled.", &intent);
        }
        if !succeeded {
            return reverse_refund("settle", refund, intent);
        }
        refund.status = RefundStatus::Succeeded;
        OperationOutcome::new("settle", 200, refund.json())
            .event(intent.event_about("refund.updated", refund.json()))
            .event(intent.charge_event("charge.refunded"))
            .change(Item::Refund(refund))
    })
}

/// The customer's bank returns the refund, possibly long after it succeeded:
/// <https://docs.stripe.com/refunds#failed-refunds>.
pub(super) fn fail(records: &Payments, id: &str) -> OperationOutcome<Item> {
    change("fail", records, id, |refund, intent| match refund.status {
        RefundStatus::Failed => {
            invalid("fail", "refund_already_failed", "The refund has failed before.", &intent)
        }
        RefundStatus::Pending | RefundStatus::Succeeded => reverse_refund("fail", refund, intent),
    })
}

/// Marks a refund as failed, so that its amount can be refunded again.
fn reverse_refund(op: &'static str, mut refund: Refund, mut intent: Intent) -> OperationOutcome<Item> {
    refund.status = RefundStatus::Failed;
    intent.amount_refunded -= refund.amount;
    let events = failed(&intent, &refund).into();
    let done = OperationOutcome::new(op, 200, refund.json());
    OperationOutcome { events, ..done.change(Item::Intent(intent)).change(Item::Refund(refund)) }
}

/// Runs a control operation on one refund and its intent; 404 if the refund does not exist.
fn change(
    op: &'static str,
    records: &Payments,
    id: &str,
    decide: impl FnOnce(Refund, Intent) -> OperationOutcome<Item>,
) -> OperationOutcome<Item> {
    let refund = records.refunds.get(id);
    match refund.and_then(|refund| Some((refund, records.intents.get(&refund.payment_intent)?))) {
        Some((refund, intent)) => decide(refund.clone(), intent.clone()),
        None => OperationOutcome::new(op, 404, missing_body("refund", id)),
    }
}
