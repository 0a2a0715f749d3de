//! Refunds and returns whose workflow was terminated.

use super::*;

/// Waits until Temporal lists a workflow, and terminates it.
async fn terminate_when_listed(workflow: &str) {
    let query = format!("WorkflowId = '{workflow}'");
    wait_until("the workflow to be listed", || async {
        temporal(&["workflow", "list", "--query", &query]).await.contains(workflow).then_some(())
    })
    .await;
    terminate_workflow(workflow).await;
}

#[tokio::test]
async fn terminated_refund_and_return_are_restarted() {
    let stack = with_manual_sweeps(builder().await.auto(AT_ONCE)).start().await.unwrap();
    let paid = completed(&stack, &paid_with("pm_card_pendingRefund")).await;
    let refund = refunded(&stack, &paid, 500).await;
    wait_for_refund_status(&stack, &paid, &refund, "pending").await;
    terminate_workflow(&format!("refund:{refund}")).await;
    let sold = completed(&stack, &order(&[("SHOE-42-BLK", 2)])).await;
    let lines = json!([{"line": 0, "quantity": 1}]);
    let back = returning(&stack, &sold, lines).await;
    let workflow = format!("return:{back}");
    terminate_when_listed(&workflow).await;

    // Another return, whose deadline has passed when it restarts.
    let late = returning(&stack, &sold, json!([{"line": 0, "quantity": 1}])).await;
    terminate_when_listed(&format!("return:{late}")).await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let long_ago = "update returns set created_at = now() - interval '1 year' where id = $1::uuid";
    sqlx::query(long_ago).bind(&late).execute(&pool).await.unwrap();

    // No workflow runs that could receive these updates.
    let settle = format!("{}/_sim/refunds/{}/settle", stack.payments.url(), at_the_provider(&stack, &refund));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.post(settle).json(&json!({"status": "succeeded"})).send().await.unwrap().error_for_status().unwrap();
    let received_items = json!([{"line": 0, "quantity": 1, "condition": "restock"}]);
    let reply = receipt(&stack, &back, received_items).await;
    assert!(reply.status.is_success(), "{}", reply.body);
    let runs = |workflow: String| async move {
        let recorded =
            temporal(&["workflow", "count", "--query", &format!("WorkflowId = '{workflow}'")]).await;
        recorded.trim().to_owned()
    };
    let of_both = || async { (runs(format!("refund:{refund}")).await, runs(workflow.clone()).await) };
    let before = of_both().await;
    wait_until("successor runs of both", || async {
        sweep(&stack).await;
        tokio::time::sleep(AGAIN).await;
        let after = of_both().await;
        (after.0 != before.0 && after.1 != before.1).then_some(())
    })
    .await;
    wait_for_refund_status(&stack, &paid, &refund, "succeeded").await;
    assert_eq!(at_provider(&stack, &paid).2, 500, "the refund must be made once");
    let back = closed(&stack, &back).await;
    assert_eq!(back["refunds"].as_array().unwrap().len(), 1, "{back:#}");
    wait_for_attention(&stack, &sold, "return_overdue").await;
    // An end long before the start of the current workflow does not cause a restart.
    let ended = [(late.parse().unwrap(), SystemTime::now() - Duration::from_secs(3_600))];
    let none = waybill_store::housekeeping::reset_started(&pool, &[], &ended, Duration::ZERO).await.unwrap();
    assert_eq!(none, 0, "the end precedes the current run");
    // The dispatcher saw the workflow running, but recorded the start only after the workflow had been terminated.
    let ago = |minutes: u64| SystemTime::now() - Duration::from_secs(minutes * 60);
    let invalidate = "update returns set workflow_started_at = null where id = $1::uuid";
    sqlx::query(invalidate).bind(&late).execute(&pool).await.unwrap();
    let seen_at = jiff::Timestamp::try_from(ago(10)).unwrap();
    waybill_store::returns::mark_started(&pool, late.parse().unwrap(), seen_at).await.unwrap();
    let ended = [(late.parse().unwrap(), ago(5))];
    let one = waybill_store::housekeeping::reset_started(&pool, &[], &ended, Duration::ZERO).await.unwrap();
    assert_eq!(one, 1, "the end follows the last sighting");

    // Both have completed, and a sweep starts no other run.
    let after = of_both().await;
    sweep(&stack).await;
    assert_eq!(of_both().await, after);
    stack.stop().await;
}

#[tokio::test]
async fn dismissed_overdue_return_is_not_flagged_after_terminate() {
    let builder = with_manual_sweeps(builder().await.auto(AT_ONCE)).env("WAYBILL_RETURN_WAIT_SECONDS", 1);
    let stack = builder.start().await.unwrap();
    let id = completed(&stack, &order_with(|_| {})).await;
    let back = returning(&stack, &id, json!([{"line": 0, "quantity": 1}])).await;
    wait_for_attention(&stack, &id, "return_overdue").await;
    operate(&stack.client, &id, "skip", json!({"reason": "they keep it"})).await.success().unwrap();
    let workflow = format!("return:{back}");
    let runs =
        || async { temporal(&["workflow", "count", "--query", &format!("WorkflowId = '{workflow}'")]).await };
    wait_until("the visibility of its workflow", || async { runs().await.contains('1').then_some(()) }).await;
    let before = runs().await;
    terminate_workflow(&workflow).await;
    wait_until("its successor run", || async {
        sweep(&stack).await;
        tokio::time::sleep(AGAIN).await;
        (runs().await != before).then_some(())
    })
    .await;
    // The deadline has passed when the successor run starts: it checks whether to raise attention, and continues to
    // wait.
    wait_until("both steps of the successor run", || async {
        let recorded = temporal(&["workflow", "show", "-w", &workflow, "-o", "json"]).await;
        (recorded.matches("EVENT_TYPE_ACTIVITY_TASK_COMPLETED").count() >= 2).then_some(())
    })
    .await;
    let order = stack.client.get(&id).await.unwrap().body;
    assert_eq!(order["attention"], json!(null), "dismissed attention must not return: {order:#}");
    let recorded = event_types(&stack.client, &id).await;
    assert_eq!(recorded.iter().filter(|kind| *kind == "attention.raised").count(), 1, "{recorded:?}");
    stack.stop().await;
}
