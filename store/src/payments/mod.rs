//! The payment ledger: each operation at the payment provider, recorded before the call and completed after it.
//! Table: `payment_operations`.
//! Module `refunds` writes the operations of refunds, and `orders` those that an operator completes.

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

/// The kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// Authorize the payment: the order's first authorization (1), or a later one.
    Authorize(u32),
    /// Capture it for one shipment.
    Capture(ShipmentId),
    /// Void every authorization, because the order is compensated: afterwards nothing is authorized for it.
    Void,
    /// Void the remainder of one authorization; the order continues.
    VoidRemainder(u32),
    /// Refund a capture. Written in [`crate::refunds`], with the refund.
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

    /// The operation's key, in the ledger and at the provider. It consists of order, shipment and operation, never of
    /// attempt or time, so that the provider processes a retry only once.
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

    /// The shipment that it is for, if any.
    fn shipment(self) -> Option<ShipmentId> {
        match self {
            Self::Capture(shipment) => Some(shipment),
            Self::Authorize(_) | Self::Void | Self::VoidRemainder(_) | Self::Refund(_) => None,
        }
    }

    /// The number of the order's authorization that it is for, if any.
    fn authorization_number(self) -> i32 {
        match self {
            Self::Authorize(hold) | Self::VoidRemainder(hold) => hold.cast_signed(),
            Self::Capture(_) | Self::Void | Self::Refund(_) => 1,
        }
    }
}

/// The state of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationState {
    /// Requested, or about to be; the outcome is not known here.
    Pending,
    /// Succeeded.
    Succeeded,
    /// The provider declined it, with this code.
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

/// An operation as recorded in the ledger.
#[derive(Debug, Clone)]
pub struct PaymentOperation {
    /// Its state.
    pub state: OperationState,
    /// In minor units.
    pub amount: Amount,
    /// The provider's id of the payment.
    pub provider_ref: Option<String>,
    /// The time since it was recorded, in hours.
    pub age_hours: f64,
    /// When it was recorded.
    pub begun_at: Timestamp,
    /// For an authorization: its number within the order, from 1.
    pub generation: u32,
    /// For an authorization: when it expires, if the provider reported that.
    pub capture_before: Option<Timestamp>,
    /// For an authorization: whether it supports multicapture. Unknown for authorizations of earlier releases.
    pub multicapture: Option<bool>,
    /// For an authorization: whether it is no longer active although the order continues: it expired, ended with a
    /// capture, or was voided for a later one.
    pub is_released: bool,
}

/// The outcome of an operation, with the data that the provider returned.
#[derive(Debug, Clone, Copy)]
pub struct OperationResult<'a> {
    /// Not pending.
    pub state: &'a OperationState,
    /// The provider's id of the payment.
    pub provider_ref: Option<&'a str>,
    /// The amount, if it was not known at the beginning.
    pub amount: Option<Amount>,
    /// For an authorization: when it expires.
    pub capture_before: Option<Timestamp>,
    /// For an authorization: whether it supports multicapture.
    pub multicapture: Option<bool>,
}

impl<'a> OperationResult<'a> {
    /// The result of an operation that is not an authorization.
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
            amount: parse("amount", Amount::new(row.amount))?,
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

/// Finds an operation in the ledger.
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

/// Every authorization that was ever requested for an order, the first one first.
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

/// Records the outcome of an operation, and returns the operation: the first outcome stays.
///
/// # Errors
/// When Postgres fails, or the operation was never recorded.
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

/// Completes the pending void of one payment's authorization, if there is one: the payment is no longer authorized.
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

/// Completes the pending voids of single authorizations: their order's void has voided all of them, and records the
/// amount.
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

/// Records that the customer must act before an operation can continue, and the URL.
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

/// The URL where the customer must act for an order's authorization.
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

/// The amount that was captured of one of an order's payments, according to the ledger.
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
    parse("amount", Amount::new(sum))
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
