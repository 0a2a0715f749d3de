//! Booking, reading and cancelling labels.

use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::Shared;
use super::model::{Booking, Label, Labels, Parcel, Status};
use crate::exchange::{OperationOutcome, Reply, SimRequest, run};
use crate::faults::{InjectedFaults, Route};
use crate::ledger::Records;
use crate::new_id;

/// The booking request. Unknown fields are accepted, as by a carrier's API.
#[derive(Deserialize)]
struct Order {
    reference: String,
    from: String,
    to: Address,
    parcels: Vec<Parcel>,
}

/// The validated part of the destination. The postal code is not validated: some countries have none.
#[derive(Deserialize)]
struct Address {
    line1: String,
    country: String,
    #[serde(default)]
    phone: Option<String>,
    #[serde(default)]
    email: Option<String>,
}

impl Address {
    fn is_deliverable(&self) -> bool {
        let country = self.country.len() == 2 && self.country.bytes().all(|byte| byte.is_ascii_alphabetic());
        country && self.line1 != "UNDELIVERABLE"
    }

    /// The available contact channels. Only their names, because the ledger contains no personal data.
    fn contacts(&self) -> Vec<String> {
        let channels = [("phone", &self.phone), ("email", &self.email)];
        channels.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| (*name).to_owned()).collect()
    }
}

fn problem(op: &'static str, status: u16, code: &str, message: &str) -> OperationOutcome<Label> {
    OperationOutcome::new(op, status, Labels::problem("", code, message))
}

pub(super) async fn book(State(core): State<Shared>, requested: SimRequest) -> Result<Response, Reply> {
    let order: Order = serde_json::from_slice(&requested.body)
        .map_err(|error| Reply::problem::<Labels>(400, "", "malformed", &error.to_string()))?;
    let subject = order.reference.clone();
    let decide = move |labels: &Labels, injected: &InjectedFaults| order.book(labels, injected);
    Ok(run(core, requested, Route::Book, &subject, decide).await)
}

impl Order {
    fn book(self, labels: &Labels, injected: &InjectedFaults) -> OperationOutcome<Label> {
        let op = "book";
        if injected.refuse {
            return problem(op, 409, "booking_refused", "rejected by a fault rule").without_stored_reply();
        }
        if let Some(code) = &injected.decline {
            return problem(op, 422, code, "rejected by a fault rule").without_stored_reply();
        }
        match labels.by_reference.get(&self.reference) {
            Some(label) if label.status == Status::Cancelled => {
                return problem(op, 409, "label_cancelled", "this reference was cancelled");
            }
            Some(label) => return OperationOutcome::new(op, 200, label.json()),
            None => {}
        }
        if !self.to.is_deliverable() {
            return problem(op, 422, "address_rejected", "the carrier does not deliver to this address");
        }
        let booking = Booking {
            id: new_id("lbl"),
            tracking_number: new_id("WBSIM").replace('_', "").to_uppercase(),
            from: self.from,
            contacts: self.to.contacts(),
            country: self.to.country,
            parcels: self.parcels,
        };
        let label = Label {
            reference: self.reference,
            status: Status::Booked,
            since: Timestamp::now(),
            booking: Some(booking),
        };
        OperationOutcome::new(op, 201, label.json()).change(label)
    }
}

pub(super) async fn get(
    State(core): State<Shared>,
    Path(reference): Path<String>,
    requested: SimRequest,
) -> Response {
    let subject = reference.clone();
    let decide = move |labels: &Labels, _: &InjectedFaults| match labels.by_reference.get(&reference) {
        Some(label) => OperationOutcome::new("lookup", 200, label.json()).without_stored_reply(),
        None => problem("lookup", 404, "label_not_found", "there is no label for this reference")
            .without_stored_reply(),
    };
    run(core, requested, Route::Read, &subject, decide).await
}

pub(super) async fn cancel(
    State(core): State<Shared>,
    Path(reference): Path<String>,
    requested: SimRequest,
) -> Response {
    let subject = reference.clone();
    let decide = move |labels: &Labels, injected: &InjectedFaults| cancelled(labels, reference, injected);
    run(core, requested, Route::Cancel, &subject, decide).await
}

/// Cancels at the caller's request. The reply is the confirmation: no event follows.
fn cancelled(labels: &Labels, reference: String, injected: &InjectedFaults) -> OperationOutcome<Label> {
    let op = "cancel";
    if injected.refuse {
        return problem(op, 409, "cancel_refused", "rejected by a fault rule").without_stored_reply();
    }
    let known = labels.by_reference.get(&reference);
    let booking = match known {
        Some(label) if label.status == Status::Cancelled => {
            return OperationOutcome::new(op, 200, label.json());
        }
        Some(label) if label.status != Status::Booked => {
            return problem(op, 409, "already_handed_over", "the shipment was handed over");
        }
        known => known.and_then(|label| label.booking.clone()),
    };
    let label = Label { reference, status: Status::Cancelled, since: Timestamp::now(), booking };
    OperationOutcome::new(op, 200, label.json()).change(label)
}
