//! Creating and confirming payment intents.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::json;

use super::form::Form;
use super::model::{Card, Decline, Intent, Item, Payments, Status};
use super::{AuthorizationLifetime, Shared, amounts, bad_parameter, missing_body, subject_of};
use crate::exchange::{OperationOutcome, Reply, SimRequest, run};
use crate::faults::{InjectedFaults, Route};
use crate::new_id;

pub(super) const CHARGE: &str = "latest_charge";

pub(super) async fn create(
    Extension(hold): Extension<AuthorizationLifetime>,
    State(core): State<Shared>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let known = [
        "amount",
        "currency",
        "payment_method",
        "payment_method_types",
        "payment_method_options",
        "automatic_payment_methods",
        "capture_method",
        "confirm",
        "metadata",
        "description",
        "statement_descriptor_suffix",
        "off_session",
        "return_url",
        "expand",
    ];
    let form = Form::parse(&requested.body, &known)?;
    let new = NewIntent::parse(&form)?;
    let subject = form.subject();
    let decide = move |_: &Payments, injected: &_| new.place(injected, &hold);
    Ok(run(core, requested, Route::Authorize, &subject, decide).await)
}

/// The parameters of a new intent.
struct NewIntent {
    amount: i64,
    currency: String,
    payment_method: Option<String>,
    manual_capture: bool,
    multicapture: bool,
    confirm: bool,
    off_session: bool,
    metadata: BTreeMap<String, String>,
    expand: bool,
}

impl NewIntent {
    fn parse(form: &Form) -> Result<Self, Reply> {
        form.require("amount")?;
        let currency = amounts::currency(form.require("currency")?)?;
        let amount = form.amount("amount")?.unwrap_or_default();
        amounts::check_charge("amount", amount, &currency)?;
        let confirm = form.flag("confirm")?.unwrap_or(false);
        let payment_method = if confirm {
            Some(form.require("payment_method")?.to_owned())
        } else {
            form.get("payment_method").map(str::to_owned)
        };
        let multicapture = form.get("payment_method_options[card][request_multicapture]");
        Ok(Self {
            amount,
            currency,
            payment_method: payment_method.map(known_method).transpose()?,
            manual_capture: form.get("capture_method") == Some("manual"),
            multicapture: multicapture == Some("if_available"),
            confirm,
            off_session: off_session(form),
            metadata: form.metadata(),
            expand: form.expands(CHARGE),
        })
    }

    fn place(self, injected: &InjectedFaults, hold: &AuthorizationLifetime) -> OperationOutcome<Item> {
        let status = match self.payment_method {
            Some(_) => Status::RequiresConfirmation,
            None => Status::RequiresPaymentMethod,
        };
        let intent = Intent {
            id: new_id("pi"),
            charge: None,
            amount: self.amount,
            amount_capturable: 0,
            amount_received: 0,
            amount_refunded: 0,
            currency: self.currency,
            status,
            payment_method: self.payment_method,
            manual_capture: self.manual_capture,
            multicapture: self.multicapture,
            metadata: self.metadata,
            created: Timestamp::now().as_second(),
            capture_before: None,
            canceled_at: None,
            cancellation_reason: None,
            last_decline: None,
            disputed: false,
        };
        if self.confirm {
            return request_authorization(
                "authorize",
                intent,
                self.expand,
                self.off_session,
                (injected, hold),
            );
        }
        OperationOutcome::new("create", 200, intent.json(self.expand)).change(Item::Intent(intent))
    }
}

/// Returns whether the customer is absent. `one_off` and `recurring` are older values for `true`.
fn off_session(form: &Form) -> bool {
    !matches!(form.get("off_session"), None | Some("false"))
}

fn known_method(method: String) -> Result<String, Reply> {
    if Card::for_payment_method(&method).is_some() {
        return Ok(method);
    }
    let message = format!("No such PaymentMethod: '{method}'");
    Err(bad_parameter("resource_missing", "payment_method", &message))
}

/// Requests the authorization from the bank.
fn request_authorization(
    op: &'static str,
    mut intent: Intent,
    expand: bool,
    off_session: bool,
    (injected, hold): (&InjectedFaults, &AuthorizationLifetime),
) -> OperationOutcome<Item> {
    if injected.refuse {
        return injected_error(op);
    }
    let card = match &injected.decline {
        Some(code) => Some(Card::Declined(Decline::named(code))),
        None => intent.payment_method.as_deref().and_then(Card::for_payment_method),
    };
    match card {
        Some(Card::Good) => {
            intent.approve(hold.seconds());
            approved(op, intent, expand)
        }
        // An absent customer can't authenticate: <https://docs.stripe.com/declines/codes>.
        Some(Card::RequiresAuthentication) if off_session => {
            let decline = Decline::named("authentication_required");
            intent.decline(decline.clone());
            declined(op, intent, &decline)
        }
        Some(Card::RequiresAuthentication) => {
            intent.status = Status::RequiresAction;
            let event = intent.event("payment_intent.requires_action");
            OperationOutcome::new(op, 200, intent.json(expand)).event(event).change(Item::Intent(intent))
        }
        Some(Card::Declined(decline)) => {
            intent.decline(decline.clone());
            declined(op, intent, &decline)
        }
        None => unexpected(op, &intent),
    }
}

/// The response and event for an intent that has just been approved.
pub(super) fn approved(op: &'static str, intent: Intent, expand: bool) -> OperationOutcome<Item> {
    let kind = match intent.status {
        Status::Succeeded => "payment_intent.succeeded",
        _ => "payment_intent.amount_capturable_updated",
    };
    let event = intent.event(kind);
    OperationOutcome::new(op, 200, intent.json(expand)).event(event).change(Item::Intent(intent))
}

/// 402 with the intent in the error, as Stripe does.
pub(super) fn declined(op: &'static str, intent: Intent, decline: &Decline) -> OperationOutcome<Item> {
    let mut error = decline.json();
    error["payment_intent"] = intent.json(false);
    error["charge"] = json!(intent.charge);
    let event = intent.event("payment_intent.payment_failed");
    OperationOutcome::new(op, 402, json!({ "error": error })).event(event).change(Item::Intent(intent))
}

/// 400: the intent's status does not allow this.
pub(super) fn unexpected(op: &'static str, intent: &Intent) -> OperationOutcome<Item> {
    let message = format!("This PaymentIntent's status is {}: {op} is not possible.", json!(intent.status));
    invalid(op, "payment_intent_unexpected_state", &message, intent)
}

/// 400 about an intent, which the error contains.
pub(super) fn invalid(
    op: &'static str,
    code: &str,
    message: &str,
    intent: &Intent,
) -> OperationOutcome<Item> {
    let kind = "invalid_request_error";
    let error =
        json!({ "type": kind, "code": code, "message": message, "payment_intent": intent.json(false) });
    OperationOutcome::new(op, 400, json!({ "error": error }))
}

/// A parameter that is invalid for the stored payment. Stripe stores no idempotency key for such a request.
pub(super) fn rejected(op: &'static str, reply: Reply) -> OperationOutcome<Item> {
    OperationOutcome { reply, ..OperationOutcome::new(op, 400, json!({})) }.without_stored_reply()
}

/// 400 by a fault rule.
pub(super) fn injected_error(op: &'static str) -> OperationOutcome<Item> {
    let error =
        json!({ "type": "invalid_request_error", "code": "refused", "message": "rejected by a fault rule" });
    OperationOutcome::new(op, 400, json!({ "error": error })).without_stored_reply()
}

pub(super) async fn confirm(
    Extension(hold): Extension<AuthorizationLifetime>,
    State(core): State<Shared>,
    Path(id): Path<String>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let form = Form::parse(&requested.body, &["payment_method", "expand", "return_url", "off_session"])?;
    let off_session = off_session(&form);
    let method = form.get("payment_method").map(|method| known_method(method.to_owned())).transpose()?;
    let expand = form.expands(CHARGE);
    let decide = move |mut intent: Intent, injected: &InjectedFaults| match intent.status {
        // In a test, a second confirmation means that the customer has completed authentication.
        Status::RequiresAction => {
            intent.approve(hold.seconds());
            approved("confirm", intent, expand)
        }
        Status::RequiresConfirmation | Status::RequiresPaymentMethod => {
            if method.is_some() {
                intent.payment_method = method;
            }
            request_authorization("confirm", intent, expand, off_session, (injected, &hold))
        }
        _ => unexpected("confirm", &intent),
    };
    Ok(on_intent(core, requested, Route::Authorize, id, decide).await)
}

/// Runs a request about one intent; 404 if it does not exist.
pub(super) async fn on_intent<F>(
    core: Shared,
    requested: SimRequest,
    route: Route,
    id: String,
    decide: F,
) -> Response
where
    F: FnOnce(Intent, &InjectedFaults) -> OperationOutcome<Item> + Send + 'static,
{
    let subject = subject_of(&core, &id);
    let found = move |records: &Payments, injected: &InjectedFaults| match records.intents.get(&id) {
        Some(intent) => decide(intent.clone(), injected),
        None => OperationOutcome::new("lookup", 404, missing_body("payment_intent", &id)),
    };
    run(core, requested, route, &subject, found).await
}
