//! The ledger of what was asked of the payment provider, written before and after each call.

pub mod balances;
mod begin;
pub mod ledger_snapshot;

pub use begin::{
    AuthorizationAttempt, CapturableAuthorization, CaptureAttempt, PaymentTerms, begin_authorization,
    begin_capture, begin_operation,
};

use crate::{Result, StoreError, parse};
use jiff::Timestamp;
use sqlx::PgPool;
use waybill_domain::{
    ids::{OrderId, RefundId, ShipmentId},
    money::Amount,
};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// Hold the money: the order's first hold (1), or a later one.
    Authorize(u32),
    /// Take it, for one shipment.
    Capture(ShipmentId),
    /// Give free whatever is held, because the order is undone: after this nothing is held for it any more.
    Void,
    /// Give free what is left of one hold; the order goes on.
    VoidRemainder(u32),
    /// Give back what was taken. Written in [`crate::refunds`], with the refund.
    Refund(RefundId),
}

impl OperationKind {
    /// The pinned name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorize(_) => "authorize",
            Self::Capture(_) => "capture",
            Self::Void | Self::VoidRemainder(_) => "void",
            Self::Refund(_) => "refund",
        }
    }

    /// The operation's key, here and at the provider: of order, shipment and operation, never of the attempt or the
    /// clock, so that asking twice is asking once.
    pub fn key(self, order: OrderId) -> String {
        match self {
            Self::Capture(shipment) => format!("order:{order}:capture:{shipment}"),
            Self::Refund(refund) => format!("order:{order}:refund:{refund}"),
            Self::Authorize(1) | Self::Void => format!("order:{order}:{}", self.as_str()),
            Self::Authorize(hold) | Self::VoidRemainder(hold) => {
                format!("order:{order}:{}:{hold}", self.as_str())
            }
        }
    }

    /// Which shipment it is for, where it is for one.
    fn shipment(self) -> Option<ShipmentId> {
        match self {
            Self::Capture(shipment) => Some(shipment),
            Self::Authorize(_) | Self::Void | Self::VoidRemainder(_) | Self::Refund(_) => None,
        }
    }

    /// Which of the order's holds it is about, where it is about one.
    fn authorization_number(self) -> i32 {
        match self {
            Self::Authorize(hold) | Self::VoidRemainder(hold) => hold.cast_signed(),
            Self::Capture(_) | Self::Void | Self::Refund(_) => 1,
        }
    }
}

/// An operation's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationState {
    /// Asked, or about to be; the outcome is not known here.
    Pending,
    /// Done.
    Succeeded,
    /// The provider refused, with this code.
    Declined(String),
}

impl OperationState {
    fn of(name: &str, code: Option<String>) -> Self {
        match name {
            "succeeded" => Self::Succeeded,
            "declined" => Self::Declined(code.unwrap_or_default()),
            _ => Self::Pending,
        }
    }
}

/// An operation as the ledger has it.
#[derive(Debug, Clone)]
pub struct PaymentOperation {
    /// How far it is.
    pub state: OperationState,
    /// Minor units.
    pub amount: Amount,
    /// The provider's id of the payment.
    pub provider_ref: Option<String>,
    /// How long ago it was begun, in hours.
    pub age_hours: f64,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// Of a hold: which of the order's, from 1.
    pub generation: u32,
    /// Of a hold: when it lapses, if the provider said so.
    pub capture_before: Option<Timestamp>,
    /// Of a hold: whether it can be captured in parts. Unknown for holds of earlier releases.
    pub multicapture: Option<bool>,
    /// Of a hold: whether nothing is held any more, although the order goes on: it lapsed, ended with a capture, or was
    /// given free for a later one.
    pub is_released: bool,
}

/// How an operation ended, and what the provider said of it.
#[derive(Debug, Clone, Copy)]
pub struct OperationResult<'a> {
    /// Not pending.
    pub state: &'a OperationState,
    /// The provider's id of the payment.
    pub provider_ref: Option<&'a str>,
    /// How much it was, where that was not known at its beginning.
    pub amount: Option<Amount>,
    /// Of a hold: when it lapses.
    pub capture_before: Option<Timestamp>,
    /// Of a hold: whether it can be captured in parts.
    pub multicapture: Option<bool>,
}

impl<'a> OperationResult<'a> {
    /// Of an operation that is no hold.
    pub fn of(state: &'a OperationState, provider_ref: Option<&'a str>) -> Self {
        Self { state, provider_ref, amount: None, capture_before: None, multicapture: None }
    }
}

struct Row {
    state: String,
    amount: i64,
    provider_ref: Option<String>,
    code: Option<String>,
    age_hours: f64,
    begun_at: jiff_sqlx::Timestamp,
    generation: i32,
    capture_before: Option<jiff_sqlx::Timestamp>,
    multicapture: Option<bool>,
    is_released: bool,
}

impl TryFrom<Row> for PaymentOperation {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            state: OperationState::of(&row.state, row.code),
            amount: parse("an amount", Amount::new(row.amount))?,
            provider_ref: row.provider_ref,
            age_hours: row.age_hours,
            begun_at: row.begun_at.to_jiff(),
            generation: row.generation.unsigned_abs(),
            capture_before: row.capture_before.map(|at| at.to_jiff()),
            multicapture: row.multicapture,
            is_released: row.is_released,
        })
    }
}

/// What the ledger has of an operation.
///
/// # Errors
/// When Postgres fails.
pub async fn find_operation(
    pool: &PgPool,
    order: OrderId,
    kind: OperationKind,
) -> Result<Option<PaymentOperation>> {
    let row = sqlx::query_as!(
        Row,
        r#"select state, amount, provider_ref, code, generation, multicapture, created_at as "begun_at: _",
             capture_before as "capture_before: _", (extract(epoch from now() - created_at) / 3600)::float8 as "age_hours!",
             exists (select from payment_operations rest where rest.state = 'succeeded'
               and rest.key = concat('order:', p.order_id, ':void:', p.generation)) as "is_released!"
           from payment_operations p where key = $1"#,
        kind.key(order)
    )
    .fetch_optional(pool)
    .await?;
    row.map(PaymentOperation::try_from).transpose()
}

/// Every hold that was ever asked for an order, the first one first.
///
/// # Errors
/// When Postgres fails.
pub async fn find_authorizations(pool: &PgPool, order: OrderId) -> Result<Vec<PaymentOperation>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select state, amount, provider_ref, code, generation, multicapture, created_at as "begun_at: _",
             capture_before as "capture_before: _", (extract(epoch from now() - created_at) / 3600)::float8 as "age_hours!",
             exists (select from payment_operations rest where rest.state = 'succeeded'
               and rest.key = concat('order:', p.order_id, ':void:', p.generation)) as "is_released!"
           from payment_operations p where order_id = $1 and kind = 'authorize' order by generation"#,
        order.0
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(PaymentOperation::try_from).collect()
}

/// Writes down how an operation ended, and gives it as it stands then: the first ending stays.
///
/// # Errors
/// When Postgres fails, or the operation was never begun.
pub async fn finish_operation(
    pool: &PgPool,
    order: OrderId,
    kind: OperationKind,
    result: OperationResult<'_>,
) -> Result<PaymentOperation> {
    use jiff_sqlx::ToSqlx;
    let (name, code) = match result.state {
        OperationState::Pending => ("pending", None),
        OperationState::Succeeded => ("succeeded", None),
        OperationState::Declined(code) => ("declined", Some(code.as_str())),
    };
    let row = sqlx::query_as!(
        Row,
        r#"update payment_operations p set state = $2, code = $3, provider_ref = coalesce($4, provider_ref),
             capture_before = coalesce($5, capture_before), multicapture = coalesce($6, multicapture),
             amount = coalesce($7, amount), updated_at = now()
           where key = $1 and state = 'pending'
           returning state, amount, provider_ref, code, generation, multicapture, created_at as "begun_at: _",
             capture_before as "capture_before: _", (extract(epoch from now() - created_at) / 3600)::float8 as "age_hours!",
             exists (select from payment_operations rest where rest.state = 'succeeded'
               and rest.key = concat('order:', p.order_id, ':void:', p.generation)) as "is_released!""#,
        kind.key(order),
        name,
        code,
        result.provider_ref,
        result.capture_before.map(|at| at.to_sqlx()) as _,
        result.multicapture,
        result.amount.map(Amount::minor)
    )
    .fetch_optional(pool)
    .await?;
    match row {
        Some(row) => row.try_into(),
        None => find_operation(pool, order, kind).await?.ok_or_else(|| sqlx::Error::RowNotFound.into()),
    }
}

/// Ends the unfinished void of one payment's hold, if there is one: the payment holds nothing any more.
///
/// # Errors
/// When Postgres fails.
pub async fn finish_release(pool: &PgPool, order: OrderId, provider_ref: &str) -> Result<()> {
    sqlx::query!(
        "update payment_operations set state = 'succeeded', updated_at = now()
         where order_id = $1 and provider_ref = $2 and kind = 'void' and state = 'pending'",
        order.0,
        provider_ref
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Ends the unfinished voids of single holds: their order's void has voided all of them, and counts the amount.
///
/// # Errors
/// When Postgres fails.
pub async fn finish_pending_voids(pool: &PgPool, order: OrderId) -> Result<()> {
    sqlx::query!(
        "update payment_operations set state = 'succeeded', amount = 0, updated_at = now()
         where order_id = $1 and kind = 'void' and state = 'pending' and key <> $2",
        order.0,
        OperationKind::Void.key(order)
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Writes down that the customer has to do something before an operation can go on, and where.
///
/// # Errors
/// When Postgres fails.
pub async fn record_next_action(
    pool: &PgPool,
    order: OrderId,
    kind: OperationKind,
    provider_ref: &str,
    url: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "update payment_operations set provider_ref = $2, next_action = $3, updated_at = now()
         where key = $1 and state = 'pending'",
        kind.key(order),
        provider_ref,
        url
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What the customer has to do for an order's authorization: a URL.
///
/// # Errors
/// When Postgres fails.
pub async fn next_action(pool: &PgPool, order: OrderId) -> Result<Option<String>> {
    let row = sqlx::query_scalar!(
        "select next_action from payment_operations where key = $1 and state = 'pending'",
        OperationKind::Authorize(1).key(order)
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.flatten())
}

/// What the ledger says was captured of one of an order's payments.
///
/// # Errors
/// When Postgres fails.
pub async fn captured_amount(pool: &PgPool, order: OrderId, provider_ref: &str) -> Result<Amount> {
    let sum = sqlx::query_scalar!(
        r#"select coalesce(sum(amount), 0)::bigint as "sum!" from payment_operations
           where order_id = $1 and provider_ref = $2 and kind = 'capture' and state = 'succeeded'"#,
        order.0,
        provider_ref
    )
    .fetch_one(pool)
    .await?;
    parse("an amount", Amount::new(sum))
}

/// The order whose payment has this id at the provider.
///
/// # Errors
/// When Postgres fails.
pub async fn find_order_by_payment(pool: &PgPool, provider_ref: &str) -> Result<Option<OrderId>> {
    let id = sqlx::query_scalar!(
        "select order_id from payment_operations where kind = 'authorize' and provider_ref = $1 limit 1",
        provider_ref
    )
    .fetch_optional(pool)
    .await?;
    Ok(id.map(OrderId))
}
