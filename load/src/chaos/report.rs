//! The report of a run: its orders and faults, the responses, and each broken invariant with its order's timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use serde_json::Value;
use sqlx::PgPool;

use super::args::ChaosArgs;
use super::environment::RequestLog;
use super::plan::Plan;
use waybill_stack::invariants::{Order, Violation};

/// The report of a run.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    kinds: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    answers: BTreeMap<(String, String), u64>,
    statuses: BTreeMap<String, u64>,
    /// The broken invariants.
    pub violations: Vec<Violation>,
    timelines: BTreeMap<String, String>,
    money: BTreeMap<String, String>,
}

fn tally<T: fmt::Debug>(items: impl Iterator<Item = T>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(format!("{item:?}")).or_default() += 1;
    }
    counts
}

impl Report {
    pub(super) fn new(
        args: &ChaosArgs,
        plan: &Plan,
        log: &RequestLog,
        orders: &BTreeMap<String, Order>,
        violations: Vec<Violation>,
        money: BTreeMap<String, String>,
    ) -> Self {
        let broken: BTreeSet<&String> =
            violations.iter().filter_map(|violation| violation.order.as_ref()).collect();
        let timelines = broken.into_iter().filter_map(|id| Some((id.clone(), orders.get(id)?.timeline())));
        Self {
            seed: args.seed,
            kinds: tally(plan.orders.iter().map(|order| order.kind)),
            faults: tally(plan.faults.iter().map(|fault| (fault.part, fault.how))),
            answers: log.answers.clone(),
            statuses: tally(orders.values().map(|order| order.status)),
            timelines: timelines.collect(),
            money,
            violations,
        }
    }
}

/// Formats Waybill's and the provider's ledger entries for the orders with broken invariants.
pub(super) async fn ledger_summary(
    pool: &PgPool,
    provider: &Value,
    violations: &[Violation],
) -> Result<BTreeMap<String, String>> {
    let mut money = BTreeMap::<String, String>::new();
    for id in violations.iter().filter_map(|violation| violation.order.as_ref()) {
        let ours = sqlx::query_scalar::<_, String>(
            "select format('  ours: %s %s %s %s', key, amount, state, provider_ref) from payment_operations
             where order_id = $1::uuid order by created_at",
        );
        let mut lines = ours.bind(id).fetch_all(pool).await?;
        for intent in provider["intents"].as_array().map(Vec::as_slice).unwrap_or_default() {
            if intent["metadata"]["order_id"] == **id {
                let field = |name: &str| intent[name].to_string();
                lines.push(format!(
                    "  provider: {} {} capturable {} received {}",
                    field("id"),
                    field("status"),
                    field("amount_capturable"),
                    field("amount_received")
                ));
            }
        }
        money.insert(id.clone(), lines.join("\n"));
    }
    Ok(money)
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, counts: &BTreeMap<String, u64>) -> fmt::Result {
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    writeln!(f, "{title}: {}", counts.join(", "))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, "Orders", &self.kinds)?;
        list(f, "Faults", &self.faults)?;
        let mut by_request = BTreeMap::<&str, Vec<String>>::new();
        for ((what, answer), count) in &self.answers {
            by_request.entry(what).or_default().push(format!("{answer}: {count}"));
        }
        writeln!(f, "Responses:")?;
        for (what, answers) in by_request {
            writeln!(f, "  {what:<16} {}", answers.join(", "))?;
        }
        list(f, "Ended", &self.statuses)?;
        for (order, timeline) in &self.timelines {
            let money = self.money.get(order).map(String::as_str).unwrap_or_default();
            writeln!(f, "\nOrder {order}\n{timeline}\n{money}")?;
        }
        for violation in &self.violations {
            writeln!(f, "BROKEN {violation}")?;
        }
        write!(f, "{} invariants broken with seed {}", self.violations.len(), self.seed)
    }
}
