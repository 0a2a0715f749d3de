//! Lists of a merchant's orders.

use super::{OrderRecord, Row};
use crate::Result;
use jiff::Timestamp;
use sqlx::PgPool;
use waybill_domain::{
    ids::{CustomerId, MerchantId, OrderId},
    status::OrderStatus,
};

/// What a list may be narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Orders in this status.
    pub status: Option<OrderStatus>,
    /// This customer's.
    pub customer_id: Option<CustomerId>,
    /// Orders that need somebody, or that don't.
    pub attention: Option<bool>,
    /// With this reference.
    pub reference: Option<String>,
    /// Accepted after this.
    pub created_after: Option<Timestamp>,
    /// Older than this order: where the last page ended.
    pub before: Option<OrderId>,
}

/// The merchant's orders, newest first, at most `limit`.
///
/// Planned anew for each page, other than everything else here: which index leads to the page soonest depends on what is
/// asked for, and on how many orders there are of it.
///
/// # Errors
/// When Postgres fails.
pub async fn list(
    pool: &PgPool,
    merchant: MerchantId,
    filter: &Filter,
    limit: u16,
) -> Result<Vec<OrderRecord>> {
    use jiff_sqlx::ToSqlx;
    let mut tx = pool.begin().await?;
    sqlx::query!("select set_config('plan_cache_mode', 'force_custom_plan', true)")
        .fetch_one(&mut *tx)
        .await?;
    let rows = sqlx::query_as!(
        Row,
        r#"select id, merchant_id, customer_id, reference, currency, lines as "lines: _", subtotal, shipping_fee, tax,
             total, payment_method, shipping_address as "shipping_address: _", shortage_policy,
             metadata as "metadata: _", status, outcome, payment_status, attention, authorized, captured, refunded,
             line_states as "line_states: _", shipments as "shipments: _", needs as "needs: _", payment_action,
             case when concern is not null then (
               select jsonb_agg(jsonb_build_object('reason', c.reason, 'subject', c.subject, 'detail', c.detail)
                 order by c.raised_at, c.reason, c.subject)
               from concerns c where c.order_id = orders.id and c.cleared_at is null) end as "concerns: _",
             returned as "returned: _", discount, version,
             created_at as "created_at: _", updated_at as "updated_at: _",
             xmin::text::bigint as "stamp!"
           from orders where merchant_id = $1
             and ($2::text is null or status = $2) and ($3::text is null or customer_id = $3)
             and ($4::bool is null or (attention is not null or concern is not null) = $4)
             and ($5::text is null or reference = $5)
             and ($6::timestamptz is null or created_at > $6) and ($7::uuid is null or id < $7)
           order by id desc limit $8"#,
        merchant.0,
        filter.status.map(OrderStatus::as_str),
        filter.customer_id.as_ref().map(CustomerId::as_str),
        filter.attention,
        filter.reference,
        filter.created_after.map(|at| at.to_sqlx()) as _,
        filter.before.map(|id| id.0),
        i64::from(limit)
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.into_iter().map(OrderRecord::try_from).collect()
}
