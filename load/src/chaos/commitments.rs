//! Compares the responses to clients with the final state of the orders.

use std::collections::BTreeMap;

use waybill_domain::event::OrderEvent as E;
use waybill_domain::status::OrderStatus;

use super::environment::{Commitment, RequestLog};
use waybill_stack::invariants::{Order, Violation};

/// Returns the commitments to clients that are not kept.
pub fn check(log: &RequestLog, orders: &BTreeMap<String, Order>) -> Vec<Violation> {
    let mut found: Vec<Violation> = Vec::new();
    for violations in &log.wrong {
        found.push(Violation {
            order: None,
            rule: "responses follow the contract",
            detail: violations.clone(),
        });
    }
    for (id, commitments) in &log.commitments {
        let Some(order) = orders.get(id) else {
            let rule = "each acknowledged order exists";
            found.push(Violation {
                order: Some(id.clone()),
                rule,
                detail: "the order does not exist".to_owned(),
            });
            continue;
        };
        let units =
            commitments.iter().filter(|commitment| **commitment == Commitment::OneUnitCancelled).count();
        let cancelled = order.lines.first().map_or(0, |line| line.cancelled as usize);
        if units > cancelled && order.status != OrderStatus::Cancelled {
            let detail =
                format!("{units} one-unit cancellations were accepted, {cancelled} units are cancelled");
            found.push(order.violation("responses to clients stay true", detail));
        }
        let broken = commitments.iter().filter(|commitment| !is_kept(order, commitment));
        found.extend(broken.map(|commitment| {
            let detail = format!("{commitment:?}, and the order is {}", order.status);
            order.violation("responses to clients stay true", detail)
        }));
    }
    found
}

fn is_kept(order: &Order, commitment: &Commitment) -> bool {
    let cancelled = order.status == OrderStatus::Cancelled;
    match commitment {
        // Cancellations of units are checked together.
        Commitment::Accepted | Commitment::OneUnitCancelled => true,
        Commitment::Cancelled => cancelled,
        // The carrier may have picked up the parcel or may fail to stop it; the timeline contains the rejection.
        Commitment::Cancelling => {
            let rejected = |event: &E| {
                matches!(
                    event,
                    E::CancelRejected { .. } | E::ShipmentCancelRejected { .. } | E::HandedOver { .. }
                )
            };
            cancelled
                || order.has_event(|event| matches!(event, E::CancelRequested { .. }))
                    && order.has_event(rejected)
        }
        // A successor run has no record of a decision that was not yet processed when the workflow was terminated.
        Commitment::Answered(kind) => {
            order.has_event(|event| event.deduplication_key().as_deref() == Some(kind))
                || cancelled && order.has_event(|event| matches!(event, E::TakenOver { .. }))
        }
        Commitment::Refund => order.has_event(|event| matches!(event, E::RefundRequested { .. })),
        Commitment::Return => order.has_event(|event| matches!(event, E::ReturnRequested { .. })),
    }
}
