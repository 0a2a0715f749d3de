//! Labels: state, transitions, and JSON shape.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exchange::OperationOutcome;
use crate::ledger::{Event, Records};
use crate::new_id;

/// All labels by reference, and those in progress by the time of their last change, the oldest first.
#[derive(Default)]
pub(crate) struct Labels {
    pub by_reference: BTreeMap<String, Label>,
    pub booked: BTreeSet<(Timestamp, String)>,
    pub in_transit: BTreeSet<(Timestamp, String)>,
}

impl Labels {
    fn waiting(&mut self, status: Status) -> Option<&mut BTreeSet<(Timestamp, String)>> {
        match status {
            Status::Booked => Some(&mut self.booked),
            Status::HandedOver => Some(&mut self.in_transit),
            _ => None,
        }
    }
}

impl Records for Labels {
    type Item = Label;

    fn apply(&mut self, label: Label) {
        if let Some(old) = self.by_reference.get(&label.reference) {
            let entry = (old.since, old.reference.clone());
            let status = old.status;
            self.waiting(status).map(|waiting| waiting.remove(&entry));
        }
        if let Some(waiting) = self.waiting(label.status) {
            waiting.insert((label.since, label.reference.clone()));
        }
        self.by_reference.insert(label.reference.clone(), label);
    }

    fn to_json(&self) -> Value {
        let labels: Vec<_> = self.by_reference.values().map(Label::json).collect();
        json!({ "labels": labels })
    }

    fn problem(_: &str, code: &str, message: &str) -> Value {
        json!({ "code": code, "message": message })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Booked,
    HandedOver,
    Delivered,
    Cancelled,
    Lost,
    Returned,
}

/// A printed, trackable booking.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Booking {
    pub id: String,
    pub tracking_number: String,
    pub from: String,
    pub country: String,
    /// The available contact channels.
    #[serde(default)]
    pub contacts: Vec<String>,
    pub parcels: Vec<Parcel>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Parcel {
    pub sku: String,
    pub quantity: u32,
}

/// The carrier's record of one reference.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Label {
    pub reference: String,
    pub status: Status,
    /// The time of the last status change.
    pub since: Timestamp,
    /// None if the reference was cancelled before any booking: a late booking is rejected.
    pub booking: Option<Booking>,
}

impl Label {
    pub fn json(&self) -> Value {
        let booking = self.booking.as_ref();
        json!({
            "id": booking.map(|booking| &booking.id),
            "reference": self.reference,
            "status": self.status,
            "tracking_number": booking.map(|booking| &booking.tracking_number),
            "from": booking.map(|booking| &booking.from),
            "country": booking.map(|booking| &booking.country),
            "contacts": booking.map(|booking| &booking.contacts),
            "parcels": booking.map(|booking| &booking.parcels),
            "updated_at": self.since,
        })
    }

    fn event(&self, kind: &str) -> Event {
        let body = json!({
            "type": kind,
            "reference": self.reference,
            "tracking_number": self.booking.as_ref().map(|booking| &booking.tracking_number),
            "occurred_at": self.since,
        });
        Event { id: new_id("msg"), reference: self.reference.clone(), body }
    }
}

/// A step of a shipment in transit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    HandOver,
    Deliver,
    Lose,
    Cancel,
    Return,
}

impl Step {
    fn target(self) -> (Status, &'static str, &'static str) {
        match self {
            Self::HandOver => (Status::HandedOver, "hand_over", "shipment.handed_over"),
            Self::Deliver => (Status::Delivered, "deliver", "shipment.delivered"),
            Self::Lose => (Status::Lost, "lose", "shipment.lost"),
            Self::Cancel => (Status::Cancelled, "cancel", "shipment.cancelled"),
            Self::Return => (Status::Returned, "return", "shipment.returned"),
        }
    }

    fn possible_from(self, status: Status) -> bool {
        match self {
            // A cancelled parcel may still be scanned, and Waybill must handle that.
            Self::HandOver => matches!(status, Status::Booked | Status::Cancelled),
            Self::Deliver => matches!(status, Status::HandedOver | Status::Lost),
            Self::Lose => matches!(status, Status::Booked | Status::HandedOver),
            Self::Cancel => status == Status::Booked,
            Self::Return => matches!(status, Status::HandedOver | Status::Delivered | Status::Lost),
        }
    }

    /// Takes the step and sends its event. A repetition returns 200 without an event; a wrong order returns 409.
    pub fn take(self, labels: &Labels, reference: &str) -> OperationOutcome<Label> {
        let (status, op, kind) = self.target();
        let Some(label) = labels.by_reference.get(reference).filter(|label| label.booking.is_some()) else {
            let body = Labels::problem("", "label_not_found", "no label was booked for this reference");
            return OperationOutcome::new(op, 404, body);
        };
        if label.status == status {
            return OperationOutcome::new(op, 200, label.json());
        }
        if !self.possible_from(label.status) {
            let message = format!("the label is {}", json!(label.status));
            return OperationOutcome::new(op, 409, Labels::problem("", "wrong_status", &message));
        }
        let label = Label { status, since: Timestamp::now(), ..label.clone() };
        OperationOutcome::new(op, 200, label.json()).event(label.event(kind)).change(label)
    }
}
