//! What a cancellation would do, and what else a user may do with an order.

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
    /// The answer to a request to cancel.
    CancelDecision "cancellation answer" {
        /// It is done, or under way.
        Accepted = "accepted",
        /// It is recorded and applied once the outcome of the authorization is known.
        Deferred = "deferred",
        /// The order can't be cancelled any more.
        Rejected = "refused",
    }
);

/// Pieces that go back to free stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRelease {
    /// What.
    pub sku: Sku,
    /// How many pieces.
    pub quantity: u32,
}

/// What cancelling takes, as things stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancellationPlan {
    /// Whether it would be accepted.
    pub answer: CancelDecision,
    /// Shipments that would not leave; of those that have a label the carrier is asked, and may refuse.
    pub cancel_shipments: Vec<ShipmentId>,
    /// Shipments of which only a part would leave: each is cancelled too, and another takes over what is left of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reduce_shipments: Vec<ShipmentId>,
    /// Whether the carrier has a say.
    pub asks_carrier: bool,
    /// Authorized money that would be given free.
    pub void: Amount,
    /// Captured money that would go back.
    pub refund: Amount,
    /// Goods that would be free again.
    pub release: Vec<StockRelease>,
    /// Of a request for single lines: those it is refused for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "refused_lines")]
    pub rejected_lines: Vec<u32>,
    /// Of lines that it is refused for because more pieces are asked for than are open: those that are open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub still_open: Vec<LineQuantity>,
}

impl CancellationPlan {
    /// The plan of a request that is carried out already.
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

    /// Why it would be refused, if it would, in words for whoever asks.
    pub fn rejection_message(&self, status: OrderStatus) -> Option<String> {
        let lines: Vec<String> = self.rejected_lines.iter().map(u32::to_string).collect();
        let open: Vec<String> =
            self.still_open.iter().map(|p| format!("{} of line {}", p.quantity, p.line)).collect();
        let message = match (self.answer, &lines[..]) {
            (CancelDecision::Accepted | CancelDecision::Deferred, _) => None,
            (CancelDecision::Rejected, []) => Some(format!("the order is {status} and can't be cancelled")),
            (CancelDecision::Rejected, [line]) => {
                Some(format!("of line {line} nothing can be cancelled by itself any more"))
            }
            (CancelDecision::Rejected, lines) => {
                Some(format!("of lines {} nothing can be cancelled by itself any more", lines.join(", ")))
            }
        };
        match &open[..] {
            [] => message,
            open => message.map(|message| format!("{message}, or not so much; open are {}", open.join(", "))),
        }
    }
}

/// Goods by SKU.
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

/// Plans the cancellation of everything that can still be stopped; of single lines, see [`crate::lines`]. The API's
/// `dry_run` and the workflow's answer both come from here.
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
    // What left is paid for, also where its capture is still under way.
    let uncaptured = state.shipments.iter().filter(|s| s.has_left() && !s.captured).map(|s| s.amount);
    let taken = Amount::sum(uncaptured.chain([state.captured])).unwrap_or(state.authorized);
    CancellationPlan {
        answer,
        asks_carrier: open.iter().any(|s| s.tracking_number.is_some()),
        cancel_shipments: open.iter().map(|s| s.id).collect(),
        void: if done { Amount::ZERO } else { state.authorized.minus_or_zero(taken) },
        release: sum_by_sku(open.iter().flat_map(|s| &s.lines)),
        ..CancellationPlan::no_op()
    }
}

string_enum!(
    /// Something a user may do with an order in its present state.
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

/// What a user may do now.
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
    fn what_left_is_not_given_free_whether_or_not_it_was_captured_yet() {
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
    fn cancel_is_offered_exactly_where_it_is_not_refused() {
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
