//! Reads an order's row.

use super::{OrderRecord, Result};
use crate::{StoreError, orders::attention::AttentionRecord, parse};
use sqlx::types::Json;
use std::collections::BTreeMap;
use uuid::Uuid;
use waybill_domain::{
    Currency,
    attention::{AttentionItem, AttentionReason},
    ids::{CustomerId, MerchantId, OrderId},
    money::Amount,
    order::{Address, NewOrder, OrderLine, ShortagePolicy},
    provider_currency::amount_increment,
    state::{LineState, OrderState, ShipmentState},
    status::{OrderStatus, PaymentStatus},
};

/// The statement that reads orders; the caller supplies the rest, from `where` on.
///
/// The subquery looks for open attention records per order, and not in the table as a whole: that would use the index
/// of all open ones.
macro_rules! select_orders {
    ($($rest:literal)+, $($value:expr),+ $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"select id, merchant_id, customer_id, reference, currency, lines as "lines: _", subtotal, shipping_fee, tax,
                 total, payment_method, shipping_address as "shipping_address: _", shortage_policy,
                 metadata as "metadata: _", status, outcome, payment_status, attention, authorized, captured, refunded,
                 line_states as "line_states: _", shipments as "shipments: _", needs as "needs: _", payment_action,
                 case when concern is not null then (
                   select jsonb_agg(jsonb_build_object('reason', c.reason, 'subject', c.subject, 'detail', c.detail)
                     order by c.raised_at, c.reason, c.subject) filter (where c.cleared_at is null)
                   from concerns c where c.order_id = orders.id) end as "concerns: _",
                 returned as "returned: _", discount, version,
                 created_at as "created_at: _", updated_at as "updated_at: _",
                 xmin::text::bigint as "row_version!"
               from orders "# $(+ $rest)+,
            $($value),+
        )
    };
}
pub(super) use select_orders;

pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) merchant_id: Uuid,
    pub(super) customer_id: String,
    pub(super) reference: Option<String>,
    pub(super) currency: String,
    pub(super) lines: Json<Vec<OrderLine>>,
    pub(super) subtotal: i64,
    pub(super) shipping_fee: i64,
    pub(super) tax: i64,
    pub(super) total: i64,
    pub(super) payment_method: String,
    pub(super) shipping_address: Json<Address>,
    pub(super) shortage_policy: String,
    pub(super) metadata: Json<BTreeMap<String, String>>,
    pub(super) status: String,
    pub(super) outcome: Option<String>,
    pub(super) payment_status: String,
    pub(super) attention: Option<String>,
    pub(super) authorized: i64,
    pub(super) captured: i64,
    pub(super) refunded: i64,
    pub(super) line_states: Option<Json<Vec<LineState>>>,
    pub(super) shipments: Option<Json<Vec<ShipmentState>>>,
    pub(super) needs: Option<Json<Vec<AttentionItem>>>,
    pub(super) payment_action: bool,
    pub(super) concerns: Option<Json<Vec<AttentionRecord>>>,
    pub(super) returned: Option<Json<Vec<u32>>>,
    pub(super) discount: i64,
    pub(super) version: i64,
    pub(super) created_at: jiff_sqlx::Timestamp,
    pub(super) updated_at: jiff_sqlx::Timestamp,
    pub(super) row_version: i64,
}

impl TryFrom<Row> for OrderRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        let amount = |minor: i64| parse("amount", Amount::new(minor));
        let placed = NewOrder {
            customer_id: parse(
                "customer id",
                row.customer_id.try_into() as std::result::Result<CustomerId, _>,
            )?,
            currency: parse("currency", waybill_domain::order::parse_currency(&row.currency))? as Currency,
            reference: row.reference,
            lines: row.lines.0,
            shipping_fee: amount(row.shipping_fee)?,
            discount: amount(row.discount)?,
            tax: amount(row.tax)?,
            payment_method: row.payment_method,
            shipping_address: row.shipping_address.0,
            shortage_policy: parse("shortage policy", row.shortage_policy.parse::<ShortagePolicy>())?,
            metadata: row.metadata.0,
        };
        let received = OrderState::received(&placed.lines);
        let mut lines = row.line_states.map_or(received.lines, |l| l.0);
        for (line, returned) in lines.iter_mut().zip(row.returned.map_or_else(Vec::new, |r| r.0)) {
            line.returned = returned;
        }
        let state = OrderState {
            status: parse("order status", row.status.parse::<OrderStatus>())?,
            outcome: row.outcome.map(|o| parse("outcome", o.parse())).transpose()?,
            payment_status: parse("payment status", row.payment_status.parse::<PaymentStatus>())?,
            attention: row
                .attention
                .map(|a| parse("attention reason", a.parse::<AttentionReason>()))
                .transpose()?,
            authorized: amount(row.authorized)?,
            captured: amount(row.captured)?,
            refunded: amount(row.refunded)?,
            lines,
            shipments: row.shipments.map_or_else(Vec::new, |s| s.0),
            needs: row.needs.map_or_else(Vec::new, |n| n.0),
            payment_action: row.payment_action,
            amount_increment: Some(amount_increment(placed.currency)),
        };
        Ok(Self {
            id: OrderId(row.id),
            merchant_id: MerchantId(row.merchant_id),
            placed,
            subtotal: amount(row.subtotal)?,
            total: amount(row.total)?,
            state,
            concerns: row.concerns.map_or_else(Vec::new, |c| c.0),
            version: row.version,
            created_at: row.created_at.to_jiff(),
            updated_at: row.updated_at.to_jiff(),
            row_version: Some(row.row_version.into()),
        })
    }
}
