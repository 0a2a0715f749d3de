//! The invariants of every timeline, valid at any time.

use std::collections::BTreeMap;

use waybill_domain::event::OrderEvent;
use waybill_domain::status::OrderStatus;

/// One row of `order_events`.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    /// Its sequence number in the order.
    pub seq: i64,
    /// The order's status after the event.
    pub status: OrderStatus,
    /// The event.
    pub event: OrderEvent,
}

/// Returns the broken rules of a timeline.
pub fn check(entries: &[StoredEntry]) -> Vec<String> {
    let mut violations = Vec::new();
    for (expected, entry) in (1..).zip(entries) {
        if entry.seq != expected {
            violations.push(format!("seq {expected} is missing"));
            break;
        }
    }
    for pair in entries.windows(2) {
        let (before, after) = (pair[0].status, pair[1].status);
        if before != after && !before.allowed_next().contains(&after) {
            violations.push(format!("{before} is followed by {after} at seq {}", pair[1].seq));
        }
    }
    let mut times = BTreeMap::<String, usize>::new();
    for key in entries.iter().filter_map(|entry| unique_key(&entry.event)) {
        *times.entry(key).or_default() += 1;
    }
    violations.extend(
        times
            .into_iter()
            .filter(|(_, times)| *times > 1)
            .map(|(key, times)| format!("{key} occurs {times} times")),
    );
    violations
}

/// Returns the key of an event that may occur only once. Clients may repeat cancellation requests.
fn unique_key(event: &OrderEvent) -> Option<String> {
    use OrderEvent as E;
    match event {
        E::CancelRequested { .. } => None,
        E::RefundRequested { refund_id, .. } => Some(format!("refund.requested:{refund_id}")),
        E::RefundPending { refund_id, .. } => Some(format!("refund.pending:{refund_id}")),
        E::Refunded { refund_id, .. } => Some(format!("payment.refunded:{refund_id}")),
        E::RefundFailed { refund_id, .. } => Some(format!("refund.failed:{refund_id}")),
        E::ReturnRequested { return_id, .. } => Some(format!("return.requested:{return_id}")),
        E::ReturnReceived { return_id, .. } => Some(format!("return.received:{return_id}")),
        E::ReturnClosed { return_id, .. } => Some(format!("return.closed:{return_id}")),
        E::DisputeOpened { dispute_id, .. } => Some(format!("dispute.opened:{dispute_id}")),
        E::LeftWithMissingItems { shipment_id, .. } => Some(format!("stock.gone:{shipment_id}")),
        other => other.deduplication_key(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OrderStatus as S;

    fn entries(statuses: &[OrderStatus]) -> Vec<StoredEntry> {
        let event = OrderEvent::StatusChanged {};
        (1..)
            .zip(statuses)
            .map(|(seq, status)| StoredEntry { seq, status: *status, event: event.clone() })
            .collect()
    }

    #[test]
    fn second_terminal_status_and_step_back_are_found() {
        assert_eq!(check(&entries(&[S::Received, S::Reserving, S::Reserving, S::Rejected])), [""; 0]);
        let twice = check(&entries(&[S::Received, S::Reserving, S::Rejected, S::Received, S::Cancelled]));
        assert_eq!(twice, ["rejected is followed by received at seq 4"]);
        assert_eq!(check(&entries(&[S::Shipped, S::Completed])).len(), 1);
    }

    #[test]
    fn gap_in_sequence_is_found() {
        let mut gap = entries(&[S::Received, S::Received, S::Received]);
        gap.remove(1);
        assert_eq!(check(&gap), ["seq 2 is missing"]);
    }

    #[test]
    fn repeated_event_is_found_but_repeated_request_is_not() {
        let shipment_id = waybill_domain::ids::ShipmentId(uuid::Uuid::nil());
        let mut recorded = entries(&[S::Shipped, S::Shipped]);
        for entry in &mut recorded {
            entry.event = OrderEvent::HandedOver { shipment_id };
        }
        assert_eq!(check(&recorded).len(), 1);
        for entry in &mut recorded {
            entry.event = OrderEvent::CancelRequested {
                reason: "again".into(),
                source: "api".into(),
                lines: None,
                pieces: Vec::new(),
                request: None,
            };
        }
        assert_eq!(check(&recorded), [""; 0]);
    }
}
