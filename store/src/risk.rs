//! Risk decisions: taken once per order, and kept.

use crate::{Result, orders::OrderRecord, parse};
use sqlx::{PgPool, types::Json};
use waybill_domain::{
    ids::OrderId,
    risk::{RiskDecision, VELOCITY_MAX, VELOCITY_WINDOW_SECONDS, Verdict},
};

/// How many orders the customer placed within the window, this one included; counted up to one more than the rules
/// care for.
///
/// # Errors
/// When Postgres fails.
pub async fn recent_orders(pool: &PgPool, order: &OrderRecord) -> Result<u32> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (
             select from orders where merchant_id = $1 and customer_id = $2
               and created_at > now() - make_interval(secs => $3) order by id desc limit $4) recent"#,
        order.merchant_id.0,
        order.placed.customer_id.as_str(),
        f64::from(VELOCITY_WINDOW_SECONDS),
        i64::from(VELOCITY_MAX) + 1
    )
    .fetch_one(pool)
    .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Keeps a decision, unless there is one: the one that holds is given back.
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
    Ok(RiskDecision { verdict: parse("a verdict", row.verdict.parse::<Verdict>())?, reasons: row.reasons.0 })
}
