//! Plans a cancellation, and lists the other actions that a customer may take on an order.

use crate::{
    allocation::ShipmentLine,
    event::LineQuantity,
    ids::{ShipmentId, Sku},
    money::Amount,
    state::OrderState,
    status::{OrderStatus, string_enum},
};
use serde::{Deserialize, Serialize};

string_enum!(
    /// The decision on a cancellation request.
    CancelDecision "cancellation answer" {
        /// The cancellation is done, or in progress.
        Accepted = "accepted",
        /// The request is recorded, and applied once the outcome of the authorization is known.
        Deferred = "deferred",
        /// The order can no longer be cancelled.
        Rejected = "refused",
    }
);

/// Units that return to available stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRelease {
    /// The SKU.
    pub sku: Sku,
    /// The number of units.
    pub quantity: u32,
}

/// What a cancellation would do in the current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancellationPlan {
    /// Whether it would be accepted.
    pub answer: CancelDecision,
    /// Shipments that would not ship; the carrier is asked to cancel existing labels, and may reject that.
    pub cancel_shipments: Vec<ShipmentId>,
    /// Shipments of which only a part would not ship: each is cancelled too, and a replacement ships the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reduce_shipments: Vec<ShipmentId>,
    /// Whether the carrier must cancel a label.
    pub asks_carrier: bool,
    /// The authorized amount that would be voided.
    pub void: Amount,
    /// The captured amount that would be refunded.
    pub refund: Amount,
    /// The units that would be released.
    pub release: Vec<StockRelease>,
    /// Lines that cannot be cancelled, if the request names single lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "refused_lines")]
    pub rejected_lines: Vec<u32>,
    /// Of the rejected lines, those that have fewer open units than requested, with their open quantity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub still_open: Vec<LineQuantity>,
}

impl CancellationPlan {
    /// The plan of a request that has already been carried out.
    pub fn no_op() -> Self {
        Self {
            answer: CancelDecision::Accepted,
            cancel_shipments: Vec::new(),
            reduce_shipments: Vec::new(),
            asks_carrier: false,
            void: Amount::ZERO,
            refund: Amount::ZERO,
            release: Vec::new(),
            rejected_lines: Vec::new(),
            still_open: Vec::new(),
        }
    }

    /// The message for the caller if the request would be rejected.
    pub fn rejection_message(&self, status: OrderStatus) -> Option<String> {
        let lines: Vec<String> = self.rejected_lines.iter().map(u32::to_string).collect();
        let open: Vec<String> =
            self.still_open.iter().map(|p| format!("{} of line {}", p.quantity, p.line)).collect();
        let message = match (self.answer, &lines[..]) {
            (CancelDecision::Accepted | CancelDecision::Deferred, _) => None,
            (CancelDecision::Rejected, []) => Some(format!("the order is {status} and cannot be cancelled")),
            (CancelDecision::Rejected, [line]) => {
                Some(format!("line {line} can no longer be cancelled separately"))
            }
            (CancelDecision::Rejected, lines) => {
                Some(format!("lines {} can no longer be cancelled separately", lines.join(", ")))
            }
        };
        match &open[..] {
            [] => message,
            open => message.map(|message| format!("{message}; cancellable: {}", open.join(", "))),
        }
    }
}

/// Units by SKU.
pub(crate) fn sum_by_sku<'a>(lines: impl IntoIterator<Item = &'a ShipmentLine>) -> Vec<StockRelease> {
    let mut release: Vec<StockRelease> = Vec::new();
    for line in lines {
        match release.iter_mut().find(|r| r.sku == line.sku) {
            Some(known) => known.quantity += line.quantity,
            None => release.push(StockRelease { sku: line.sku.clone(), quantity: line.quantity }),
        }
    }
    release
}

/// Plans the cancellation of everything that can still be stopped; for single lines, see [`crate::lines`]. The API's
/// `dry_run` and the workflow's decision both use it.
pub fn plan_cancellation(state: &OrderState) -> CancellationPlan {
    use OrderStatus::*;
    let answer = match state.status {
        Received | Reserving | AwaitingCustomer | InReview | Confirmed | Fulfilling | PartiallyShipped
        | Cancelling | Cancelled => CancelDecision::Accepted,
        Authorizing => CancelDecision::Deferred,
        Shipped | Delivered | Completed | Rejected | Expired => CancelDecision::Rejected,
    };
    let done = matches!(state.status, Cancelled) || answer == CancelDecision::Rejected;
    let open: Vec<_> = state.shipments.iter().filter(|s| s.is_open() && !done).collect();
    // A shipment that has left is paid for, even if its capture is still in progress.
    let uncaptured = state.shipments.iter().filter(|s| s.has_left() && !s.captured).map(|s| s.amount);
    let committed = Amount::sum(uncaptured.chain([state.captured])).unwrap_or(state.authorized);
    CancellationPlan {
        answer,
        asks_carrier: open.iter().any(|s| s.tracking_number.is_some()),
        cancel_shipments: open.iter().map(|s| s.id).collect(),
        void: if done { Amount::ZERO } else { state.authorized.minus_or_zero(committed) },
        release: sum_by_sku(open.iter().flat_map(|s| &s.lines)),
        ..CancellationPlan::no_op()
    }
}

string_enum!(
    /// Something a customer may do with an order in its current state.
    CustomerAction "action" {
        /// `POST /v1/orders/{id}/cancellation`.
        Cancel = "cancel",
        /// `POST /v1/orders/{id}/decision` with `approve`.
        Approve = "approve",
        /// `POST /v1/orders/{id}/decision` with `reject`.
        Reject = "reject",
        /// `POST /v1/orders/{id}/amendment`.
        Amend = "amend",
    }
);

/// The actions that a customer may take now.
pub fn allowed_actions(status: OrderStatus) -> &'static [CustomerAction] {
    use OrderStatus::*;
    match status {
        Received | Reserving | Authorizing | Confirmed | Fulfilling | PartiallyShipped => {
            &[CustomerAction::Cancel]
        }
        AwaitingCustomer => &[CustomerAction::Amend, CustomerAction::Cancel],
        InReview => &[CustomerAction::Approve, CustomerAction::Reject, CustomerAction::Cancel],
        Shipped | Delivered | Completed | Cancelling | Cancelled | Rejected | Expired => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{state::ShipmentState, status::FulfilmentStatus};

    #[test]
    fn departed_shipment_is_not_voided_before_its_capture() {
        let amount = |minor| Amount::new(minor).unwrap();
        let (left, here) = (ShipmentId(uuid::Uuid::from_u128(1)), ShipmentId(uuid::Uuid::from_u128(2)));
        let shipment = |id, minor| ShipmentState {
            id,
            location: "AMS".parse().unwrap(),
            status: FulfilmentStatus::Booked,
            amount: amount(minor),
            tracking_number: None,
            lines: Vec::new(),
            captured: false,
        };
        let mut state = OrderState::received(&[]);
        (state.status, state.authorized) = (OrderStatus::PartiallyShipped, amount(500));
        state.shipments = vec![shipment(left, 300), shipment(here, 200)];
        state.set_shipment_status(left, FulfilmentStatus::HandedOver);
        let plan = plan_cancellation(&state);
        assert_eq!((plan.void, plan.cancel_shipments), (amount(200), vec![here]));
        (state.shipments[0].captured, state.captured) = (true, amount(300));
        assert_eq!(plan_cancellation(&state).void, amount(200));
    }

    #[test]
    fn cancel_is_offered_exactly_where_accepted() {
        for status in OrderStatus::ALL {
            let mut state = OrderState::received(&[]);
            state.status = *status;
            let offered = allowed_actions(*status).contains(&CustomerAction::Cancel);
            let under_way = matches!(status, OrderStatus::Cancelling | OrderStatus::Cancelled);
            assert_eq!(
                offered || under_way,
                plan_cancellation(&state).answer != CancelDecision::Rejected,
                "{status}"
            );
        }
    }
}
