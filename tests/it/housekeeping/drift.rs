//! Drift that the reconciliation reports.

use super::*;

/// Creates an authorization for an order at the provider without Waybill.
async fn insert_stock_hold(stack: &Stack, id: &str) {
    let url = format!("{}/v1/payment_intents", stack.payments.url());
    let order_id = id.to_owned();
    let form = [
        ("amount", "500"),
        ("currency", "eur"),
        ("payment_method", "pm_card_visa"),
        ("payment_method_types[]", "card"),
        ("capture_method", "manual"),
        ("confirm", "true"),
        ("metadata[order_id]", &order_id),
    ];
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.post(url).bearer_auth(&stack.secrets.payments_key).form(&form);
    let reply = request.send().await.unwrap();
    assert!(reply.status().is_success(), "{}", reply.text().await.unwrap());
}

async fn drifts(stack: &Stack) -> Vec<(String, bool)> {
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let sql = "select kind, repaired_at is not null from drifts order by kind, found_at";
    sqlx::query_as(sql).fetch_all(&pool).await.unwrap()
}

#[tokio::test]
async fn drift_is_reported_once_and_ended_order_is_voided() {
    // The test makes stock and payments inconsistent on purpose.
    let stack = with_manual_sweeps(builder().await.check_invariants(false)).start().await.unwrap();
    let ended = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &ended, "fulfilling").await;
    stack.client.cancel(&ended, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &ended, "cancelled").await;
    let open = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &open, "in_review").await;
    reconcile(&stack).await;
    assert_eq!(drifts(&stack).await, [], "the ledgers must agree");

    // The webhooks would trigger a check of each payment.
    let lost = Rule { route: Route::Webhook, fault: Fault::Suppress, times: None, matching: None };
    stack.payments.set_faults(vec![lost]);
    insert_stock_hold(&stack, &ended).await;
    insert_stock_hold(&stack, &open).await;
    let held = at_provider(&stack, &open).0;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let row = "update stock set reserved = reserved + 1 where sku = 'SHOE-42-BLK'";
    assert!(sqlx::query(row).execute(&pool).await.unwrap().rows_affected() > 0);
    reconcile(&stack).await;

    assert_eq!(at_provider(&stack, &ended).0, 0, "authorizations of completed orders must be voided");
    assert_eq!(at_provider(&stack, &open).0, held, "authorizations of open orders must stay");
    let found = drifts(&stack).await;
    let of = |kind: &str| -> Vec<bool> { found.iter().filter(|d| d.0 == kind).map(|d| d.1).collect() };
    assert_eq!((of("held_after_end"), of("unknown_payment")), (vec![true], vec![false, false]), "{found:?}");
    assert!(!of("stock").is_empty() && !of("stock").contains(&true), "{found:?}");
    let recorded = (event_types(&stack.client, &ended).await, event_types(&stack.client, &open).await);
    assert!(recorded.0.contains(&"reconciliation.repaired".to_owned()), "{recorded:?}");
    assert!(recorded.1.contains(&"reconciliation.drift".to_owned()), "{recorded:?}");
    assert!(!recorded.1.contains(&"reconciliation.repaired".to_owned()), "{recorded:?}");

    reconcile(&stack).await;
    assert_eq!(drifts(&stack).await, found, "a drift must be found once");
    assert_eq!(recorded, (event_types(&stack.client, &ended).await, event_types(&stack.client, &open).await));
    stack.stop().await;
}

#[tokio::test]
async fn held_totals_match_provider_and_reservations() {
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;
    let cancelled = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &cancelled, "fulfilling").await;
    stack.client.cancel(&cancelled, "no longer wanted", false).await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &cancelled, "cancelled").await;
    let split = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let order = wait_for_status(&stack.client, &split, "fulfilling").await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    wait_for_event(&stack.client, &split, "payment.captured").await;
    let completed = place(&stack.client, &order_with(|_| {})).await;
    let order = wait_for_status(&stack.client, &completed, "fulfilling").await;
    send_carrier_event(&stack, &shipments(&order)[0], "hand_over").await;
    send_carrier_event(&stack, &shipments(&order)[0], "deliver").await;
    wait_for_status(&stack.client, &completed, "completed").await;

    let (mut authorized, mut captured, mut refunded, mut units) = (0, 0, 0, 0);
    for id in [&cancelled, &split, &completed] {
        let (capturable, received, back, _) = at_provider(&stack, id);
        (authorized, captured, refunded) = (authorized + capturable, captured + received, refunded + back);
        units += authorized_amount(&stack, id).await;
    }
    assert!(authorized > 0 && captured > 0 && units > 0);
    let reply = stack.client.send(stack.client.request(reqwest::Method::GET, "/v1/held")).await.unwrap();
    let expected = json!({"held": {"EUR": {
        "reserved_pieces": units, "authorized": authorized, "captured": captured, "refunded": refunded,
    }}});
    assert_eq!((reply.status.as_u16(), reply.body), (200, expected));
    stack.stop().await;
}

#[tokio::test]
async fn overdue_hold_of_open_order_is_extended() {
    let stack = sweeping().await;
    put_stock(&stack.client, "FEW", &[("AMS", 1)]).await;
    let mut short = order(&[("FEW", 2)]);
    short["shortage_policy"] = json!("ask_customer");
    let open = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &open, "awaiting_customer").await;
    put_stock(&stack.client, "FEW", &[("AMS", 2)]).await;
    let ended = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &ended, "awaiting_customer").await;
    let pool = waybill_store::connect(&stack.database_url, 2).unwrap();
    let overdue = "update stock_holds set expires_at = now() - interval '1 hour' where order_id = $1::uuid";
    sqlx::query(overdue).bind(&open).execute(&pool).await.unwrap();
    terminate(&ended).await;
    sweep_until_resumed(&stack, &ended).await;
    let order = wait_for_status(&stack.client, &ended, "cancelled").await;
    assert_eq!(order["payment_status"], "none", "{order:#}");
    check_closed_order(&stack, &ended).await;
    wait_for_status(&stack.client, &open, "awaiting_customer").await;
    let extended = "select count(*) from stock_holds where order_id = $1::uuid and expires_at > now()";
    assert_eq!(count(&stack, extended, &open).await, 1);
    stack.stop().await;
}
