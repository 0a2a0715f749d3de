//! What clients were answered against what became of it.

use std::collections::BTreeMap;

use waybill_domain::event::OrderEvent as E;
use waybill_domain::status::OrderStatus;

use super::world::{Log, Promise};
use waybill_stack::invariants::{Order, Violation};

/// What was promised and is not so.
pub fn check(log: &Log, orders: &BTreeMap<String, Order>) -> Vec<Violation> {
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
        let units = promises.iter().filter(|promise| **promise == Promise::OneUnitCancelled).count();
        let cancelled = order.lines.first().map_or(0, |line| line.cancelled as usize);
        if units > cancelled && order.status != OrderStatus::Cancelled {
            let detail = format!("{units} cancellations of one unit each, and {cancelled} are cancelled");
            found.push(order.breaks("what a client was answered stays true", detail));
        }
        let broken = promises.iter().filter(|promise| !holds(order, promise));
        found.extend(broken.map(|promise| {
            let detail = format!("{promise:?}, and the order is {}", order.status);
            order.breaks("what a client was answered stays true", detail)
        }));
    }
    found
}

fn holds(order: &Order, promise: &Promise) -> bool {
    let cancelled = order.status == OrderStatus::Cancelled;
    match promise {
        // Cancellations of units are counted together.
        Promise::Accepted | Promise::OneUnitCancelled => true,
        Promise::Cancelled => cancelled,
        // The carrier may have the goods already, or not stop them; what was said to the client is in the timeline.
        Promise::Cancelling => {
            let refused = |event: &E| {
                matches!(
                    event,
                    E::CancelRefused { .. } | E::ShipmentCancelRefused { .. } | E::HandedOver { .. }
                )
            };
            cancelled || order.has(|event| matches!(event, E::CancelRequested { .. })) && order.has(refused)
        }
        // A successor run does not know of an answer that nobody had acted on when the workflow was terminated.
        Promise::Answered(kind) => {
            order.has(|event| event.fact_key().as_deref() == Some(kind))
                || cancelled && order.has(|event| matches!(event, E::Inherited { .. }))
        }
        Promise::Refund => order.has(|event| matches!(event, E::RefundRequested { .. })),
        Promise::Return => order.has(|event| matches!(event, E::ReturnRequested { .. })),
    }
}
