//! The read model, told twice: what a lost workflow task told is there, and its repetition adds nothing.

use crate::support::{builder, kinds, order_with, place};
use waybill_domain::{
    event::{Entry, OrderEvent},
    ids::OrderId,
    state::OrderState,
    status::OrderStatus,
};
use waybill_store::projection;

fn entry(event: OrderEvent, status: OrderStatus) -> Entry {
    Entry { event, status }
}

#[tokio::test]
async fn what_a_lost_task_told_in_several_writes_is_told_once() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let id = place(&stack.client, &order_with(|_| {})).await;
    let order: OrderId = id.parse().unwrap();
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let state = OrderState::received(&[]);
    let writes = [
        vec![entry(OrderEvent::ActionRequired {}, OrderStatus::Authorizing)],
        vec![entry(OrderEvent::Confirmed {}, OrderStatus::Confirmed)],
        vec![entry(
            OrderEvent::CancelRefused { status: OrderStatus::Shipped, lines: None },
            OrderStatus::Shipped,
        )],
    ];
    // The task is lost after its second write, and after its third.
    for lost_after in [2, 3] {
        let mut base = 1;
        for write in &writes[..lost_after] {
            base = projection::apply(&pool, order, base, write, &state).await.unwrap().version;
        }
    }
    let told = kinds(&stack.client, &id).await;
    assert_eq!(
        told,
        ["order.received", "payment.action_required", "order.confirmed", "cancellation.refused"]
    );
    stack.stop().await;
}
