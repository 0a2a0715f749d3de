//! Events that the payment simulator sends.

use super::*;

#[tokio::test]
async fn failed_event_delivery_is_signed_and_retried() {
    let (receiver, url) = Receiver::start(&[500]).await;
    let shop = Shop::new(Some(url)).await;
    let id = shop.authorized("pm_card_visa").await;
    let delivery = receiver.wait_for(1).await.remove(0);
    let signature = delivery.header("stripe-signature").to_owned();
    let (seconds, tag) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let hmac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    let signed = hmac.chain_update(format!("{seconds}.{}", delivery.text));
    signed.verify_slice(&hex::decode(tag).unwrap()).unwrap();
    let event: Value = serde_json::from_str(&delivery.text).unwrap();
    assert_eq!(event["data"]["object"]["id"], json!(id));
    let settled = || shop.sim.snapshot()["deliveries_pending"] == json!([]);
    poll_until("the delivery to be recorded", || settled().then_some(())).await;
}

#[tokio::test]
async fn fault_rules_duplicate_reorder_and_drop_events() {
    let (receiver, url) = Receiver::start(&[]).await;
    let shop = Shop::new(Some(url)).await;
    let id = shop.authorized("pm_card_visa").await;
    shop.post(&format!("/v1/payment_intents/{id}/cancel"), "", &[]).await;
    receiver.wait_for(2).await;

    shop.sim.set_faults(rule(Route::Webhook, Fault::Duplicate, 1));
    shop.authorized("pm_card_visa").await;
    let deliveries = receiver.wait_for(4).await;
    assert_eq!(deliveries[2].text, deliveries[3].text);

    shop.sim.set_faults(rule(Route::Webhook, Fault::Reorder, 1));
    let id = shop.authorized("pm_card_visa").await;
    shop.post(&format!("/v1/payment_intents/{id}/cancel"), "", &[]).await;
    receiver.wait_for(6).await;
    assert_eq!(
        receiver.kinds()[4..],
        ["payment_intent.canceled", "payment_intent.amount_capturable_updated"]
    );

    shop.sim.set_faults(rule(Route::Webhook, Fault::Suppress, 1));
    let id = shop.authorized("pm_card_visa").await;
    shop.post(&format!("/v1/payment_intents/{id}/cancel"), "", &[]).await;
    receiver.wait_for(7).await;
    assert_eq!(receiver.kinds()[6..], ["payment_intent.canceled"]);
}
