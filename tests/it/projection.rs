//! A repeated workflow task writes each entry of the read model once, and published state is never rolled back.

use crate::support::{builder, event_types, order_with, place};
use waybill_domain::{
    event::{OrderEvent, TimelineEntry},
    ids::OrderId,
    state::OrderState,
    status::OrderStatus,
};
use waybill_stack::Stack;
use waybill_store::orders::projection::{self, ProjectionOutcome};

fn entry(event: OrderEvent, status: OrderStatus) -> TimelineEntry {
    TimelineEntry { event, status }
}

/// An order without a worker; the test writes in place of its workflow. It writes incomplete timelines, so the stack
/// does not check the invariants.
async fn order_to_project() -> (Stack, waybill_store::PgPool, OrderId) {
    let stack = builder().await.worker(false).check_invariants(false).start().await.unwrap();
    let id = place(&stack.client, &order_with(|_| {})).await;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    (stack, pool, id.parse().unwrap())
}

fn rejected() -> TimelineEntry {
    entry(OrderEvent::Rejected { reason: "out_of_stock".into() }, OrderStatus::Rejected)
}

fn cancelled() -> TimelineEntry {
    entry(OrderEvent::Cancelled { reason: "changed my mind".into() }, OrderStatus::Cancelled)
}

fn in_status(status: OrderStatus) -> OrderState {
    OrderState { status, ..OrderState::received(&[]) }
}

#[tokio::test]
async fn repeated_task_writes_each_entry_once() {
    let (stack, pool, order) = order_to_project().await;
    let state = in_status(OrderStatus::Shipped);
    let writes = [
        vec![entry(OrderEvent::ActionRequired {}, OrderStatus::Authorizing)],
        vec![entry(OrderEvent::Confirmed {}, OrderStatus::Confirmed)],
        vec![entry(OrderEvent::cancel_rejected(OrderStatus::Shipped, None, None), OrderStatus::Shipped)],
    ];
    // The workflow task is lost after its second write, and after its third.
    for lost_after in [2, 3] {
        let mut base = 1;
        for write in &writes[..lost_after] {
            let applied = projection::apply(&pool, order, base, write, &state).await.unwrap();
            base = applied.version().unwrap();
        }
    }
    let recorded = event_types(&stack.client, &order.to_string()).await;
    assert_eq!(
        recorded,
        ["order.received", "payment.action_required", "order.confirmed", "cancellation.refused"]
    );
    stack.stop().await;
}

#[tokio::test]
async fn diverging_events_after_base_version_conflict() {
    let (stack, pool, order) = order_to_project().await;
    let reserving = entry(OrderEvent::StockShort { short: Vec::new() }, OrderStatus::Reserving);
    let lost = [reserving.clone(), rejected()];
    projection::apply(&pool, order, 1, &lost, &in_status(OrderStatus::Rejected)).await.unwrap();
    let state = in_status(OrderStatus::Cancelled);
    for again in [vec![cancelled()], vec![reserving, cancelled()]] {
        let applied = projection::apply(&pool, order, 1, &again, &state).await.unwrap();
        assert_eq!(applied, ProjectionOutcome::Conflict);
    }
    // The same event in another status is another entry.
    let elsewhere = [entry(OrderEvent::StockShort { short: Vec::new() }, OrderStatus::AwaitingCustomer)];
    let applied = projection::apply(&pool, order, 1, &elsewhere, &state).await.unwrap();
    assert_eq!(applied, ProjectionOutcome::Conflict);
    let id = order.to_string();
    assert_eq!(event_types(&stack.client, &id).await, ["order.received", "stock.short", "order.rejected"]);
    assert_eq!(stack.client.get(&id).await.unwrap().body["status"], "rejected");
    stack.stop().await;
}

#[tokio::test]
async fn terminal_status_is_final_for_any_writer() {
    let (stack, pool, order) = order_to_project().await;
    let end = [rejected()];
    let ended = projection::apply(&pool, order, 1, &end, &in_status(OrderStatus::Rejected)).await;
    let version = ended.unwrap().version().unwrap();
    let state = in_status(OrderStatus::Cancelled);
    let applied = projection::apply(&pool, order, version, &[cancelled()], &state).await.unwrap();
    assert_eq!(applied, ProjectionOutcome::Conflict);
    let entries = [cancelled()];
    let change =
        projection::OrderChange { id: order, base_version: version, entries: &entries, state: &state };
    assert_eq!(projection::apply_batch(&pool, &[change]).await.unwrap(), [None], "nor in a batch");
    let late = [entry(OrderEvent::cancel_rejected(OrderStatus::Rejected, None, None), OrderStatus::Rejected)];
    let applied = projection::apply(&pool, order, version, &late, &in_status(OrderStatus::Rejected)).await;
    assert!(matches!(applied.unwrap(), ProjectionOutcome::Appended { .. }), "a late event must be appended");
    stack.stop().await;
}
