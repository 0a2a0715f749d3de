//! An order ends once, whatever comes in while it ends.

use crate::{books::check_closed, support::*};
use futures::future::join_all;
use std::time::Duration;
use waybill_dev::stack::Stack;
use waybill_domain::status::OrderStatus;

/// Orders of one run, each cancelled a little later than the one before.
const ORDERS: u64 = 60;
/// The latest cancel, in milliseconds: by then an order that is out of stock has been rejected.
const CANCEL_WITHIN_MS: u64 = 80;

/// Checks that the timeline moves along the lifecycle and ends once, and gives the status that it ends in.
async fn check_one_ending(stack: &Stack, id: &str) -> OrderStatus {
    let events = timeline(&stack.client, id).await;
    let statuses: Vec<OrderStatus> =
        events.iter().map(|e| e["status"].as_str().unwrap().parse().unwrap()).collect();
    for pair in statuses.windows(2) {
        assert!(pair[0] == pair[1] || pair[0].next().contains(&pair[1]), "{pair:?}: {events:#?}");
    }
    *statuses.last().unwrap()
}

async fn cancel_by_signal(id: &str) {
    let workflow = format!("order:{id}");
    let server = &waybill_dev::servers::Servers::for_tests().await.unwrap().temporal;
    // The workflow may have ended already.
    let _ = server.cli(&["workflow", "signal", "-w", &workflow, "--name", "cancel"]).await;
}

/// The status that the workflow answered at its end.
async fn result_of(id: &str) -> String {
    let workflow = format!("order:{id}");
    until("the workflow has ended", || async {
        let shown = temporal(&["workflow", "describe", "-w", &workflow, "-o", "json"]).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        Some(shown["result"]["status"].as_str()?.to_owned())
    })
    .await
}

#[tokio::test]
async fn cancel_during_rejection_leaves_one_ending() {
    let stack = stack().await;
    let ended = join_all((0..ORDERS).map(|number| {
        let stack = &stack;
        async move {
            let id = place(&stack.client, &order(&[("NO-SUCH-SKU", 1)])).await;
            tokio::time::sleep(Duration::from_millis(CANCEL_WITHIN_MS * number / ORDERS)).await;
            cancel_by_signal(&id).await;
            let result = result_of(&id).await;
            let order = check_closed(stack, &id).await;
            let shown = check_one_ending(stack, &id).await;
            assert!(shown.is_terminal());
            assert_eq!((shown.as_str(), order["status"].as_str()), (&*result, Some(&*result)));
            result
        }
    }))
    .await;
    println!("{} of {ORDERS} were cancelled", ended.iter().filter(|end| *end == "cancelled").count());
    stack.stop().await;
}
