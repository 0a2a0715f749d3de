//! Shows an order's timeline live.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use waybill_stack::client::Client;
use waybill_stack::output;

/// Interval between reads of the timeline.
const POLL: Duration = Duration::from_millis(100);
/// An order without a new event for this long is no longer followed.
const INACTIVITY_TIMEOUT: Duration = Duration::from_secs(60);
/// Statuses in which an order waits for a reviewer or the customer, possibly for days.
const WAITING: [&str; 2] = ["in_review", "awaiting_customer"];
/// Terminal statuses.
const TERMINAL: [&str; 4] = ["completed", "cancelled", "rejected", "expired"];

/// Places an order; returns its id.
pub async fn place(client: &Client, order: &Value, idempotency_key: &str) -> Result<String> {
    let started = Instant::now();
    let reply = client.place(order, idempotency_key, None).await?.success()?;
    let id = reply.text("/id").to_owned();
    if id.is_empty() {
        bail!("the API accepted the order but returned no id: {}", reply.body);
    }
    let total = reply.body["total"].as_i64().unwrap_or_default();
    output::line(format_args!(
        "\nPOST /v1/orders {} {} {} {}",
        reply.status.as_u16(),
        output::bold(&id),
        format_money(total, order["currency"].as_str().unwrap_or_default()),
        output::dim(output::seconds(started.elapsed())),
    ));
    Ok(id)
}

/// Prints one line per event until the order has ended; returns its last status. Without a terminal, it also ends where
/// the order waits for a reviewer or the customer.
pub async fn follow(client: &Client, id: &str) -> Result<String> {
    let started = Instant::now();
    let mut received = Instant::now();
    let mut seq = 0;
    let mut status = String::new();
    let mut advised = false;
    loop {
        let reply = client.events(id, seq).await?.success()?;
        let events = reply.items().with_context(|| format!("not a timeline: {}", reply.body))?;
        for event in events {
            seq = event["seq"].as_i64().unwrap_or(seq + 1);
            if let Some(new) = event["status"].as_str() {
                new.clone_into(&mut status);
            }
            received = Instant::now();
            show(event, started.elapsed());
        }
        if TERMINAL.contains(&status.as_str()) {
            return Ok(status);
        }
        let waits = WAITING.contains(&status.as_str());
        if waits && !advised {
            print_next_action(client, id, &status).await?;
            // The user can respond from another terminal while this one continues to follow the order.
            if !output::interactive() {
                return Ok(status);
            }
        }
        advised = waits;
        if !waits && received.elapsed() > INACTIVITY_TIMEOUT {
            bail!(
                "order {id} (`{status}`) has had no event for {} s; see `cargo dev status` and `cargo dev logs worker`",
                INACTIVITY_TIMEOUT.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Prints the command for the action that an order waits for.
async fn print_next_action(client: &Client, id: &str, status: &str) -> Result<()> {
    let (what, path, if_match, body) = if status == "in_review" {
        ("a decision", "decision", String::new(), r#"{"decision": "approve", "reason": "looks fine"}"#)
    } else {
        let etag = client.get(id).await?.header("etag").unwrap_or_default().to_owned();
        ("the customer", "amendment", format!(" -H 'If-Match: {etag}'"), r#"{"accept": "ship_available"}"#)
    };
    output::line(format_args!("\nThe order waits for {what}:"));
    output::line(format_args!(
        "  curl -X POST {}/v1/orders/{id}/{path} -H \"Authorization: Bearer $WAYBILL_KEY\"{if_match} -H \"Idempotency-Key: $RANDOM$RANDOM\" \\\n    \
         -H 'Content-Type: application/json' -d '{body}'\n",
        client.base()
    ));
    Ok(())
}

fn show(event: &Value, elapsed: Duration) {
    let status = event["status"].as_str().unwrap_or_default();
    let kind = ["type", "kind", "event"].iter().find_map(|name| event[*name].as_str()).unwrap_or_default();
    let coloured = match status {
        "completed" | "delivered" => output::green(format_args!("{status:<18}")),
        "rejected" | "cancelled" | "expired" | "cancelling" => output::yellow(format_args!("{status:<18}")),
        _ => format!("{status:<18}"),
    };
    let time = output::dim(format_args!("{:>7.2} s", elapsed.as_secs_f64()));
    output::line(format_args!("{time}  {coloured} {kind}{}", details(event)));
}

/// Formats the other fields of an event as `name=value`.
fn details(event: &Value) -> String {
    let data = event.get("data").or_else(|| event.get("detail")).and_then(Value::as_object);
    let fields = data.into_iter().flatten().filter(|(_, value)| !value.is_null() && **value != json!([]));
    let fields = fields.map(|(name, value)| match value {
        Value::String(text) => format!(" {name}={text}"),
        other => format!(" {name}={other}"),
    });
    output::dim(fields.collect::<String>())
}

fn format_money(minor: i64, currency: &str) -> String {
    format!("{}.{:02} {currency}", minor / 100, minor % 100)
}
