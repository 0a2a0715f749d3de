//! Lists of a merchant's orders, by keyset pagination: a page costs what is on it, regardless of the number of orders.

use super::{OrderRecord, Row, select_orders};
use crate::Result;
use jiff::{SignedDuration, Timestamp};
use sqlx::PgExecutor;
use uuid::Uuid;
use waybill_domain::{
    ids::{CustomerId, MerchantId, OrderId},
    status::OrderStatus,
};

/// An order's id is generated right after its creation time was read from the same clock. The clock may be set back in
/// between, by at most this.
const CLOCK_SET_BACK_MAX: SignedDuration = SignedDuration::from_secs(1);

/// The filters of a list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Orders with this status.
    pub status: Option<OrderStatus>,
    /// Orders of this customer.
    pub customer_id: Option<CustomerId>,
    /// Orders that require operator attention, or those that do not.
    pub attention: Option<bool>,
    /// Orders with this reference.
    pub reference: Option<String>,
    /// Orders accepted after this.
    pub created_after: Option<Timestamp>,
    /// Orders older than this one, the last of the previous page.
    pub before: Option<OrderId>,
}

/// The merchant's orders, newest first, at most `limit`.
///
/// The filter that probably leaves the fewest orders selects the index; each order found is checked against the other
/// filters. A page is read backwards from its end, in an index that starts with the filter column and continues with
/// the id. Each filter has its own statement that no other index serves: it compares the index's columns as a row, and
/// sorts by them. Left to choose by its statistics, Postgres reads the orders newest first until enough of them happen
/// to be completed, and those are the oldest.
///
/// # Errors
/// When Postgres fails.
pub async fn list(
    db: impl PgExecutor<'_>,
    merchant: MerchantId,
    filter: &Filter,
    limit: u16,
) -> Result<Vec<OrderRecord>> {
    use jiff_sqlx::ToSqlx;
    let before = filter.before.map_or(Uuid::max(), |id| id.0);
    let since = filter.created_after.map_or(Uuid::nil(), first_id_after);
    macro_rules! page {
        ($from:literal, $order:literal) => {
            select_orders!(
                "where " $from " and ($4::text is null or status = $4)
                   and ($5::text is null or customer_id = $5)
                   and ($6::bool is null or (attention is not null or concern is not null) = $6)
                   and ($7::text is null or reference = $7)
                   and ($8::timestamptz is null or created_at > $8)
                 order by " $order " limit $9",
                merchant.0,
                before,
                since,
                filter.status.map(OrderStatus::as_str),
                filter.customer_id.as_ref().map(CustomerId::as_str),
                filter.attention,
                filter.reference,
                filter.created_after.map(|at| at.to_sqlx()) as _,
                i64::from(limit)
            )
            .fetch_all(db)
            .await?
        };
    }
    // If the sort order starts with a column that the condition also sets equal to a value, Postgres ignores that
    // column when sorting, and considers any index with the ids.
    let rows = if filter.reference.is_some() {
        page!(
            "merchant_id = $1 and reference is not null
             and (reference, id) < ($7, $2) and (reference, id) >= ($7, $3)",
            "reference desc, id desc"
        )
    } else if filter.customer_id.is_some() {
        page!(
            "merchant_id = $1 and (customer_id, id) < ($5, $2) and (customer_id, id) >= ($5, $3)",
            "customer_id desc, id desc"
        )
    } else if filter.attention == Some(true) {
        page!(
            "(attention is not null or concern is not null)
             and (merchant_id, id) < ($1, $2) and (merchant_id, id) >= ($1, $3)",
            "merchant_id desc, id desc"
        )
    } else if filter.status.is_some() {
        page!(
            "merchant_id = $1 and (status, id) < ($4, $2) and (status, id) >= ($4, $3)",
            "status desc, id desc"
        )
    } else {
        page!("(merchant_id, id) < ($1, $2) and (merchant_id, id) >= ($1, $3)", "merchant_id desc, id desc")
    };
    rows.into_iter().map(OrderRecord::try_from).collect()
}

/// No order that was accepted after this has an id below it: an id starts with its time (UUIDv7, RFC 9562).
fn first_id_after(at: Timestamp) -> Uuid {
    let since = at.saturating_sub(CLOCK_SET_BACK_MAX).unwrap_or(Timestamp::UNIX_EPOCH);
    let ms = u64::try_from(since.as_millisecond()).unwrap_or_default();
    Uuid::from_u128(u128::from(ms) << 80)
}
