//! The state of an open order: its workflow owns it, and the read model publishes it.

use crate::{
    allocation::{Allocation, PlannedShipment, ShipmentLine},
    attention::{AttentionItem, AttentionReason, clear_attention_item},
    ids::{Location, ShipmentId, Sku},
    money::Amount,
    order::OrderLine,
    status::{FulfilmentStatus, IllegalTransition, OrderStatus, Outcome, PaymentStatus, transition},
};
use serde::{Deserialize, Serialize};

/// The progress of one line, in units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineState {
    /// The SKU.
    pub sku: Sku,
    /// Ordered.
    pub quantity: u32,
    /// Reserved for this order.
    pub allocated: u32,
    /// Handed over to the carrier.
    pub shipped: u32,
    /// Arrived, and not brought back by the carrier.
    pub delivered: u32,
    /// Will not ship.
    pub cancelled: u32,
    /// Returned, as counted at receipt. The order's workflow has no such count.
    pub returned: u32,
}

/// The progress of one shipment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShipmentState {
    /// Its id.
    pub id: ShipmentId,
    /// The location that it ships from.
    pub location: Location,
    /// Its status.
    pub status: FulfilmentStatus,
    /// The amount that is captured at its hand-over.
    pub amount: Amount,
    /// The carrier's tracking number, once a label is booked.
    pub tracking_number: Option<String>,
    /// Its lines.
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
    /// Returns whether it can still be stopped: it was neither handed over nor cancelled.
    pub fn is_open(&self) -> bool {
        matches!(self.status, FulfilmentStatus::Pending | FulfilmentStatus::Booked)
    }

    /// Returns whether the shipment has left the warehouse, regardless of its later status.
    pub fn has_left(&self) -> bool {
        use FulfilmentStatus::*;
        matches!(self.status, HandedOver | Delivered | Lost | Returned)
    }
}

/// The state of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    /// The status of the order as a whole.
    pub status: OrderStatus,
    /// Set once the order is completed.
    pub outcome: Option<Outcome>,
    /// The status of its payment.
    pub payment_status: PaymentStatus,
    /// Set while the order requires operator attention.
    pub attention: Option<AttentionReason>,
    /// The amount authorized at the provider, the captured part included; 0 again after a void.
    pub authorized: Amount,
    /// The captured amount.
    pub captured: Amount,
    /// The refunded amount.
    pub refunded: Amount,
    /// In the order's sequence.
    pub lines: Vec<LineState>,
    /// Known once stock is reserved.
    pub shipments: Vec<ShipmentState>,
    /// All attention items; `attention` is the reason of the latest.
    #[serde(default)]
    pub needs: Vec<AttentionItem>,
    /// Whether the payment waits for an action of the customer.
    #[serde(default)]
    pub payment_action: bool,
    /// Partial amounts are multiples of this many minor units ([`crate::provider_currency::amount_increment`]). Unknown
    /// before stock is reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "share_unit")]
    pub amount_increment: Option<i64>,
}

impl OrderState {
    /// The state of an order that was just accepted.
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

    /// Adds an attention item. Returns whether it is new.
    pub fn raise_attention_item(&mut self, item: AttentionItem) -> bool {
        let known = self.needs.iter().any(|n| n.reason == item.reason && n.subject == item.subject);
        if !known {
            self.needs.push(item);
        }
        self.attention = self.needs.last().map(|n| n.reason);
        !known
    }

    /// Clears attention items. Returns whether there were any.
    pub fn clear_attention_item(&mut self, reason: AttentionReason, about: Option<&str>) -> bool {
        let settled = clear_attention_item(&mut self.needs, reason, about);
        self.attention = self.needs.last().map(|n| n.reason);
        settled
    }

    /// Moves the order to another status.
    ///
    /// # Errors
    /// If the lifecycle has no such transition; the state is unchanged.
    pub fn transition_to(&mut self, to: OrderStatus) -> Result<(), IllegalTransition> {
        self.status = transition(self.status, to)?;
        Ok(())
    }

    /// Applies the allocation of stock.
    pub fn apply_allocation(&mut self, allocation: &Allocation) {
        self.amount_increment = allocation.share_unit;
        self.shipments = allocation.shipments.iter().map(ShipmentState::from).collect();
        self.recompute_line_counts();
    }

    /// Marks the units that no location has as cancelled: the order continues without them.
    pub fn cancel_unallocated(&mut self) {
        for line in &mut self.lines {
            line.cancelled = line.quantity.saturating_sub(line.allocated);
        }
    }

    /// Returns whether units are missing that were not cancelled.
    pub fn is_short(&self) -> bool {
        self.lines.iter().any(|line| line.allocated + line.cancelled < line.quantity)
    }

    /// Sets the status of one shipment and recomputes the lines. Ignores unknown shipments.
    pub fn set_shipment_status(&mut self, id: ShipmentId, status: FulfilmentStatus) {
        if let Some(shipment) = self.shipments.iter_mut().find(|s| s.id == id) {
            shipment.status = status;
        }
        self.recompute_line_counts();
    }

    /// Marks the shipment's amount as captured, also if it is zero.
    pub fn set_captured(&mut self, id: ShipmentId) {
        if let Some(shipment) = self.shipments.iter_mut().find(|s| s.id == id) {
            shipment.captured = true;
        }
    }

    /// The shipment with that id.
    pub fn shipment(&self, id: ShipmentId) -> Option<&ShipmentState> {
        self.shipments.iter().find(|s| s.id == id)
    }

    pub(crate) fn recompute_line_counts(&mut self) {
        use FulfilmentStatus::*;
        for (number, line) in (0u32..).zip(&mut self.lines) {
            let units = |want: &[FulfilmentStatus]| -> u32 {
                self.shipments
                    .iter()
                    .filter(|s| want.contains(&s.status))
                    .flat_map(|s| &s.lines)
                    .filter(|l| l.line == number)
                    .map(|l| l.quantity)
                    .sum()
            };
            let (before, in_cancelled) = (line.allocated, units(&[Cancelled]));
            line.allocated = units(&[Pending, Booked, HandedOver, Delivered, Lost, Returned]);
            line.shipped = units(&[HandedOver, Delivered, Lost, Returned]);
            line.delivered = units(&[Delivered]);
            if before > line.allocated && in_cancelled > 0 {
                line.cancelled = line.quantity - line.allocated;
            }
        }
    }

    /// Cancels the rest of the order: the units of each line that have not left.
    pub fn cancel_remaining(&mut self) {
        for shipment in self.shipments.iter_mut().filter(|s| s.is_open()) {
            shipment.status = FulfilmentStatus::Cancelled;
        }
        self.recompute_line_counts();
        for line in &mut self.lines {
            line.cancelled = line.quantity.saturating_sub(line.shipped);
        }
    }

    /// The order status that follows from the shipments: `cancelled` if every shipment is cancelled; `fulfilling` if
    /// none has left; `delivered` if at least one is delivered and none is open or in transit.
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

    /// The outcome of a completed order.
    pub fn final_outcome(&self) -> Outcome {
        if self.lines.iter().all(|l| l.delivered == l.quantity) { Outcome::Full } else { Outcome::Partial }
    }

    /// The amount that the open shipments would capture.
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
    fn order_status_follows_its_shipments() {
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
    fn units_are_counted_by_shipment_status() {
        let mut state = two_shipments();
        let ids: Vec<_> = state.shipments.iter().map(|s| s.id).collect();
        state.set_shipment_status(ids[0], FulfilmentStatus::Delivered);
        state.set_shipment_status(ids[1], FulfilmentStatus::Cancelled);
        let line = &state.lines[0];
        assert_eq!((line.allocated, line.shipped, line.delivered, line.cancelled), (2, 2, 2, 1));
        assert_eq!(state.final_outcome(), Outcome::Partial);
        state.set_shipment_status(ids[1], FulfilmentStatus::Returned);
        let line = &state.lines[0];
        assert_eq!((line.shipped, line.delivered, line.returned), (3, 2, 0), "counted at receipt");
        assert_eq!(state.final_outcome(), Outcome::Partial);
    }
}
