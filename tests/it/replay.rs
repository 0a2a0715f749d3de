//! Recorded histories replay on this code: open orders of this release need that from the next one. To record, run
//! `WAYBILL_RECORD=1 cargo test -p waybill-tests replay::record_histories_if_requested`. Recorded histories are never changed, only added to;
//! a release's histories stay for as long as its orders may be open.

use crate::{
    operator_actions::{operate, wait_for_attention},
    refunds_and_returns::{closed, refunded, returning, wait_for_refund_status},
    support::*,
};
use serde_json::json;
use std::{path::PathBuf, time::Duration};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, WorkflowFetchHistoryOptions, WorkflowHistory,
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use temporalio_workflow::{WorkflowContext, WorkflowResult};
use waybill_domain::ids::{RefundId, ReturnId};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, client::Reply, servers::Servers};
use waybill_workflows::{OrderWorkflow, RefundWorkflow, ReturnWorkflow, payloads::OrderInput};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("histories")
}

fn recorded() -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 5, "histories are missing: {}", found.len());
    found
}

fn history(json: &[u8]) -> WorkflowHistory {
    WorkflowHistory::from_json(json).unwrap()
}

/// Fetches a workflow's history as JSON.
async fn fetch(workflow: &str) -> Vec<u8> {
    let servers = Servers::for_tests().await.unwrap();
    let options = ConnectionOptions::new(servers.temporal.url().parse::<url::Url>().unwrap()).build();
    let connection = Connection::connect(options).await.unwrap();
    let client = Client::new(connection, ClientOptions::new("default").build()).unwrap();
    let handle = client.get_workflow_handle::<OrderWorkflow>(workflow);
    handle.fetch_history(WorkflowFetchHistoryOptions::default()).to_json().await.unwrap()
}

fn replayer() -> WorkflowReplayer {
    let options = WorkflowReplayerOptions::new();
    let options = options.register_workflow::<OrderWorkflow>().unwrap();
    let options = options.register_workflow::<RefundWorkflow>().unwrap();
    let options = options.register_workflow::<ReturnWorkflow>().unwrap().build();
    WorkflowReplayer::new(options).unwrap()
}

/// Checks that a worker without the cached workflow can resume it.
pub async fn assert_replays(workflow: &str) {
    let replayed = replayer().replay_workflow(history(&fetch(workflow).await)).await;
    assert!(replayed.is_ok(), "{workflow} does not replay: {:?}", replayed.err());
}

#[tokio::test]
async fn recorded_histories_replay() {
    let replayer = replayer();
    for (name, json) in recorded() {
        let replayed = replayer.replay_workflow(history(&json)).await;
        assert!(replayed.is_ok(), "{name} does not replay: {:?}", replayed.err());
    }
}

/// Another workflow under the order's name: it starts with another command, as after an incompatible change.
#[workflow]
#[derive(Default)]
struct Incompatible;

#[workflow_methods]
impl Incompatible {
    #[run(name = "OrderWorkflow")]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: OrderInput) -> WorkflowResult<()> {
        ctx.timer(Duration::from_secs(1)).await;
        Ok(())
    }
}

#[tokio::test]
async fn incompatible_workflow_fails_replay() {
    let options = WorkflowReplayerOptions::new().register_workflow::<Incompatible>().unwrap().build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    for (name, json) in recorded() {
        let replayed = replayer.replay_workflow(history(&json)).await;
        assert!(replayed.is_err(), "{name} replayed on an incompatible workflow");
    }
}

/// Records the paths that differ in their commands. Does nothing unless `WAYBILL_RECORD` is set.
#[tokio::test]
async fn record_histories_if_requested() {
    if std::env::var_os("WAYBILL_RECORD").is_none() {
        return;
    }
    let sweeping = [("WAYBILL_SWEEP_AGE_SECONDS", 0), ("WAYBILL_SWEEP_SECONDS", 1)];
    let builder = sweeping.iter().fold(builder().await, |builder, (name, value)| builder.env(name, value));
    let stack = builder.start().await.unwrap();
    let mut recorded = forward_histories(&stack).await;
    recorded.extend(failure_histories(&stack).await);
    recorded.extend(late(&stack).await);
    recorded.extend(retried(&stack).await);
    recorded.push(served_from_elsewhere(&stack).await);

    std::fs::create_dir_all(folder()).unwrap();
    for (name, workflow) in recorded {
        let json = fetch(&workflow).await;
        std::fs::write(folder().join(format!("{}-{name}.json", env!("CARGO_PKG_VERSION"))), json).unwrap();
    }
    stack.stop().await;
}

/// A history's name, and the id of its workflow.
type Recorded = (&'static str, String);

fn of(name: &'static str, order: &str) -> Recorded {
    (name, format!("order:{order}"))
}

/// Places an order of two shipments.
async fn split(stack: &Stack, sku: &str, method: &str) -> (String, Vec<String>) {
    put_stock(&stack.client, sku, &[("AMS", 2), ("RTM", 1)]).await;
    let mut order = order(&[(sku, 3)]);
    order["payment"]["method"] = json!(method);
    let id = place(&stack.client, &order).await;
    let shipments = shipments(&wait_for_status(&stack.client, &id, "fulfilling").await);
    (id, shipments)
}

/// A shipment with a shortfall that was replaced.
async fn served_from_elsewhere(stack: &Stack) -> Recorded {
    put_stock(&stack.client, "SHORT", &[("AMS", 3)]).await;
    let id = place(&stack.client, &order(&[("SHORT", 3)])).await;
    wait_for_status(&stack.client, &id, "fulfilling").await;
    let counted = json!({"locations": [{"location": "AMS", "on_hand": 1}], "allow_shortfall": true});
    stack.client.put_stock("SHORT", &counted).await.unwrap().success().unwrap();
    wait_for_attention(stack, &id, "stock_shortfall").await;
    put_stock(&stack.client, "SHORT", &[("RTM", 2)]).await;
    operate(&stack.client, &id, "retry", json!({"reason": "RTM has some"})).await.success().unwrap();
    wait_for_event(&stack.client, &id, "shipment.replaced").await;
    wait_until("labels of the replacement shipments", || async {
        let booked =
            event_types(&stack.client, &id).await.iter().filter(|kind| *kind == "shipment.booked").count();
        (booked == 3).then_some(())
    })
    .await;
    of("open-shortfall-served", &id)
}

/// The paths of an order without intervention.
async fn forward_histories(stack: &Stack) -> Vec<Recorded> {
    let (completed, parcels) = split(stack, "ONE", "pm_card_visa").await;
    for parcel in &parcels {
        send_carrier_event(stack, parcel, "hand_over").await;
        send_carrier_event(stack, parcel, "deliver").await;
    }
    wait_for_status(&stack.client, &completed, "completed").await;

    let declined = order_with(|o| o["payment"]["method"] = json!("pm_card_chargeDeclined"));
    let declined = place(&stack.client, &declined).await;
    wait_for_status(&stack.client, &declined, "rejected").await;

    let approved = place(&stack.client, &order_needing_review()).await;
    wait_for_status(&stack.client, &approved, "in_review").await;
    stack.client.decide(&approved, "approve", "fine").await.unwrap().success().unwrap();
    wait_for_status(&stack.client, &approved, "fulfilling").await;

    let mut short = order_with(|o| o["lines"][0]["quantity"] = json!(1));
    short["lines"].as_array_mut().unwrap().push(json!({"sku": "NONE", "quantity": 1, "unit_price": 1000}));
    short["shortage_policy"] = json!("ask_customer");
    let request = place(&stack.client, &short).await;
    wait_for_status(&stack.client, &request, "awaiting_customer").await;

    let proving = order_with(|o| o["payment"]["method"] = json!("pm_card_authenticationRequired"));
    let proving = place(&stack.client, &proving).await;
    wait_for_event(&stack.client, &proving, "payment.action_required").await;

    let two_lines = crate::support::order(&[("SHOE-42-BLK", 1), ("SHOE-42-BLK", 1)]);
    let reduced = place(&stack.client, &two_lines).await;
    wait_for_status(&stack.client, &reduced, "fulfilling").await;
    let one_line = json!({"reason": "changed my mind", "lines": [0]});
    stack
        .client
        .post(&format!("/v1/orders/{reduced}/cancellation"), &one_line)
        .await
        .unwrap()
        .success()
        .unwrap();
    wait_until("the label of the replacement shipment", || async {
        (event_types(&stack.client, &reduced).await.last()? == "shipment.booked").then_some(())
    })
    .await;

    let refunds = format!("/v1/orders/{completed}/refunds");
    let refund = json!({"amount": 100, "reason": "a scratch"});
    let refund = stack.client.post(&refunds, &refund).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &completed, "payment.refunded").await;
    let returns = format!("/v1/orders/{completed}/returns");
    let back = json!({"lines": [{"line": 0, "quantity": 1}], "reason": "too small"});
    let back = stack.client.post(&returns, &back).await.unwrap().success().unwrap();
    let id = |reply: &Reply| reply.text("/id").parse::<uuid::Uuid>().unwrap();
    vec![
        of("completed-two-shipments", &completed),
        of("rejected-declined", &declined),
        of("open-approved-in-review", &approved),
        of("open-awaiting-customer", &request),
        of("open-payment-action", &proving),
        of("open-line-replaced", &reduced),
        ("refund", RefundId(id(&refund)).workflow_id()),
        ("open-return", ReturnId(id(&back)).workflow_id()),
    ]
}

/// Failing steps, expiring authorizations, and interventions by operators and sweeper.
async fn failure_histories(stack: &Stack) -> Vec<Recorded> {
    let fault = Fault::Status { status: 503 };
    stack.payments.set_faults(vec![Rule { route: Route::Authorize, fault, times: Some(2), matching: None }]);
    let retried = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &retried, "fulfilling").await;

    let (once, parcels) = split(stack, "TWO", "pm_card_noMulticapture").await;
    send_carrier_event(stack, &parcels[0], "hand_over").await;
    wait_for_event(&stack.client, &once, "payment.reauthorized").await;

    stack.payments.set_authorization_lifetime(6);
    let renewed = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &renewed, "fulfilling").await;
    stack.payments.set_authorization_lifetime(7 * 24 * 3_600);
    wait_for_event(&stack.client, &renewed, "payment.reauthorized").await;

    let reject = |matching: &str| Rule {
        route: Route::Capture,
        fault: Fault::Refuse,
        times: None,
        matching: Some(matching.to_owned()),
    };
    let skipped = place(&stack.client, &order_with(|_| {})).await;
    let parcel = shipments(&wait_for_status(&stack.client, &skipped, "fulfilling").await).remove(0);
    stack.payments.set_faults(vec![reject(&skipped)]);
    send_carrier_event(stack, &parcel, "hand_over").await;
    wait_for_event(&stack.client, &skipped, "attention.raised").await;
    let skip = json!({"reason": "written off"});
    stack.client.post(&format!("/v1/admin/orders/{skipped}/skip"), &skip).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &skipped, "operator.acted").await;

    let cancelled = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &cancelled, "fulfilling").await;
    temporal(&["workflow", "cancel", "-w", &format!("order:{cancelled}")]).await;
    wait_for_status(&stack.client, &cancelled, "cancelled").await;

    let resumed = place(&stack.client, &order_with(|_| {})).await;
    wait_for_status(&stack.client, &resumed, "fulfilling").await;
    temporal(&["workflow", "terminate", "-w", &format!("order:{resumed}")]).await;
    wait_for_status(&stack.client, &resumed, "cancelled").await;
    vec![
        of("open-authorize-retried", &retried),
        of("open-captured-once", &once),
        of("open-hold-renewed", &renewed),
        of("open-capture-skipped", &skipped),
        of("cancelled-by-engine", &cancelled),
        of("cancelled-by-heir", &resumed),
    ]
}

/// Late carrier events.
async fn late(stack: &Stack) -> Vec<Recorded> {
    let (partly, parcels) = split(stack, "THREE", "pm_card_visa").await;
    send_carrier_event(stack, &parcels[0], "hand_over").await;
    wait_for_event(&stack.client, &partly, "payment.captured").await;
    stack.client.cancel(&partly, "the rest is not wanted", false).await.unwrap().success().unwrap();
    wait_for_event(&stack.client, &partly, "shipment.cancelled").await;
    send_carrier_event(stack, &parcels[1], "hand_over").await;
    wait_for_event(&stack.client, &partly, "stock.gone").await;

    let back = place(&stack.client, &order_with(|_| {})).await;
    let parcel = shipments(&wait_for_status(&stack.client, &back, "fulfilling").await).remove(0);
    for what in ["hand_over", "return"] {
        send_carrier_event(stack, &parcel, what).await;
    }
    wait_for_event(&stack.client, &back, "return.requested").await;
    vec![of("open-late-hand-over", &partly), of("open-brought-back", &back)]
}

/// Steps of refunds and returns that operators retried: over HTTP, and from a terminal.
async fn retried(stack: &Stack) -> Vec<Recorded> {
    let (order, parcels) = split(stack, "FOUR", "pm_card_visa").await;
    for parcel in &parcels {
        send_carrier_event(stack, parcel, "hand_over").await;
        send_carrier_event(stack, parcel, "deliver").await;
    }
    wait_for_status(&stack.client, &order, "completed").await;
    let fault = Fault::Status { status: 503 };
    stack.payments.set_faults(vec![Rule { route: Route::Refund, fault, times: None, matching: None }]);
    let refund = refunded(stack, &order, 100).await;
    wait_for_attention(stack, &order, "refund_failing").await;
    stack.payments.set_faults(Vec::new());
    operate(&stack.client, &order, "retry", json!({"reason": "it is up again"})).await.success().unwrap();
    wait_for_refund_status(stack, &order, &refund, "succeeded").await;

    let back = returning(stack, &order, json!([{"line": 0, "quantity": 1}])).await;
    let workflow = format!("return:{back}");
    wait_until("the return workflow to wait", || async {
        let reported = temporal(&["workflow", "show", "-w", &workflow, "-o", "json"]).await;
        reported.contains("EVENT_TYPE_TIMER_STARTED").then_some(())
    })
    .await;
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let amount = "update returns set amount = $2 where id = $1::uuid";
    sqlx::query(amount).bind(&back).bind(-1_i64).execute(&pool).await.unwrap();
    let input = json!({"return_id": back}).to_string();
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "receipt", "--input", &input]).await;
    wait_for_attention(stack, &order, "return_failing").await;
    sqlx::query(amount).bind(&back).bind(None::<i64>).execute(&pool).await.unwrap();
    let input = r#"{"action": "retry", "reason": "it can be read again"}"#;
    temporal(&["workflow", "signal", "-w", &workflow, "--name", "operate", "--input", input]).await;
    closed(stack, &back).await;
    vec![("refund-retried", format!("refund:{refund}")), ("return-retried", workflow)]
}
