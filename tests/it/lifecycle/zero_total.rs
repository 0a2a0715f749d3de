//! Orders and shipments with a total of zero.

use super::*;

#[tokio::test]
async fn zero_total_order_needs_no_payment() {
    let stack = stack().await;
    put_stock(&stack.client, "SAMPLE", &[("AMS", 10)]).await;
    let free = || {
        let mut free = order(&[("SAMPLE", 1)]);
        free["discount"] = json!(1000);
        free.as_object_mut().unwrap().remove("payment");
        free
    };
    let id = place(&stack.client, &free()).await;
    let visible = wait_for_status(&stack.client, &id, "fulfilling").await;
    assert_eq!((&visible["payment_status"], &visible["total"]), (&json!("not_required"), &json!(0)));
    assert!(visible.get("payment").is_none());
    send_carrier_event(&stack, &shipments(&visible)[0], "hand_over").await;
    wait_for_status(&stack.client, &id, "shipped").await;
    send_carrier_event(&stack, &shipments(&visible)[0], "deliver").await;
    let visible = wait_for_status(&stack.client, &id, "completed").await;
    assert_eq!((&visible["payment_status"], &visible["outcome"]), (&json!("not_required"), &json!("full")));
    assert_eq!(at_provider(&stack, &id), (0, 0, 0, 0), "no payment may be created");

    // The returned unit is restocked, and nothing is refunded.
    let body = json!({"lines": [{"line": 0, "quantity": 1}], "reason": "not wanted"});
    let request =
        stack.client.post(&format!("/v1/orders/{id}/returns"), &body).await.unwrap().success().unwrap();
    let receipt = json!({"lines": [{"line": 0, "quantity": 1, "condition": "restock"}]});
    let path = format!("/v1/returns/{}/receipt", request.text("/id"));
    stack.client.post(&path, &receipt).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &id, "return.closed").await;
    let kinds = event_types(&stack.client, &id).await;
    assert!(
        !kinds.iter().any(|kind| kind.starts_with("payment.") || kind.starts_with("refund.")),
        "{kinds:?}"
    );
    assert_eq!(stock_level(&stack, "SAMPLE").await, (10, 0, 0));

    let id = place(&stack.client, &free()).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    stack.client.cancel(&id, "changed my mind", false).await.unwrap().success().unwrap();
    assert_eq!(wait_for_status(&stack.client, &id, "cancelled").await["payment_status"], "not_required");
    stack.stop().await;
}

#[tokio::test]
async fn zero_amount_shipment_is_not_captured() {
    let stack = stack().await;
    put_stock(&stack.client, "PAID", &[("AMS", 10)]).await;
    put_stock(&stack.client, "GIFT", &[("RTM", 10)]).await;
    for last in ["AMS", "RTM"] {
        let mut order = order(&[("PAID", 1), ("GIFT", 1)]);
        order["lines"][1]["unit_price"] = json!(0);
        let id = place(&stack.client, &order).await;
        let visible = wait_for_status(&stack.client, &id, "fulfilling").await;
        let mut parcels = visible["shipments"].as_array().unwrap().clone();
        parcels.sort_by_key(|parcel| parcel["location"] == last);
        for step in ["hand_over", "deliver"] {
            for parcel in &parcels {
                send_carrier_event(&stack, parcel["id"].as_str().unwrap(), step).await;
            }
        }
        let visible = wait_for_status(&stack.client, &id, "completed").await;
        assert_eq!(visible["payment_status"], "captured", "{last} last");
        assert_eq!(at_provider(&stack, &id), (0, 1000, 0, 1), "{last} last");
    }
    stack.stop().await;
}
