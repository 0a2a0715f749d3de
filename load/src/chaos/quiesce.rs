//! After the faults: resolves everything that orders wait for, until the stack is quiescent.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use sqlx::{PgPool, Row};
use tokio::time::Instant;
use uuid::Uuid;
use waybill_domain::status::{FulfilmentStatus, OrderStatus};

use super::customers;
use super::environment::Environment;
use crate::open_loop::Random;
use waybill_stack::invariants::{Order, Sources, Violation};

/// Interval between two rounds.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Rounds between two retries of an order that requires attention: a retry restarts the step.
const RETRY_EVERY_ROUNDS: u64 = 5;

/// Returns whether the order waits only for an operator.
pub fn is_quiescent(order: &Order) -> bool {
    let needs_operator = |status| {
        matches!(status, FulfilmentStatus::Lost | FulfilmentStatus::Returned | FulfilmentStatus::Cancelled)
    };
    // The customer and an operator must resolve a lost or returned parcel.
    order.status.is_terminal()
        || order.status == OrderStatus::Shipped
            && order.shipments.iter().all(|shipment| needs_operator(shipment.status))
}

/// Drives the stack until it is quiescent. Returns the orders and workflows that are not at rest within `limit`.
///
/// # Errors
/// When Postgres cannot be read.
pub async fn wait_until_quiescent(
    env: &Environment,
    sources: &Sources<'_>,
    limit: Duration,
    on_round: impl Fn(usize, usize),
) -> Result<Vec<Violation>> {
    let (deadline, mut random) = (Instant::now() + limit, Random::new(0));
    for round in 0_u64.. {
        let orders = sources.orders().await?;
        let moving: Vec<&Order> = orders.values().filter(|order| !is_quiescent(order)).collect();
        on_round(orders.len() - moving.len(), orders.len());
        let open = open_after_sales(sources.pool()).await?;
        let running = running_after_end(env, sources, &orders).await?;
        if moving.is_empty() && open.is_empty() && running.is_empty() {
            return Ok(Vec::new());
        }
        if Instant::now() > deadline {
            let rule = "the stack becomes quiescent";
            let moving = moving.iter().map(|order| order.violation(rule, order.status.as_str()));
            let others = open.into_iter().chain(running);
            let others = others.map(|detail| Violation { order: None, rule, detail });
            return Ok(moving.chain(others).collect());
        }
        for order in moving {
            resolve_wait(env, &mut random, order, round).await;
        }
        finish_after_sales(env, &mut random, sources.pool()).await?;
        tokio::time::sleep(ROUND_EVERY).await;
    }
    Ok(Vec::new())
}

/// Resolves the external event that an order waits for.
async fn resolve_wait(env: &Environment, random: &mut Random, order: &Order, round: u64) {
    let id = &order.id;
    match order.status {
        OrderStatus::InReview => {
            let body = json!({"decision": "approve", "reason": "reviewed at last"});
            env.post("Approve", random, &format!("/v1/orders/{id}/decision"), &body).await;
        }
        OrderStatus::AwaitingCustomer => {
            let key = waybill_stack::client::new_key();
            let path = format!("/v1/orders/{id}/amendment");
            env.request("Amend", random, |client| {
                let request = client.request(reqwest::Method::POST, &path).header("Idempotency-Key", &key);
                request.header("If-Match", "*").json(&json!({"accept": "ship_available"}))
            })
            .await;
        }
        OrderStatus::Authorizing => customers::authenticate(env, id).await,
        _ => {}
    }
    if order.attention.is_some() && round % RETRY_EVERY_ROUNDS == RETRY_EVERY_ROUNDS - 1 {
        let body = json!({"reason": "the fault is over"});
        env.post("Retry", random, &format!("/v1/admin/orders/{id}/retry"), &body).await;
    }
}

/// Returns the refunds and returns that have not ended.
async fn open_after_sales(pool: &PgPool) -> Result<Vec<String>> {
    let open = sqlx::query_scalar::<_, String>(
        "select format('refund %s of order %s is %s', id, order_id, state) from refunds
           where state not in ('succeeded', 'failed')
         union all select format('return %s of order %s is %s', id, order_id, state) from returns where state <> 'closed'
         union all select format('message %s:%s of order %s is unsettled', source, event_id, order_id) from inbox
           where settled_at is null",
    );
    Ok(open.fetch_all(pool).await?)
}

/// Returns the workflows that are still running after their order has ended.
async fn running_after_end(
    env: &Environment,
    sources: &Sources<'_>,
    orders: &BTreeMap<String, Order>,
) -> Result<Vec<String>> {
    let query = format!(
        "TaskQueue = '{}orders' and WorkflowType = 'OrderWorkflow' and ExecutionStatus = 'Running'",
        sources.queue_prefix()
    );
    let running = env.temporal.executions(&query).await?;
    let ended = |id: &str| orders.get(id).is_some_and(|order| order.status.is_terminal());
    Ok(running
        .into_iter()
        .filter(|execution| ended(execution.workflow_id.trim_start_matches("order:")))
        .map(|execution| format!("{} is still running", execution.workflow_id))
        .collect())
}

/// Receives the outstanding returns and settles the pending refunds.
async fn finish_after_sales(env: &Environment, random: &mut Random, pool: &PgPool) -> Result<()> {
    let awaited = sqlx::query(
        "select r.id, l.line, sum(l.quantity)::bigint as quantity from returns r
         join return_lines l on l.return_id = r.id where r.state = 'awaiting' group by r.id, l.line order by r.id, l.line",
    );
    let mut returns = BTreeMap::<Uuid, Vec<serde_json::Value>>::new();
    for row in awaited.fetch_all(pool).await? {
        let (line, quantity): (i32, i64) = (row.try_get("line")?, row.try_get("quantity")?);
        let received_items = json!({"line": line, "quantity": quantity, "condition": "restock"});
        returns.entry(row.try_get("id")?).or_default().push(received_items);
    }
    for (id, lines) in returns {
        env.post("Receipt", random, &format!("/v1/returns/{id}/receipt"), &json!({"lines": lines})).await;
    }
    let ledger = env.payments().await;
    for refund in ledger["refunds"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if refund["status"] == "pending" {
            let path = format!("refunds/{}/settle", refund["id"].as_str().unwrap_or_default());
            env.provider_control(&path, json!({"status": "succeeded"})).await;
        }
    }
    Ok(())
}
