//! A workflow task that is lost with its worker has had its effects: an authorization or a label may exist that no
//! history contains. The task runs again, and a cancel that arrived in the meantime precedes all of its steps.

mod labels;
mod money;
mod timeline;

use crate::{
    accounting::*, operator_actions::wait_for_attention, payment::authenticate, replay::assert_replays,
    support::*,
};
use futures::future::join_all;
use serde_json::{Value, json};
use waybill_domain::{
    event::{LineQuantity, OrderEvent, TimelineEntry},
    ids::OrderId,
    lines::{LineSelection, LineSelector},
    money::Amount,
    state::OrderState,
    status::{FulfilmentStatus, OrderStatus},
};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;
use waybill_store::{
    orders::projection::{self, ProjectionOutcome},
    payments::{self, OperationKind, OperationResult, OperationState},
};

/// One order for each way to cancel.
type OrderIds = [String; 3];

async fn signal(id: &str, name: &str, input: &str) {
    let workflow = format!("order:{id}");
    temporal(&["workflow", "signal", "-w", &workflow, "--name", name, "--input", input]).await;
}

async fn three(stack: &Stack, order: impl Fn() -> Value) -> OrderIds {
    let mut ids = OrderIds::default();
    for id in &mut ids {
        *id = place(&stack.client, &order()).await;
    }
    ids
}

fn rule(route: Route, fault: Fault, about: Option<&str>) -> Rule {
    Rule { route, fault, times: None, matching: about.map(str::to_owned) }
}

async fn approve(ids: &OrderIds) {
    for id in ids {
        signal(id, "decide", r#"{"decision": "approve", "reason": "known"}"#).await;
    }
}

/// Waits until this many requests are stalled, kills the worker and resumes the requests: the servers still carry them
/// out. Then cancels all orders, each of three in another way, and starts another worker.
async fn cancel_after_the_worker_died(stack: &mut Stack, at_work: usize, orders: &[&OrderIds]) {
    let held_up = |stack: &Stack| stack.carrier.stalled().len() + stack.payments.stalled().len();
    wait_until("all requests to stall", || async { (held_up(stack) == at_work).then_some(()) }).await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    stack.payments.set_faults(Vec::new());
    wait_until("the stalled requests to complete", || async { (held_up(stack) == 0).then_some(()) }).await;
    for [by_signal, by_engine, _] in orders {
        signal(by_signal, "cancel", r#"{"reason": "changed my mind"}"#).await;
        temporal(&["workflow", "cancel", "-w", &format!("order:{by_engine}")]).await;
    }
    let client = stack.client.clone();
    let by_http = join_all(orders.iter().map(|[.., id]| client.cancel(id, "changed my mind", false)));
    let (replies, started) = tokio::join!(by_http, stack.add_worker());
    started.unwrap();
    for reply in replies.into_iter().map(Result::unwrap) {
        assert!([200, 202].contains(&reply.status.as_u16()), "{}", reply.body);
    }
    for [by_signal, by_engine, by_http] in orders {
        for (id, source) in [(by_signal, "signal"), (by_engine, "engine"), (by_http, "api")] {
            wait_for_status(&stack.client, id, "cancelled").await;
            check_closed_order(stack, id).await;
            let reported = timeline(&stack.client, id).await;
            let request = reported.iter().rfind(|entry| entry["type"] == "cancellation.requested").unwrap();
            assert_eq!(request["data"]["source"], source);
            assert_eq!(reported.last().unwrap()["data"]["reason"], request["data"]["reason"]);
        }
    }
}

/// Writes to the read model what the killed worker would have written in its lost workflow task.
async fn write_as_unrecorded_task(
    stack: &Stack,
    id: &str,
    events: Vec<OrderEvent>,
    change: impl Fn(&mut OrderState),
) {
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let id = id.parse().unwrap();
    let order = waybill_store::orders::get(&pool, id).await.unwrap().unwrap();
    let mut state = order.state;
    change(&mut state);
    let status = state.status;
    let entries: Vec<TimelineEntry> =
        events.into_iter().map(|event| TimelineEntry { event, status }).collect();
    let written = projection::apply(&pool, id, order.version, &entries, &state).await.unwrap();
    assert!(matches!(written, ProjectionOutcome::Appended { .. }), "{written:?}");
}

fn retrying(step: &str) -> OrderEvent {
    OrderEvent::StepRetrying { step: step.to_owned() }
}
