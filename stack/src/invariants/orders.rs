//! Checks one order: its row against its timeline, and against its workflow.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::{PgPool, Row};
use uuid::Uuid;
use waybill_domain::event::OrderEvent;
use waybill_domain::state::{LineState, ShipmentState};
use waybill_domain::status::{FulfilmentStatus, OrderStatus};

use super::Violation;
use super::timeline::{self, StoredEntry};
use crate::servers::temporal_http::{Execution, TemporalHttp};

/// Number of timeline entries shown from the beginning and from the end: an order that is retried for minutes has
/// hundreds.
const ENTRIES_SHOWN: usize = 40;

/// An order as stored in Postgres.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: OrderStatus,
    /// Its payment status.
    pub payment_status: String,
    /// Its attention reason.
    pub attention: Option<String>,
    /// The sequence number of its last entry.
    pub version: i64,
    /// Captured amount in minor units.
    pub captured: i64,
    /// Refunded amount in minor units.
    pub refunded: i64,
    /// Its lines; empty before stock is reserved.
    pub lines: Vec<LineState>,
    /// Its shipments.
    pub shipments: Vec<ShipmentState>,
    /// All reservations, in any state: shipment, line, quantity.
    pub reserved: Vec<(Uuid, u32, u32)>,
    /// Units in active reservations.
    pub held: i64,
    /// Its timeline.
    pub entries: Vec<StoredEntry>,
}

/// Loads every order with its timeline.
pub(super) async fn load(pool: &PgPool) -> Result<BTreeMap<String, Order>> {
    // One snapshot, because an order's row and its timeline change together.
    let mut tx = pool.begin_with("begin isolation level repeatable read read only").await?;
    let rows = sqlx::query(
        "select id, status, payment_status, attention, version, captured, refunded, line_states, shipments,
           (select coalesce(jsonb_agg(jsonb_build_array(shipment_id, line, quantity)), '[]')
             from reservations r where r.order_id = o.id) as reserved,
           (select coalesce(sum(quantity), 0)::bigint from reservations r where r.order_id = o.id and r.state = 'held')
             as held
         from orders o",
    )
    .fetch_all(&mut *tx)
    .await?;
    let events =
        sqlx::query("select order_id, seq, type, status, data from order_events order by order_id, seq")
            .fetch_all(&mut *tx)
            .await?;
    let mut orders = BTreeMap::new();
    for row in rows {
        let id = row.try_get::<Uuid, _>("id")?.to_string();
        let shipments: Option<Value> = row.try_get("shipments")?;
        let lines: Option<Value> = row.try_get("line_states")?;
        let order = Order {
            status: row.try_get::<String, _>("status")?.parse()?,
            payment_status: row.try_get("payment_status")?,
            attention: row.try_get("attention")?,
            version: row.try_get("version")?,
            captured: row.try_get("captured")?,
            refunded: row.try_get("refunded")?,
            shipments: shipments.map(serde_json::from_value).transpose()?.unwrap_or_default(),
            lines: lines.map(serde_json::from_value).transpose()?.unwrap_or_default(),
            reserved: serde_json::from_value(row.try_get("reserved")?)?,
            held: row.try_get("held")?,
            entries: Vec::new(),
            id: id.clone(),
        };
        orders.insert(id, order);
    }
    for row in events {
        let event =
            json!({"type": row.try_get::<String, _>("type")?, "data": row.try_get::<Value, _>("data")?});
        let entry = StoredEntry {
            seq: row.try_get("seq")?,
            status: row.try_get::<String, _>("status")?.parse()?,
            event: serde_json::from_value(event.clone())
                .with_context(|| format!("invalid event: {event}"))?,
        };
        if let Some(order) = orders.get_mut(&row.try_get::<Uuid, _>("order_id")?.to_string()) {
            order.entries.push(entry);
        }
    }
    Ok(orders)
}

impl Order {
    /// Returns a violation of a rule by this order.
    pub fn violation(&self, rule: &'static str, detail: impl Into<String>) -> Violation {
        Violation { order: Some(self.id.clone()), rule, detail: detail.into() }
    }

    /// Formats the timeline, one line per entry; omits the middle of a long one.
    pub fn timeline(&self) -> String {
        let line = |entry: &StoredEntry| {
            let event = serde_json::to_value(&entry.event).unwrap_or_default();
            format!(
                "  {:>3} {:<18} {} {}",
                entry.seq,
                entry.status,
                event["type"].as_str().unwrap_or_default(),
                event["data"]
            )
        };
        let ends = self.entries.len().saturating_sub(ENTRIES_SHOWN);
        let (first, last) =
            (self.entries.iter().take(ENTRIES_SHOWN), self.entries.iter().skip(ends.max(ENTRIES_SHOWN)));
        let left_out = (ends > ENTRIES_SHOWN).then(|| format!("  … {} more", ends - ENTRIES_SHOWN));
        first.map(line).chain(left_out).chain(last.map(line)).collect::<Vec<_>>().join("\n")
    }

    /// Returns whether the timeline contains a matching event.
    pub fn has_event(&self, like: impl Fn(&OrderEvent) -> bool) -> bool {
        self.entries.iter().any(|entry| like(&entry.event))
    }

    pub(super) fn check_anytime(&self) -> Vec<Violation> {
        let mut found: Vec<Violation> = timeline::check(&self.entries)
            .into_iter()
            .map(|violations| {
                self.violation("the timeline follows the lifecycle and records each event once", violations)
            })
            .collect();
        let last = self.entries.last();
        if last.is_none_or(|last| last.seq != self.version) {
            found.push(
                self.violation(
                    "the version is the sequence number of the last entry",
                    self.version.to_string(),
                ),
            );
        }
        if let Some(last) = last.filter(|last| {
            last.status != self.status && (last.status.is_terminal() || self.status.is_terminal())
        }) {
            found.push(self.violation(
                "row and timeline end in the same status",
                format!("{} and {}", self.status, last.status),
            ));
        }
        found
    }

    pub(super) fn check_at_rest(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.refunded > self.captured {
            found.push(self.violation(
                "no refund exceeds its capture",
                format!("{} of {}", self.refunded, self.captured),
            ));
        }
        if self.status.is_terminal() && self.held > 0 {
            found
                .push(self.violation("an order that has ended has no reserved stock", self.held.to_string()));
        }
        let ends = self
            .entries
            .iter()
            .filter(|entry| entry.event.deduplication_key().as_deref() == Some("end"))
            .count();
        if ends != usize::from(self.status.is_terminal()) {
            found.push(self.violation("one terminal event per order that has ended", ends.to_string()));
        }
        let reserved = self.wrongly_reserved();
        if !reserved.is_empty() {
            found.push(self.violation("reservations match the shipments' lines", reserved));
        }
        let captured: i64 = self.shipments.iter().filter(|s| s.captured).map(|s| s.amount.minor()).sum();
        if captured != self.captured {
            found.push(self.violation(
                "the captured amount is the sum over the shipments",
                format!("{} and {captured}", self.captured),
            ));
        }
        found
    }
}

impl Order {
    /// Returns the shipments whose reservations differ from their lines, except cancelled ones. The reservations of a
    /// cancelled shipment contain only the cancelled units; the replacement shipment has the others.
    fn wrongly_reserved(&self) -> String {
        let mut violations = Vec::new();
        for shipment in self.shipments.iter().filter(|s| s.status != FulfilmentStatus::Cancelled) {
            let of_it = self.reserved.iter().filter(|(id, ..)| *id == shipment.id.0);
            let mut reserved: Vec<(u32, u32)> = of_it.map(|(_, line, items)| (*line, *items)).collect();
            let mut listed: Vec<(u32, u32)> = shipment.lines.iter().map(|l| (l.line, l.quantity)).collect();
            reserved.sort_unstable();
            listed.sort_unstable();
            if reserved != listed {
                violations.push(format!("{}: {reserved:?} and {listed:?}", shipment.id));
            }
        }
        violations.join("; ")
    }
}

/// Checks that each order has its workflow, and that an ended order and its workflow agree on the result.
pub(super) async fn check_workflows(
    orders: &BTreeMap<String, Order>,
    temporal: &TemporalHttp,
    queue_prefix: &str,
) -> Result<Vec<Violation>> {
    let query = format!("TaskQueue = '{queue_prefix}orders' and WorkflowType = 'OrderWorkflow'");
    let mut latest = BTreeMap::<String, Execution>::new();
    for execution in temporal.executions(&query).await? {
        let id = execution.workflow_id.trim_start_matches("order:").to_owned();
        if latest.get(&id).is_none_or(|other| other.started < execution.started) {
            latest.insert(id, execution);
        }
    }
    let mut found = Vec::new();
    for order in orders.values() {
        let Some(execution) = latest.get(&order.id) else {
            found.push(order.violation("each order has its workflow", "no execution found"));
            continue;
        };
        let ended = order.status.is_terminal();
        if ended && execution.status == "TERMINATED" {
            // An operator terminated it between the order's end and the workflow's: there is no result to compare.
            continue;
        }
        if ended != (execution.status == "COMPLETED") {
            let detail = format!("the order is {}, its workflow {}", order.status, execution.status);
            found.push(order.violation("an order and its workflow end together", detail));
            continue;
        }
        if !ended {
            continue;
        }
        let status = order.status.as_str();
        if execution.order_status.as_deref() != Some(status) {
            let detail = format!("{status} and {:?}", execution.order_status);
            found.push(order.violation("row and search attribute agree", detail));
        }
        let result = temporal.result(execution).await?.unwrap_or_default();
        if result["status"] != status {
            found.push(order.violation("row and workflow result agree", format!("{status} and {result}")));
        }
    }
    Ok(found)
}
