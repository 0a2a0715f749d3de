//! Captures and cancels authorizations.

use axum::extract::{Path, State};
use axum::response::Response;

use super::form::Form;
use super::intents::{CHARGE, declined, injected_error, invalid, on_intent, rejected, unexpected};
use super::model::{Decline, Intent, Item, Status};
use super::{Shared, amounts};
use crate::exchange::{OperationOutcome, Reply, SimRequest};
use crate::faults::{InjectedFaults, Route};

/// Stripe's cancellation reason for an intent whose authorization has expired.
pub(super) const AUTOMATIC: &str = "automatic";

pub(super) async fn capture(
    State(core): State<Shared>,
    Path(id): Path<String>,
    request: SimRequest,
) -> Result<Response, Reply> {
    let form = Form::parse(&request.body, &["amount_to_capture", "final_capture", "metadata", "expand"])?;
    let wanted = form.amount("amount_to_capture")?;
    let is_final = form.flag("final_capture")?.unwrap_or(true);
    let expand = form.expands(CHARGE);
    let decide = move |mut intent: Intent, injected: &InjectedFaults| {
        let op = "capture";
        let amount = wanted.unwrap_or(intent.amount_capturable);
        if injected.refuse {
            return injected_error(op);
        }
        if intent.status != Status::RequiresCapture {
            return unexpected(op, &intent);
        }
        if intent.is_authorization_expired() {
            return lapsed(op, intent);
        }
        if amount > intent.amount_capturable {
            let message = "The amount to capture is greater than the amount that can be captured.";
            return invalid(op, "amount_too_large", message, &intent);
        }
        if let Err(reply) = amounts::check_multiple("amount_to_capture", amount, &intent.currency) {
            return rejected(op, reply);
        }
        if !is_final && !intent.multicapture_is_available() {
            let message =
                "final_capture can only be false where multicapture was requested and is available.";
            return invalid(op, "parameter_invalid", message, &intent);
        }
        if let Some(code) = &injected.decline {
            return declined(op, intent, &Decline::named(code));
        }
        intent.amount_received += amount;
        intent.amount_capturable = if is_final { 0 } else { intent.amount_capturable - amount };
        let mut events = vec![intent.charge_event("charge.captured")];
        if intent.amount_capturable == 0 {
            intent.status = Status::Succeeded;
            events.push(intent.event("payment_intent.succeeded"));
        }
        let done = OperationOutcome::new(op, 200, intent.json(expand)).change(Item::Intent(intent));
        OperationOutcome { events, ..done }
    };
    Ok(on_intent(core, request, Route::Capture, id, decide).await)
}

/// 400 because the authorization has expired. The intent's cancellation is stored although the reply is an error.
fn lapsed(op: &'static str, mut intent: Intent) -> OperationOutcome<Item> {
    intent.cancel(Some(AUTOMATIC.to_owned()));
    let message = "The charge cannot be captured: its authorization has expired.";
    let event = intent.event("payment_intent.canceled");
    invalid(op, "charge_expired_for_capture", message, &intent).event(event).change(Item::Intent(intent))
}

pub(super) async fn cancel(
    State(core): State<Shared>,
    Path(id): Path<String>,
    request: SimRequest,
) -> Result<Response, Reply> {
    let form = Form::parse(&request.body, &["cancellation_reason", "expand"])?;
    let reason = form.get("cancellation_reason").map(str::to_owned);
    let expand = form.expands(CHARGE);
    let decide = move |intent: Intent, injected: &InjectedFaults| {
        if injected.refuse {
            return injected_error("cancel");
        }
        match intent.status {
            Status::Canceled | Status::Succeeded => unexpected("cancel", &intent),
            _ => canceled("cancel", intent, reason, expand),
        }
    };
    Ok(on_intent(core, request, Route::Void, id, decide).await)
}

pub(super) fn canceled(
    op: &'static str,
    mut intent: Intent,
    reason: Option<String>,
    expand: bool,
) -> OperationOutcome<Item> {
    intent.cancel(reason);
    let event = intent.event("payment_intent.canceled");
    OperationOutcome::new(op, 200, intent.json(expand)).event(event).change(Item::Intent(intent))
}
