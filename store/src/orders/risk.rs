//! Risk decisions: made once per order, and stored.

use crate::{Result, parse};
use sqlx::{PgPool, types::Json};
use waybill_domain::{
    ids::OrderId,
    money::Amount,
    risk::{RiskDecision, RiskInput, VELOCITY_MAX, VELOCITY_WINDOW_SECONDS, Verdict},
};

/// The input of an order's risk decision, and the decision if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RiskContext {
    /// The input of the rules. Orders are counted up to one more than the rules' limit.
    pub input: RiskInput,
    /// The stored decision.
    pub decision: Option<RiskDecision>,
}

/// Loads the input of the decision. Returns `None` if there is no such order.
///
/// # Errors
/// When Postgres fails.
pub async fn load_context(pool: &PgPool, order: OrderId) -> Result<Option<RiskContext>> {
    let row = sqlx::query!(
        r#"select o.total, d.verdict as "verdict?", d.reasons as "reasons?: Json<Vec<String>>",
             (select count(*) from (
               select from orders where merchant_id = o.merchant_id and customer_id = o.customer_id
                 and created_at > now() - make_interval(secs => $2) order by id desc limit $3) recent) as "recent_orders!"
           from orders o left join risk_decisions d on d.order_id = o.id where o.id = $1"#,
        order.0,
        f64::from(VELOCITY_WINDOW_SECONDS),
        i64::from(VELOCITY_MAX) + 1
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let decision = match (row.verdict, row.reasons) {
        (Some(verdict), Some(reasons)) => Some(read(&verdict, reasons)?),
        _ => None,
    };
    let input = RiskInput {
        total: parse("amount", Amount::new(row.total))?,
        recent_orders: u32::try_from(row.recent_orders).unwrap_or(u32::MAX),
    };
    Ok(Some(RiskContext { input, decision }))
}

/// Stores a decision, unless there is one, and returns the stored decision.
///
/// # Errors
/// When Postgres fails.
pub async fn decide_once(pool: &PgPool, order: OrderId, decision: &RiskDecision) -> Result<RiskDecision> {
    let row = sqlx::query!(
        r#"insert into risk_decisions (order_id, verdict, reasons) values ($1, $2, $3)
           on conflict (order_id) do update set verdict = risk_decisions.verdict
           returning verdict, reasons as "reasons: Json<Vec<String>>""#,
        order.0,
        decision.verdict.as_str(),
        Json(&decision.reasons) as _
    )
    .fetch_one(pool)
    .await?;
    read(&row.verdict, row.reasons)
}

fn read(verdict: &str, reasons: Json<Vec<String>>) -> Result<RiskDecision> {
    Ok(RiskDecision { verdict: parse("verdict", verdict.parse::<Verdict>())?, reasons: reasons.0 })
}
