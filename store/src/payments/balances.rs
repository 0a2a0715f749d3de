//! What a merchant's orders hold and have taken, from the ledgers alone.

use crate::Result;
use sqlx::PgPool;
use waybill_domain::ids::MerchantId;

/// The sums of one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrencyBalance {
    /// Of what.
    pub currency: String,
    /// Pieces that are set aside and still here.
    pub reserved_units: i64,
    /// Held at the provider and not taken, in minor units.
    pub authorized: i64,
    /// Taken, in minor units; what went back is not taken off.
    pub captured: i64,
    /// Given back, in minor units.
    pub refunded: i64,
}

/// The merchant's sums, by currency. It reads all of the merchant's operations: for an accountant's eye, not for a loop.
///
/// # Errors
/// When Postgres fails.
pub async fn find_by_merchant(pool: &PgPool, merchant: MerchantId) -> Result<Vec<CurrencyBalance>> {
    // In earlier releases the last capture gave the rest of a hold free without a row of its own: an order with nothing
    // left to ship holds no money.
    Ok(sqlx::query_as!(
        CurrencyBalance,
        r#"with money as (
             select o.id, o.currency,
               coalesce(sum(p.amount) filter (where p.kind = 'authorize'), 0) as authorized,
               coalesce(sum(p.amount) filter (where p.kind = 'capture'), 0) as captured,
               (select coalesce(sum(r.amount), 0) from refunds r
                where r.order_id = o.id and r.state = 'succeeded') as refunded,
               coalesce(sum(p.amount) filter (where p.kind = 'void'), 0) as voided,
               o.status in ('shipped', 'delivered', 'completed', 'cancelled', 'rejected', 'expired') as free
             from orders o left join payment_operations p on p.order_id = o.id and p.state = 'succeeded'
             where o.merchant_id = $1 group by o.id
           ), items as (
             select order_id, sum(quantity) as units from reservations
             where merchant_id = $1 and state = 'held' group by order_id
           )
           select m.currency as "currency!", coalesce(sum(g.units), 0)::bigint as "reserved_units!",
             coalesce(sum(case when m.free then 0 else greatest(m.authorized - m.captured - m.voided, 0) end), 0)::bigint as "authorized!",
             coalesce(sum(m.captured), 0)::bigint as "captured!", coalesce(sum(m.refunded), 0)::bigint as "refunded!"
           from money m left join items g on g.order_id = m.id group by m.currency order by m.currency"#,
        merchant.0
    )
    .fetch_all(pool)
    .await?)
}
