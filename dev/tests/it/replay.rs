//! Histories that were recorded by this code replay on it: what open orders of this release need from the next one.
//!
//! A history is recorded anew with `WAYBILL_RECORD=1 cargo test --workspace --test it replay::record`; recorded ones
//! are never changed, only added to (a release's histories stay for as long as its orders may be open).

use crate::support::*;
use serde_json::json;
use std::{path::PathBuf, time::Duration};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, WorkflowFetchHistoryOptions, WorkflowHistory,
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use temporalio_workflow::{WorkflowContext, WorkflowResult};
use waybill_dev::{
    servers::Servers,
    sim::{Fault, Route, Rule},
};
use waybill_workflows::{OrderWorkflow, wire::OrderInput};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/histories")
}

fn recorded() -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 5, "the recorded histories are there: {}", found.len());
    found
}

fn history(json: &[u8]) -> WorkflowHistory {
    WorkflowHistory::from_json(json).unwrap()
}

#[tokio::test]
async fn recorded_histories_replay() {
    let options = WorkflowReplayerOptions::new().register_workflow::<OrderWorkflow>().unwrap().build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    for (name, json) in recorded() {
        let replayed = replayer.replay_workflow(history(&json)).await;
        assert!(replayed.is_ok(), "{name} does not replay: {:?}", replayed.err());
    }
}

/// Another workflow under the order's name: it does something else first, as a careless change would.
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
async fn the_replayer_refuses_an_incompatible_workflow() {
    let options = WorkflowReplayerOptions::new().register_workflow::<Incompatible>().unwrap().build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    for (name, json) in recorded() {
        let replayed = replayer.replay_workflow(history(&json)).await;
        assert!(replayed.is_err(), "{name} replayed on a workflow that does something else");
    }
}

/// Records the ways that differ in their commands. Does nothing unless asked to.
#[tokio::test]
async fn record() {
    if std::env::var_os("WAYBILL_RECORD").is_none() {
        return;
    }
    let stack = stack().await;
    put_stock(&stack.client, "SPLIT", &[("AMS", 2), ("RTM", 1)]).await;

    let completed = place(&stack.client, &order(&[("SPLIT", 3)])).await;
    let order = reach(&stack.client, &completed, "fulfilling").await;
    for shipment in shipments(&order) {
        carrier_says(&stack, &shipment, "hand_over").await;
        carrier_says(&stack, &shipment, "deliver").await;
    }
    reach(&stack.client, &completed, "completed").await;

    let declined = order_with(|o| o["payment"]["method"] = json!("pm_card_chargeDeclined"));
    let declined = place(&stack.client, &declined).await;
    reach(&stack.client, &declined, "rejected").await;

    let approved = place(&stack.client, &dear_order()).await;
    reach(&stack.client, &approved, "in_review").await;
    stack.client.decide(&approved, "approve", "fine").await.unwrap().success().unwrap();
    reach(&stack.client, &approved, "fulfilling").await;

    let cancelled = place(&stack.client, &order_with(|_| {})).await;
    reach(&stack.client, &cancelled, "fulfilling").await;
    temporal(&["workflow", "cancel", "-w", &format!("order:{cancelled}")]).await;
    reach(&stack.client, &cancelled, "cancelled").await;

    let mut short = order_with(|o| o["lines"][0]["quantity"] = json!(1));
    short["lines"].as_array_mut().unwrap().push(json!({"sku": "SPLIT", "quantity": 1, "unit_price": 1000}));
    short["shortage_policy"] = json!("ask_customer");
    let asked = place(&stack.client, &short).await;
    reach(&stack.client, &asked, "awaiting_customer").await;

    let two_lines = crate::support::order(&[("SHOE-42-BLK", 1), ("SHOE-42-BLK", 1)]);
    let reduced = place(&stack.client, &two_lines).await;
    reach(&stack.client, &reduced, "fulfilling").await;
    let one_line = json!({"reason": "changed my mind", "lines": [0]});
    stack
        .client
        .post(&format!("/v1/orders/{reduced}/cancellation"), &one_line)
        .await
        .unwrap()
        .success()
        .unwrap();
    until("what is left has another label", || async {
        (kinds(&stack.client, &reduced).await.last()? == "shipment.booked").then_some(())
    })
    .await;

    let fault = Fault::Status { status: 503 };
    stack.payments.set_faults(vec![Rule { route: Route::Authorize, fault, times: Some(2), matching: None }]);
    let retried = place(&stack.client, &order_with(|_| {})).await;
    reach(&stack.client, &retried, "fulfilling").await;

    let servers = Servers::for_tests().await.unwrap();
    let options = ConnectionOptions::new(servers.temporal.url().parse::<url::Url>().unwrap()).build();
    let connection = Connection::connect(options).await.unwrap();
    let client = Client::new(connection, ClientOptions::new("default").build()).unwrap();
    for (name, id) in [
        ("completed-two-shipments", completed),
        ("rejected-declined", declined),
        ("open-approved-in-review", approved),
        ("cancelled-by-engine", cancelled),
        ("open-awaiting-customer", asked),
        ("open-authorize-retried", retried),
        ("open-line-cancelled", reduced),
    ] {
        let handle = client.get_workflow_handle::<OrderWorkflow>(format!("order:{id}"));
        let json = handle.fetch_history(WorkflowFetchHistoryOptions::default()).to_json().await.unwrap();
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(folder().join(format!("{}-{name}.json", env!("CARGO_PKG_VERSION"))), json).unwrap();
    }
    stack.stop().await;
}
