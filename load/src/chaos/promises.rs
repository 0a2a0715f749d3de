//! Compares the responses to clients with the final state of the orders.

use std::collections::BTreeMap;

use waybill_domain::event::OrderEvent as E;
use waybill_domain::status::OrderStatus;

use super::world::{Log, Promise};
use waybill_stack::invariants::{Order, Violation};

/// Returns the commitments to clients that are not kept.
pub fn check(log: &Log, orders: &BTreeMap<String, Order>) -> Vec<Violation> {
    let mut found: Vec<Violation> = Vec::new();
    for wrong in &log.wrong {
        found.push(Violation { order: None, rule: "responses follow the contract", detail: wrong.clone() });
    }
    for (id, promises) in &log.promises {
        let Some(order) = orders.get(id) else {
            let rule = "each acknowledged order exists";
            found.push(Violation { order: Some(id.clone()), rule, detail: "the order does not exist".to_owned() });
            continue;
        };
        let units = promises.iter().filter(|promise| **promise == Promise::OneUnitCancelled).count();
        let cancelled = order.lines.first().map_or(0, |line| line.cancelled as usize);
        if units > cancelled && order.status != OrderStatus::Cancelled {
            let detail = format!("{units} one-unit cancellations were accepted, {cancelled} units are cancelled");
            found.push(order.breaks("responses to clients stay true", detail));
        }
        let broken = promises.iter().filter(|promise| !holds(order, promise));
        found.extend(broken.map(|promise| {
            let detail = format!("{promise:?}, and the order is {}", order.status);
            order.breaks("responses to clients stay true", detail)
        }));
    }
    found
}

fn holds(order: &Order, promise: &Promise) -> bool {
    let cancelled = order.status == OrderStatus::Cancelled;
    match promise {
        // Cancellations of units are checked together.
        Promise::Accepted | Promise::OneUnitCancelled => true,
        Promise::Cancelled => cancelled,
        // The carrier may have picked up the parcel or may fail to stop it; the timeline contains the rejection.
        Promise::Cancelling => {
            let refused = |event: &E| {
                matches!(
                    event,
                    E::CancelRefused { .. } | E::ShipmentCancelRefused { .. } | E::HandedOver { .. }
                )
            };
            cancelled || order.has(|event| matches!(event, E::CancelRequested { .. })) && order.has(refused)
        }
        // A successor run has no record of a decision that was not yet processed when the workflow was terminated.
        Promise::Answered(kind) => {
            order.has(|event| event.fact_key().as_deref() == Some(kind))
                || cancelled && order.has(|event| matches!(event, E::Inherited { .. }))
        }
        Promise::Refund => order.has(|event| matches!(event, E::RefundRequested { .. })),
        Promise::Return => order.has(|event| matches!(event, E::ReturnRequested { .. })),
    }
}
