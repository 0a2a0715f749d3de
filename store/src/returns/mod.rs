//! Returns: the requested units, their receipt and restocking. Locks the order's row before each change.
//! Tables: `returns`, `return_lines`.
//! Each change is one transaction with the timeline. Writes also `orders.returned`, `stock` and `reservations`.

mod open;
mod read;
mod restock;

pub(crate) use open::open_return;
pub use read::{find, find_unstarted, get, mark_started};
pub use restock::restock;

use crate::{
    Result,
    inbox::{self, Message},
    orders::{
        attention::{self, AttentionRecord},
        projection,
    },
    parse,
};
use jiff::Timestamp;
use sqlx::{PgConnection, PgPool, types::Json};
use std::collections::BTreeMap;
use waybill_domain::{
    Currency,
    attention::AttentionReason,
    event::{LineQuantity, OrderEvent},
    ids::{MerchantId, OrderId, ReturnId},
    money::Amount,
    order,
    returns::{InsufficientQuantity, ReturnDisposition, ReturnState, ShippedLine, refund_share, take_units},
    state::ShipmentState,
};

/// The writer of returns' entries in the timeline.
const TIMELINE_WRITER: &str = "return";

/// Units of a return that left with one shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnLine {
    /// The line, and the shipment that the units left with.
    pub place: ShippedLine,
    /// The requested quantity.
    pub quantity: u32,
    /// Received and returned to stock.
    pub restocked: u32,
    /// Received, but can't be sold again.
    pub written_off: u32,
}

/// A return as stored in Postgres.
#[derive(Debug, Clone)]
pub struct ReturnRecord {
    /// Its id.
    pub id: ReturnId,
    /// Its order.
    pub order_id: OrderId,
    /// The merchant that owns it.
    pub merchant_id: MerchantId,
    /// The requester's reason.
    pub reason: String,
    /// Its state.
    pub state: ReturnState,
    /// The amount of the received units; none before the receipt.
    pub amount: Option<Amount>,
    /// By line, then by shipment.
    pub lines: Vec<ReturnLine>,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A return request.
#[derive(Debug, Clone)]
pub struct NewReturn {
    /// Its id.
    pub id: ReturnId,
    /// Its order.
    pub order_id: OrderId,
    /// The merchant that owns it.
    pub merchant_id: MerchantId,
    /// The requester's reason.
    pub reason: String,
    /// The units to be returned.
    pub lines: Vec<LineQuantity>,
    /// The client's idempotency key, if a client requests it: a retry with the same key returns the first return.
    pub request_key: Option<String>,
}

/// The outcome of recording a receipt.
#[derive(Debug, Clone)]
pub enum ReceiptOutcome {
    /// The receipt is stored.
    Accepted {
        /// The return after the receipt.
        record: Box<ReturnRecord>,
        /// Whether its message is new.
        is_new: bool,
    },
    /// More units than were to be returned.
    ExceedsReturn(InsufficientQuantity),
    /// The items have already been received.
    AlreadyReceived(ReturnState),
}

/// Requests a return of units that were delivered and are not in another return. Requests for one order are serialized.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn request(
    pool: &PgPool,
    new: &NewReturn,
) -> Result<std::result::Result<Box<ReturnRecord>, InsufficientQuantity>> {
    let mut tx = crate::begin(pool).await?;
    let shipments = lock_order(&mut tx, new.order_id).await?.shipments;
    let known = sqlx::query_scalar!(
        "select id from returns where order_id = $1 and request_key = $2",
        new.order_id.0,
        new.request_key
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(known) = known {
        return Ok(Ok(Box::new(read::read_return(&mut tx, ReturnId(known)).await?)));
    }
    let mut free = open::find_returnable(&mut tx, new.order_id, &shipments).await?;
    let selected = match take_units(&mut free, &new.lines) {
        Ok(selected) => selected,
        Err(too_few) => return Ok(Err(too_few)),
    };
    insert(&mut tx, new, &selected).await?;
    let record = read::read_return(&mut tx, new.id).await?;
    tx.commit().await?;
    Ok(Ok(Box::new(record)))
}

async fn insert(tx: &mut PgConnection, new: &NewReturn, selected: &BTreeMap<ShippedLine, u32>) -> Result<()> {
    sqlx::query!(
        "insert into returns (id, order_id, merchant_id, reason, state, request_key)
         values ($1, $2, $3, $4, 'awaiting', $5)",
        new.id.0,
        new.order_id.0,
        new.merchant_id.0,
        new.reason,
        new.request_key
    )
    .execute(&mut *tx)
    .await?;
    for (place, quantity) in selected {
        sqlx::query!(
            "insert into return_lines (return_id, shipment_id, line, order_id, quantity) values ($1, $2, $3, $4, $5)",
            new.id.0,
            place.shipment_id.0,
            place.line.cast_signed(),
            new.order_id.0,
            quantity.cast_signed()
        )
        .execute(&mut *tx)
        .await?;
    }
    let event = OrderEvent::ReturnRequested {
        return_id: new.id,
        lines: new.lines.clone(),
        reason: new.reason.clone(),
    };
    projection::append(tx, new.order_id, TIMELINE_WRITER, &[event]).await?;
    Ok(())
}

/// The data of an order that a return needs.
struct LockedOrder {
    currency: Currency,
    shipments: Vec<ShipmentState>,
}

/// Locks the order's row, and reads it.
async fn lock_order(tx: &mut PgConnection, order: OrderId) -> Result<LockedOrder> {
    let row = sqlx::query!(
        r#"select currency, shipments as "shipments: Json<Vec<ShipmentState>>" from orders where id = $1 for update"#,
        order.0
    )
    .fetch_one(tx)
    .await?;
    Ok(LockedOrder {
        currency: parse("currency", order::parse_currency(&row.currency))?,
        shipments: row.shipments.map_or_else(Vec::new, |s| s.0),
    })
}

/// Records the receipt of a return: the quantity of each line and its disposition, at most what was requested. Once per
/// return; a retry with the same `key` returns the same outcome. `message` is stored in the same transaction and
/// notifies the return's workflow: the outbox dispatcher delivers it if the caller does not.
///
/// # Errors
/// When Postgres fails, or there is no such return.
pub async fn record_received(
    pool: &PgPool,
    of: &ReturnRecord,
    key: &str,
    received_lines: &[(LineQuantity, ReturnDisposition)],
    message: &Message,
) -> Result<ReceiptOutcome> {
    let mut tx = crate::begin(pool).await?;
    let order = lock_order(&mut tx, of.order_id).await?;
    let record = read::read_return(&mut tx, of.id).await?;
    if record.state != ReturnState::Awaiting {
        let same = sqlx::query_scalar!(
            r#"select coalesce(receipt_key = $2, false) as "same!" from returns where id = $1"#,
            of.id.0,
            key
        );
        let same = same.fetch_one(&mut *tx).await?;
        if !same {
            return Ok(ReceiptOutcome::AlreadyReceived(record.state));
        }
        // It may be missing for a receipt that release 0.1.0 recorded.
        let is_new = inbox::store_message(&mut *tx, message).await?;
        tx.commit().await?;
        return Ok(ReceiptOutcome::Accepted { record: Box::new(record), is_new });
    }
    let mut returnable: BTreeMap<ShippedLine, u32> =
        record.lines.iter().map(|l| (l.place, l.quantity)).collect();
    let units = |condition| -> Vec<LineQuantity> {
        received_lines.iter().filter(|(_, c)| *c == condition).map(|(units, _)| units.clone()).collect()
    };
    let (restocked, written_off) = (units(ReturnDisposition::Restock), units(ReturnDisposition::WriteOff));
    let selected = take_units(&mut returnable, &restocked).and_then(|restocked_by_place| {
        take_units(&mut returnable, &written_off)
            .map(|written_off_by_place| (restocked_by_place, written_off_by_place))
    });
    let (restocked_by_place, written_off_by_place) = match selected {
        Ok(selected) => selected,
        Err(too_few) => return Ok(ReceiptOutcome::ExceedsReturn(too_few)),
    };
    let amount =
        restock::record_received(&mut tx, &record, &order, &restocked_by_place, &written_off_by_place)
            .await?;
    sqlx::query!(
        "update returns set state = 'received', amount = $2, receipt_key = $3, updated_at = now() where id = $1",
        of.id.0,
        amount.minor(),
        key
    )
    .execute(&mut *tx)
    .await?;
    let event = OrderEvent::ReturnReceived { return_id: of.id, restocked, written_off };
    projection::append(&mut tx, of.order_id, TIMELINE_WRITER, &[event]).await?;
    let subject = of.id.to_string();
    attention::clear(&mut tx, of.order_id, AttentionReason::ReturnOverdue, Some(&subject)).await?;
    inbox::store_message(&mut *tx, message).await?;
    let record = read::read_return(&mut tx, of.id).await?;
    tx.commit().await?;
    Ok(ReceiptOutcome::Accepted { record: Box::new(record), is_new: true })
}

/// Raises attention once because the items were not received in time. Does nothing if they were received in the
/// meantime.
///
/// # Errors
/// When Postgres fails, or there is no such return.
pub async fn flag_overdue(pool: &PgPool, of: &ReturnRecord) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, of.order_id).await?;
    if read::read_return(&mut tx, of.id).await?.state != ReturnState::Awaiting {
        return Ok(());
    }
    let attention_record = AttentionRecord {
        reason: AttentionReason::ReturnOverdue,
        subject: of.id.to_string(),
        detail: serde_json::json!({"reason": of.reason}),
    };
    // A successor of a terminated workflow starts after its deadline: a dismissed record stays dismissed.
    attention::raise_once(&mut tx, of.order_id, &attention_record).await?;
    tx.commit().await?;
    Ok(())
}

/// Closes the return; `disputed` is the amount that is not refunded because it is disputed. A retry changes nothing.
///
/// # Errors
/// When Postgres fails, or there is no such return.
pub async fn close(pool: &PgPool, of: &ReturnRecord, outcome: &str, disputed: Option<Amount>) -> Result<()> {
    let mut tx = crate::begin(pool).await?;
    lock_order(&mut tx, of.order_id).await?;
    let closed = sqlx::query!(
        "update returns set state = 'closed', updated_at = now() where id = $1 and state <> 'closed'",
        of.id.0
    );
    if closed.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(());
    }
    let event = OrderEvent::ReturnClosed { return_id: of.id, outcome: outcome.to_owned(), disputed };
    projection::append(&mut tx, of.order_id, TIMELINE_WRITER, &[event]).await?;
    tx.commit().await?;
    Ok(())
}
