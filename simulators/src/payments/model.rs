//! Payment intents and their charges: state and JSON shape.

mod dispute;
mod refund;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ledger::{Event, Records};
use crate::new_id;

pub(crate) use dispute::{Dispute, DisputeStatus};
pub(crate) use refund::{Refund, RefundStatus};

/// Card authorizations are valid for seven days: <https://docs.stripe.com/payments/place-a-hold-on-a-payment-method>.
pub(super) const HOLD_SECONDS: i64 = 7 * 24 * 3600;

/// A valid card that supports only one capture, regardless of the request.
const NO_MULTICAPTURE: &str = "pm_card_noMulticapture";

/// All intents, refunds and disputes by id, and so by age.
#[derive(Default)]
pub(crate) struct Payments {
    pub intents: BTreeMap<String, Intent>,
    pub refunds: BTreeMap<String, Refund>,
    pub disputes: BTreeMap<String, Dispute>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Item {
    Intent(Intent),
    Refund(Refund),
    Dispute(Dispute),
}

impl Payments {
    /// Returns the disputed amount of an intent: the bank has withdrawn it and returns it only for a won dispute.
    pub fn disputed(&self, intent: &str) -> i64 {
        let of_intent = self.disputes.values().filter(|dispute| dispute.payment_intent == intent);
        of_intent.filter(|dispute| dispute.status != DisputeStatus::Won).map(|dispute| dispute.amount).sum()
    }
}

impl Records for Payments {
    type Item = Item;

    fn apply(&mut self, item: Item) {
        match item {
            Item::Intent(intent) => drop(self.intents.insert(intent.id.clone(), intent)),
            Item::Refund(refund) => drop(self.refunds.insert(refund.id.clone(), refund)),
            Item::Dispute(dispute) => drop(self.disputes.insert(dispute.id.clone(), dispute)),
        }
    }

    fn to_json(&self) -> Value {
        let intents: Vec<_> = self.intents.values().map(|intent| intent.json(true)).collect();
        let refunds: Vec<_> = self.refunds.values().map(Refund::json).collect();
        let disputes: Vec<_> = self.disputes.values().map(Dispute::json).collect();
        json!({ "intents": intents, "refunds": refunds, "disputes": disputes })
    }

    fn problem(kind: &str, code: &str, message: &str) -> Value {
        json!({ "error": { "type": kind, "code": code, "message": message } })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresAction,
    RequiresCapture,
    Canceled,
    Succeeded,
}

/// Why a card was declined: <https://docs.stripe.com/declines/codes>.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Decline {
    pub code: String,
    pub decline_code: Option<String>,
}

impl Decline {
    /// Accepts an error code or a decline code.
    pub fn named(name: &str) -> Self {
        let (code, decline_code) = match name {
            "card_declined" => ("card_declined", "generic_decline"),
            "expired_card" | "processing_error" | "incorrect_cvc" | "authentication_required" => (name, name),
            other => ("card_declined", other),
        };
        Self { code: code.to_owned(), decline_code: Some(decline_code.to_owned()) }
    }

    pub fn authentication() -> Self {
        Self { code: "payment_intent_authentication_failure".to_owned(), decline_code: None }
    }

    pub fn json(&self) -> Value {
        let message =
            format!("The payment was declined: {}.", self.decline_code.as_ref().unwrap_or(&self.code));
        let mut error = json!({ "type": "card_error", "code": self.code, "message": message });
        if let Some(decline_code) = &self.decline_code {
            error["decline_code"] = json!(decline_code);
        }
        error
    }
}

/// The behaviour of a test payment method.
pub(super) enum Card {
    Good,
    RequiresAuthentication,
    Declined(Decline),
}

impl Card {
    /// Returns none for an unknown payment method.
    pub fn for_payment_method(method: &str) -> Option<Self> {
        Some(match method {
            "pm_card_visa"
            | "pm_card_mastercard"
            | NO_MULTICAPTURE
            | "pm_card_refundFail"
            | "pm_card_pendingRefund"
            | "pm_card_createDispute" => Self::Good,
            "pm_card_authenticationRequired" => Self::RequiresAuthentication,
            "pm_card_chargeDeclined" => Self::Declined(Decline::named("card_declined")),
            "pm_card_chargeDeclinedInsufficientFunds" => Self::Declined(Decline::named("insufficient_funds")),
            "pm_card_chargeDeclinedExpiredCard" => Self::Declined(Decline::named("expired_card")),
            "pm_card_chargeDeclinedFraudulent" => Self::Declined(Decline::named("fraudulent")),
            "pm_card_chargeDeclinedProcessingError" => Self::Declined(Decline::named("processing_error")),
            _ => return None,
        })
    }
}

/// A payment intent and its one charge.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub id: String,
    pub charge: Option<String>,
    pub amount: i64,
    pub amount_capturable: i64,
    pub amount_received: i64,
    /// Sum of refunds that succeeded or are pending.
    pub amount_refunded: i64,
    pub currency: String,
    pub status: Status,
    pub payment_method: Option<String>,
    pub manual_capture: bool,
    /// Whether multicapture was requested.
    pub multicapture: bool,
    pub metadata: BTreeMap<String, String>,
    pub created: i64,
    pub capture_before: Option<i64>,
    pub canceled_at: Option<i64>,
    pub cancellation_reason: Option<String>,
    pub last_decline: Option<Decline>,
    #[serde(default)]
    pub disputed: bool,
}

impl Intent {
    /// The bank approves: the amount is authorized, or captured immediately without manual capture.
    pub fn approve(&mut self, hold_seconds: i64) {
        self.charge = Some(new_id("ch"));
        self.last_decline = None;
        if self.manual_capture {
            self.status = Status::RequiresCapture;
            self.amount_capturable = self.amount;
            self.capture_before = Some(Timestamp::now().as_second().saturating_add(hold_seconds));
        } else {
            self.status = Status::Succeeded;
            self.amount_received = self.amount;
        }
    }

    pub fn decline(&mut self, decline: Decline) {
        self.charge = Some(new_id("ch"));
        self.status = Status::RequiresPaymentMethod;
        self.last_decline = Some(decline);
    }

    /// Amounts already received are not affected.
    pub fn cancel(&mut self, reason: Option<String>) {
        self.status = Status::Canceled;
        self.amount_capturable = 0;
        self.canceled_at = Some(Timestamp::now().as_second());
        self.cancellation_reason = reason;
    }

    pub fn multicapture_is_available(&self) -> bool {
        self.multicapture && self.payment_method.as_deref() != Some(NO_MULTICAPTURE)
    }

    pub fn is_authorization_expired(&self) -> bool {
        self.capture_before.is_some_and(|before| Timestamp::now().as_second() >= before)
    }

    pub fn refundable(&self) -> i64 {
        self.amount_received - self.amount_refunded
    }

    /// The text that fault rules match on.
    pub fn subject(&self) -> String {
        let metadata = self.metadata.values().map(String::as_str);
        std::iter::once(self.id.as_str()).chain(metadata).collect::<Vec<_>>().join(" ")
    }

    pub fn json(&self, expand_charge: bool) -> Value {
        let charge = if expand_charge { self.charge_json() } else { json!(self.charge) };
        let next_action = (self.status == Status::RequiresAction).then(|| {
            let url = format!("https://hooks.stripe.com/3d_secure_2/{}", self.id);
            json!({ "type": "redirect_to_url", "redirect_to_url": { "url": url, "return_url": null } })
        });
        json!({
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": self.amount_capturable,
            "amount_received": self.amount_received,
            "currency": self.currency,
            "status": self.status,
            "capture_method": if self.manual_capture { "manual" } else { "automatic" },
            "confirmation_method": "automatic",
            "payment_method": self.payment_method,
            "metadata": self.metadata,
            "latest_charge": charge,
            "created": self.created,
            "next_action": next_action,
            "last_payment_error": self.last_decline.as_ref().map(Decline::json),
            "canceled_at": self.canceled_at,
            "cancellation_reason": self.cancellation_reason,
            "livemode": false,
        })
    }

    pub fn charge_json(&self) -> Value {
        let Some(id) = &self.charge else { return Value::Null };
        let failed = self.last_decline.is_some();
        let mastercard = self.payment_method.as_deref() == Some("pm_card_mastercard");
        let multicapture = if self.multicapture_is_available() { "available" } else { "unavailable" };
        json!({
            "id": id,
            "object": "charge",
            "amount": self.amount,
            "amount_captured": self.amount_received,
            "amount_refunded": self.amount_refunded,
            "captured": self.amount_received > 0,
            "created": self.created,
            "currency": self.currency,
            "disputed": self.disputed,
            "metadata": self.metadata,
            "paid": !failed,
            "payment_intent": self.id,
            "payment_method": self.payment_method,
            "payment_method_details": { "type": "card", "card": {
                "brand": if mastercard { "mastercard" } else { "visa" },
                "capture_before": self.capture_before,
                "multicapture": { "status": multicapture },
            }},
            "refunded": self.amount_received > 0 && self.amount_refunded == self.amount_received,
            "status": if failed { "failed" } else { "succeeded" },
        })
    }

    /// An event about the intent itself.
    pub fn event(&self, kind: &str) -> Event {
        self.event_about(kind, self.json(false))
    }

    pub fn charge_event(&self, kind: &str) -> Event {
        self.event_about(kind, self.charge_json())
    }

    /// Events of one intent, its charge and its refunds are delivered in order.
    pub fn event_about(&self, kind: &str, object: Value) -> Event {
        let id = new_id("evt");
        let body = json!({
            "id": id,
            "object": "event",
            "type": kind,
            "created": Timestamp::now().as_second(),
            "livemode": false,
            "data": { "object": object },
        });
        Event { id, reference: self.id.clone(), body }
    }
}
