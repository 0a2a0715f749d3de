//! Shortfalls of orders whose workflow task or run was lost.

use super::*;

#[tokio::test]
async fn cancel_releases_replacement_of_unrecorded_task() {
    let mut stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    let id = labelled(&stack, 3).await;
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    wait_for_attention(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, SKU, &[("RTM", 5)]).await;
    let stall = Rule { route: Route::Book, fault: Fault::Stall, times: None, matching: None };
    stack.carrier.set_faults(vec![stall]);
    retry(&stack, &id).await;
    wait_until("the booking of a new label", || async {
        (!stack.carrier.stalled().is_empty()).then_some(())
    })
    .await;
    assert_eq!(level_now(&stack, "RTM").await, (5, 2, 3, 0));
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    wait_until("the carrier to book it", || async { stack.carrier.stalled().is_empty().then_some(()) }).await;
    let input = r#"{"reason": "no longer wanted"}"#;
    temporal(&["workflow", "signal", "-w", &format!("order:{id}"), "--name", "cancel", "--input", input])
        .await;
    stack.add_worker().await.unwrap();
    wait_for_status(&stack.client, &id, "cancelled").await;
    check_closed_order(&stack, &id).await;
    let labels = stack.carrier.snapshot();
    assert!(!labels.to_string().contains("\"booked\""), "a label was not cancelled: {labels:#}");
    assert_eq!(
        (level_now(&stack, "AMS").await, level_now(&stack, "RTM").await),
        ((1, 0, 1, 0), (5, 0, 5, 0))
    );
    stack.stop().await;
}

#[tokio::test]
async fn successor_run_releases_unrecorded_replacement() {
    // The items are moved to another shipment, and the workflow never receives the result.
    let sweep = builder().await.env("WAYBILL_SWEEP_AGE_SECONDS", 0).env("WAYBILL_SWEEP_SECONDS", 86_400);
    let stack = sweep.env("WAYBILL_CHAOS", "lose:settle_shortfall:1000").start().await.unwrap();
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    put_stock(&stack.client, "OTHER", &[("MUC", 9)]).await;
    let id = place(&stack.client, &order(&[(SKU, 3), ("OTHER", 1)])).await;
    let order = wait_for_status(&stack.client, &id, "fulfilling").await;
    let other = values(&order["shipments"]).into_iter().find(|s| s["location"] == "MUC").unwrap().clone();
    count_at(&stack, "AMS", 1, true).await.success().unwrap();
    wait_for_attention(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, SKU, &[("RTM", 5)]).await;
    retry(&stack, &id).await;
    wait_until("the items to be moved", || async { (level_now(&stack, "RTM").await.1 == 2).then_some(()) })
        .await;

    // The carrier rejects the cancellation of the other shipment, so its reservation must stay.
    let matching = other["id"].as_str().map(str::to_owned);
    stack.carrier.set_faults(vec![Rule {
        route: Route::Cancel,
        fault: Fault::Refuse,
        times: None,
        matching,
    }]);
    terminate(&id).await;
    sweep_until_resumed(&stack, &id).await;
    wait_for_event(&stack.client, &id, "stock.released").await;
    assert_eq!(authorized_amount(&stack, &id).await, 1);
    assert_eq!(
        (level_now(&stack, "AMS").await, level_now(&stack, "RTM").await),
        ((1, 0, 1, 0), (5, 0, 5, 0))
    );
    stack.stop().await;
}

#[tokio::test]
async fn retry_continues_after_unrecorded_label_cancel() {
    let mut stack = stack().await;
    put_stock(&stack.client, SKU, &[("AMS", 3)]).await;
    let id = labelled(&stack, 3).await;
    count_at(&stack, "AMS", 0, true).await.success().unwrap();
    wait_for_attention(&stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, SKU, &[("RTM", 3)]).await;
    stack.carrier.set_faults(vec![Rule {
        route: Route::Cancel,
        fault: Fault::Stall,
        times: None,
        matching: None,
    }]);
    retry(&stack, &id).await;
    wait_until("the label's cancel request", || async {
        (!stack.carrier.stalled().is_empty()).then_some(())
    })
    .await;
    stack.workers[0].kill_hard().await.unwrap();
    stack.carrier.set_faults(Vec::new());
    wait_until("the cancelled label", || async { stack.carrier.stalled().is_empty().then_some(()) }).await;
    // No other location has stock any more, so a new plan would change nothing.
    put_stock(&stack.client, SKU, &[("RTM", 0)]).await;
    stack.add_worker().await.unwrap();
    wait_for_event(&stack.client, &id, "shipment.replaced").await;
    stack.stop().await;
}
