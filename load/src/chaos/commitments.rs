//! What clients were answered against what became of it.

use std::collections::BTreeMap;

use waybill_domain::event::OrderEvent as E;
use waybill_domain::status::OrderStatus;

use super::world::{Commitment, RequestLog};
use waybill_stack::invariants::{Order, Violation};

/// What was promised and is not so.
pub fn check(log: &RequestLog, orders: &BTreeMap<String, Order>) -> Vec<Violation> {
    let mut found: Vec<Violation> = Vec::new();
    for wrong in &log.wrong {
        found.push(Violation { order: None, rule: "answers follow the contract", detail: wrong.clone() });
    }
    for (id, promises) in &log.promises {
        let Some(order) = orders.get(id) else {
            let rule = "each acknowledged order exists";
            found.push(Violation { order: Some(id.clone()), rule, detail: "it does not".to_owned() });
            continue;
        };
        let units = promises.iter().filter(|promise| **promise == Commitment::OneUnitCancelled).count();
        let cancelled = order.lines.first().map_or(0, |line| line.cancelled as usize);
        if units > cancelled && order.status != OrderStatus::Cancelled {
            let detail = format!("{units} cancellations of one unit each, and {cancelled} are cancelled");
            found.push(order.violation("what a client was answered stays true", detail));
        }
        let broken = promises.iter().filter(|promise| !is_kept(order, promise));
        found.extend(broken.map(|promise| {
            let detail = format!("{promise:?}, and the order is {}", order.status);
            order.violation("what a client was answered stays true", detail)
        }));
    }
    found
}

fn is_kept(order: &Order, promise: &Commitment) -> bool {
    let cancelled = order.status == OrderStatus::Cancelled;
    match promise {
        // Cancellations of units are counted together.
        Commitment::Accepted | Commitment::OneUnitCancelled => true,
        Commitment::Cancelled => cancelled,
        // The carrier may have the goods already, or not stop them; what was said to the client is in the timeline.
        Commitment::Cancelling => {
            let refused = |event: &E| {
                matches!(
                    event,
                    E::CancelRejected { .. } | E::ShipmentCancelRejected { .. } | E::HandedOver { .. }
                )
            };
            cancelled
                || order.has_event(|event| matches!(event, E::CancelRequested { .. }))
                    && order.has_event(refused)
        }
        // A successor run does not know of an answer that nobody had acted on when the workflow was terminated.
        Commitment::Answered(kind) => {
            order.has_event(|event| event.deduplication_key().as_deref() == Some(kind))
                || cancelled && order.has_event(|event| matches!(event, E::TakenOver { .. }))
        }
        Commitment::Refund => order.has_event(|event| matches!(event, E::RefundRequested { .. })),
        Commitment::Return => order.has_event(|event| matches!(event, E::ReturnRequested { .. })),
    }
}
