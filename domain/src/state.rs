//! What is known of an order while it lives: the state that its workflow holds and its read model shows.

use crate::{
    allocation::{Allocation, PlannedShipment, ShipmentLine},
    ids::{Location, ShipmentId, Sku},
    money::Amount,
    order::OrderLine,
    status::{
        FulfilmentStatus, IllegalTransition, OrderStatus, Outcome, PaymentStatus, string_enum, transition,
    },
};
use serde::{Deserialize, Serialize};

string_enum!(
    /// Why an order needs a person.
    AttentionReason "attention reason" {
        /// A payment operation's outcome stays unknown.
        PaymentUnknown = "payment_unknown",
        /// Money for goods that left could not be captured.
        CaptureFailing = "capture_failing",
        /// Part of the undo does not succeed; it is tried for ever.
        UndoFailing = "undo_failing",
        /// A step of the way forward does not succeed; it is tried for ever.
        StepFailing = "step_failing",
        /// The carrier handed over, lost or returned what had been cancelled.
        UnexpectedShipment = "unexpected_shipment",
        /// The carrier lost goods that were paid for.
        ShipmentLost = "shipment_lost",
        /// The money is no longer held, or soon will not be, and could not be held anew.
        AuthorizationLapsed = "authorization_lapsed",
        /// A refund does not succeed; it is tried for ever.
        RefundFailing = "refund_failing",
        /// The provider says that a refund failed for good: the customer has not got the money.
        RefundFailed = "refund_failed",
        /// A step of a return does not succeed; it is tried for ever.
        ReturnFailing = "return_failing",
        /// Goods that were to come back did not come in time.
        ReturnOverdue = "return_overdue",
        /// The customer disputes the charge with their bank; there is a deadline to answer.
        Disputed = "disputed",
        /// Our books and the provider's, or stock and its reservations, say different things.
        Drift = "drift",
        /// A count found fewer items than are reserved: the order's shipment can't be served in full.
        StockShortfall = "stock_shortfall",
    }
);

/// One thing that a person is needed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionItem {
    /// Why.
    pub reason: AttentionReason,
    /// The step that does not succeed, or what brought it up.
    pub step: String,
    /// What else is known: the shipment, the provider's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "about")]
    pub subject: Option<String>,
}

/// Takes away what a person was needed for: about this, or whatever it is about. Says whether there was such a thing.
pub fn clear_attention_item(
    needs: &mut Vec<AttentionItem>,
    reason: AttentionReason,
    about: Option<&str>,
) -> bool {
    let before = needs.len();
    needs.retain(|n| n.reason != reason || (about.is_some() && n.subject.as_deref() != about));
    needs.len() < before
}

/// How far one line has come, in pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineState {
    /// What.
    pub sku: Sku,
    /// Ordered.
    pub quantity: u32,
    /// Set aside for this order.
    pub allocated: u32,
    /// Handed over.
    pub shipped: u32,
    /// Arrived, and the carrier did not bring it back.
    pub delivered: u32,
    /// Will not ship.
    pub cancelled: u32,
    /// Came back, as counted by who received it: the order's workflow does not know.
    pub returned: u32,
}

/// How far one shipment has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentState {
    /// Its id.
    pub id: ShipmentId,
    /// Where from.
    pub location: Location,
    /// Where it stands.
    pub status: FulfilmentStatus,
    /// What is captured at its hand-over.
    pub amount: Amount,
    /// The carrier's number, once booked.
    pub tracking_number: Option<String>,
    /// Its goods.
    pub lines: Vec<ShipmentLine>,
    /// Whether its amount was captured.
    #[serde(default)]
    pub captured: bool,
}

impl From<&PlannedShipment> for ShipmentState {
    fn from(planned: &PlannedShipment) -> Self {
        Self {
            id: planned.id,
            location: planned.location.clone(),
            status: FulfilmentStatus::Pending,
            amount: planned.amount,
            tracking_number: None,
            lines: planned.lines.clone(),
            captured: false,
        }
    }
}

impl ShipmentState {
    /// Whether it can still be stopped: nothing was handed over and nothing cancelled.
    pub fn is_open(&self) -> bool {
        matches!(self.status, FulfilmentStatus::Pending | FulfilmentStatus::Booked)
    }

    /// Whether the goods left the house, wherever they are now.
    pub fn has_left(&self) -> bool {
        use FulfilmentStatus::*;
        matches!(self.status, HandedOver | Delivered | Lost | Returned)
    }
}

/// An order's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    /// The order as a whole.
    pub status: OrderStatus,
    /// Set once completed.
    pub outcome: Option<Outcome>,
    /// Its money.
    pub payment_status: PaymentStatus,
    /// Set while a person is needed.
    pub attention: Option<AttentionReason>,
    /// Held at the provider or captured from what was held; 0 again after a void.
    pub authorized: Amount,
    /// Taken.
    pub captured: Amount,
    /// Given back.
    pub refunded: Amount,
    /// In the order's sequence.
    pub lines: Vec<LineState>,
    /// Known once reserved.
    pub shipments: Vec<ShipmentState>,
    /// Everything that a person is needed for; `attention` is the latest.
    #[serde(default)]
    pub needs: Vec<AttentionItem>,
    /// Whether the customer has to do something before the payment can go on.
    #[serde(default)]
    pub payment_action: bool,
    /// What the amounts of parts of it are multiples of, in minor units
    /// ([`crate::provider_units::smallest_share`]). Not known before stock is set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "share_unit")]
    pub amount_increment: Option<i64>,
}

impl OrderState {
    /// An order that was just accepted.
    pub fn received(lines: &[OrderLine]) -> Self {
        Self {
            status: OrderStatus::Received,
            outcome: None,
            payment_status: PaymentStatus::None,
            attention: None,
            authorized: Amount::ZERO,
            captured: Amount::ZERO,
            refunded: Amount::ZERO,
            lines: lines
                .iter()
                .map(|l| LineState {
                    sku: l.sku.clone(),
                    quantity: l.quantity,
                    allocated: 0,
                    shipped: 0,
                    delivered: 0,
                    cancelled: 0,
                    returned: 0,
                })
                .collect(),
            shipments: Vec::new(),
            needs: Vec::new(),
            payment_action: false,
            amount_increment: None,
        }
    }

    /// A person is needed. Says whether that is news.
    pub fn raise_for_step(&mut self, need: AttentionItem) -> bool {
        let known = self.needs.iter().any(|n| n.reason == need.reason && n.subject == need.subject);
        if !known {
            self.needs.push(need);
        }
        self.attention = self.needs.last().map(|n| n.reason);
        !known
    }

    /// What a person was needed for is settled. Says whether there was such a thing.
    pub fn clear_attention_item(&mut self, reason: AttentionReason, about: Option<&str>) -> bool {
        let settled = clear_attention_item(&mut self.needs, reason, about);
        self.attention = self.needs.last().map(|n| n.reason);
        settled
    }

    /// Takes one step of the lifecycle.
    ///
    /// # Errors
    /// When the lifecycle has no such step; the state is unchanged.
    pub fn transition_to(&mut self, to: OrderStatus) -> Result<(), IllegalTransition> {
        self.status = transition(self.status, to)?;
        Ok(())
    }

    /// Takes over what was set aside.
    pub fn apply_allocation(&mut self, allocation: &Allocation) {
        self.amount_increment = allocation.share_unit;
        self.shipments = allocation.shipments.iter().map(ShipmentState::from).collect();
        self.recompute_line_counts();
    }

    /// Marks what no location has as cancelled: the order goes on without it.
    pub fn cancel_unallocated(&mut self) {
        for line in &mut self.lines {
            line.cancelled = line.quantity.saturating_sub(line.allocated);
        }
    }

    /// Whether pieces are missing that nobody has given up.
    pub fn is_short(&self) -> bool {
        self.lines.iter().any(|line| line.allocated + line.cancelled < line.quantity)
    }

    /// Moves one shipment on and counts the lines anew. Unknown shipments are ignored.
    pub fn set_shipment_status(&mut self, id: ShipmentId, status: FulfilmentStatus) {
        if let Some(shipment) = self.shipments.iter_mut().find(|s| s.id == id) {
            shipment.status = status;
        }
        self.recompute_line_counts();
    }

    /// The shipment's money was taken, as far as it has any.
    pub fn set_captured(&mut self, id: ShipmentId) {
        if let Some(shipment) = self.shipments.iter_mut().find(|s| s.id == id) {
            shipment.captured = true;
        }
    }

    /// The shipment of that id.
    pub fn shipment(&self, id: ShipmentId) -> Option<&ShipmentState> {
        self.shipments.iter().find(|s| s.id == id)
    }

    pub(crate) fn recompute_line_counts(&mut self) {
        use FulfilmentStatus::*;
        for (number, line) in (0u32..).zip(&mut self.lines) {
            let pieces = |want: &[FulfilmentStatus]| -> u32 {
                self.shipments
                    .iter()
                    .filter(|s| want.contains(&s.status))
                    .flat_map(|s| &s.lines)
                    .filter(|l| l.line == number)
                    .map(|l| l.quantity)
                    .sum()
            };
            let (before, in_cancelled) = (line.allocated, pieces(&[Cancelled]));
            line.allocated = pieces(&[Pending, Booked, HandedOver, Delivered, Lost, Returned]);
            line.shipped = pieces(&[HandedOver, Delivered, Lost, Returned]);
            line.delivered = pieces(&[Delivered]);
            if before > line.allocated && in_cancelled > 0 {
                line.cancelled = line.quantity - line.allocated;
            }
        }
    }

    /// Everything of the order is given up: what is left of each line counts as cancelled.
    pub fn cancel_remaining(&mut self) {
        for shipment in self.shipments.iter_mut().filter(|s| s.is_open()) {
            shipment.status = FulfilmentStatus::Cancelled;
        }
        self.recompute_line_counts();
        for line in &mut self.lines {
            line.cancelled = line.quantity.saturating_sub(line.shipped);
        }
    }

    /// Where the shipments together put the order. Every shipment cancelled gives `cancelled`; nothing left gives
    /// `fulfilling`; at least one delivered and the rest settled gives `delivered`.
    pub fn shipping_status(&self) -> OrderStatus {
        use FulfilmentStatus::*;
        let active: Vec<&ShipmentState> = self.shipments.iter().filter(|s| s.status != Cancelled).collect();
        let open = active.iter().any(|s| s.is_open());
        let left = active.iter().any(|s| s.has_left());
        let on_the_way = active.iter().any(|s| s.status == HandedOver);
        let delivered = active.iter().any(|s| s.status == Delivered);
        match (active.is_empty(), left, open) {
            (true, ..) => OrderStatus::Cancelled,
            (_, false, _) => OrderStatus::Fulfilling,
            (_, true, true) => OrderStatus::PartiallyShipped,
            (_, true, false) if delivered && !on_the_way => OrderStatus::Delivered,
            (_, true, false) => OrderStatus::Shipped,
        }
    }

    /// How a completed order ended.
    pub fn final_outcome(&self) -> Outcome {
        if self.lines.iter().all(|l| l.delivered == l.quantity) { Outcome::Full } else { Outcome::Partial }
    }

    /// What the open shipments would capture.
    pub fn open_amount(&self) -> Amount {
        Amount::sum(self.shipments.iter().filter(|s| s.is_open()).map(|s| s.amount)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::{AvailableStock, allocate};
    use uuid::Uuid;

    fn two_shipments() -> OrderState {
        let line =
            OrderLine { sku: "S".parse().unwrap(), quantity: 3, unit_price: Amount::new(100).unwrap() };
        let mut available = AvailableStock::new();
        available.insert("S".parse().unwrap(), [("A".parse().unwrap(), 2), ("B".parse().unwrap(), 1)].into());
        let mut state = OrderState::received(std::slice::from_ref(&line));
        state.apply_allocation(&allocate(Uuid::nil().into(), &[line], &available));
        state
    }

    #[test]
    fn the_roll_up_follows_the_shipments() {
        use FulfilmentStatus as F;
        let cases = [
            (F::Booked, F::Booked, OrderStatus::Fulfilling),
            (F::HandedOver, F::Booked, OrderStatus::PartiallyShipped),
            (F::Delivered, F::Pending, OrderStatus::PartiallyShipped),
            (F::HandedOver, F::Cancelled, OrderStatus::Shipped),
            (F::HandedOver, F::Delivered, OrderStatus::Shipped),
            (F::Delivered, F::Delivered, OrderStatus::Delivered),
            (F::Delivered, F::Lost, OrderStatus::Delivered),
            (F::Delivered, F::Returned, OrderStatus::Delivered),
            (F::Lost, F::Lost, OrderStatus::Shipped),
            (F::Lost, F::Returned, OrderStatus::Shipped),
            (F::Returned, F::Cancelled, OrderStatus::Shipped),
            (F::Cancelled, F::Cancelled, OrderStatus::Cancelled),
        ];
        for (first, second, expected) in cases {
            let mut state = two_shipments();
            let ids: Vec<_> = state.shipments.iter().map(|s| s.id).collect();
            state.set_shipment_status(ids[0], first);
            state.set_shipment_status(ids[1], second);
            assert_eq!(state.shipping_status(), expected, "{first} and {second}");
        }
    }

    #[test]
    fn pieces_are_counted_by_what_became_of_them() {
        let mut state = two_shipments();
        let ids: Vec<_> = state.shipments.iter().map(|s| s.id).collect();
        state.set_shipment_status(ids[0], FulfilmentStatus::Delivered);
        state.set_shipment_status(ids[1], FulfilmentStatus::Cancelled);
        let line = &state.lines[0];
        assert_eq!((line.allocated, line.shipped, line.delivered, line.cancelled), (2, 2, 2, 1));
        assert_eq!(state.final_outcome(), Outcome::Partial);
        state.set_shipment_status(ids[1], FulfilmentStatus::Returned);
        let line = &state.lines[0];
        assert_eq!((line.shipped, line.delivered, line.returned), (3, 2, 0), "who receives it counts it");
        assert_eq!(state.final_outcome(), Outcome::Partial);
    }
}
