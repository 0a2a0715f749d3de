//! The ledger of what was asked of the payment provider, written before and after each call.

use crate::{Result, parse};
use jiff::Timestamp;
use sqlx::PgPool;
use waybill_domain::{
    ids::{OrderId, RefundId, ShipmentId},
    money::Amount,
};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hold the money.
    Authorize,
    /// Take it, for one shipment.
    Capture(ShipmentId),
    /// Give it free.
    Void,
    /// Give back what was taken. Written in [`crate::refunds`], with the refund.
    Refund(RefundId),
}

impl Kind {
    /// The pinned name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Capture(_) => "capture",
            Self::Void => "void",
            Self::Refund(_) => "refund",
        }
    }

    /// The operation's key, here and at the provider: of order, shipment and operation, never of the attempt or the
    /// clock, so that asking twice is asking once.
    pub fn key(self, order: OrderId) -> String {
        match self {
            Self::Capture(shipment) => format!("order:{order}:capture:{shipment}"),
            Self::Refund(refund) => format!("order:{order}:refund:{refund}"),
            Self::Authorize | Self::Void => format!("order:{order}:{}", self.as_str()),
        }
    }
}

/// An operation's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Asked, or about to be; the outcome is not known here.
    Pending,
    /// Done.
    Succeeded,
    /// The provider refused, with this code.
    Declined(String),
}

/// An operation as the ledger has it.
#[derive(Debug, Clone)]
pub struct Operation {
    /// How far it is.
    pub state: State,
    /// Minor units.
    pub amount: Amount,
    /// The provider's id of the payment.
    pub provider_ref: Option<String>,
    /// How long ago it was begun, in hours.
    pub age_hours: f64,
}

/// Writes down that an operation is about to be asked for, or says what became of it before.
///
/// # Errors
/// When Postgres fails.
pub async fn begin(pool: &PgPool, order: OrderId, kind: Kind, amount: Amount) -> Result<Operation> {
    let shipment = match kind {
        Kind::Capture(id) => Some(id.0),
        Kind::Authorize | Kind::Void | Kind::Refund(_) => None,
    };
    sqlx::query!(
        "insert into payment_operations (key, order_id, kind, shipment_id, amount, state)
         values ($1, $2, $3, $4, $5, 'pending') on conflict (key) do nothing",
        kind.key(order),
        order.0,
        kind.as_str(),
        shipment,
        amount.minor()
    )
    .execute(pool)
    .await?;
    find(pool, order, kind).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
}

/// What the ledger has of an operation.
///
/// # Errors
/// When Postgres fails.
pub async fn find(pool: &PgPool, order: OrderId, kind: Kind) -> Result<Option<Operation>> {
    let row = sqlx::query!(
        r#"select state, amount, provider_ref, code,
             (extract(epoch from now() - created_at) / 3600)::float8 as "age_hours!"
           from payment_operations where key = $1"#,
        kind.key(order)
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        Ok(Operation {
            state: match row.state.as_str() {
                "succeeded" => State::Succeeded,
                "declined" => State::Declined(row.code.unwrap_or_default()),
                _ => State::Pending,
            },
            amount: parse("an amount", Amount::new(row.amount))?,
            provider_ref: row.provider_ref,
            age_hours: row.age_hours,
        })
    })
    .transpose()
}

/// Writes down how an operation ended. The first ending stays.
///
/// # Errors
/// When Postgres fails.
pub async fn finish(
    pool: &PgPool,
    order: OrderId,
    kind: Kind,
    state: &State,
    provider_ref: Option<&str>,
    capture_before: Option<Timestamp>,
) -> Result<()> {
    use jiff_sqlx::ToSqlx;
    let (name, code) = match state {
        State::Pending => ("pending", None),
        State::Succeeded => ("succeeded", None),
        State::Declined(code) => ("declined", Some(code.as_str())),
    };
    sqlx::query!(
        "update payment_operations set state = $2, code = $3, provider_ref = coalesce($4, provider_ref),
           capture_before = coalesce($5, capture_before), updated_at = now()
         where key = $1 and state = 'pending'",
        kind.key(order),
        name,
        code,
        provider_ref,
        capture_before.map(|at| at.to_sqlx()) as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Writes down that the customer has to do something before an operation can go on, and where.
///
/// # Errors
/// When Postgres fails.
pub async fn await_customer(
    pool: &PgPool,
    order: OrderId,
    kind: Kind,
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
        Kind::Authorize.key(order)
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.flatten())
}

/// What the ledger says was captured of an order.
///
/// # Errors
/// When Postgres fails.
pub async fn captured(pool: &PgPool, order: OrderId) -> Result<Amount> {
    let sum = sqlx::query_scalar!(
        r#"select coalesce(sum(amount), 0)::bigint as "sum!" from payment_operations
           where order_id = $1 and kind = 'capture' and state = 'succeeded'"#,
        order.0
    )
    .fetch_one(pool)
    .await?;
    parse("an amount", Amount::new(sum))
}

/// The order whose payment has this id at the provider.
///
/// # Errors
/// When Postgres fails.
pub async fn order_of(pool: &PgPool, provider_ref: &str) -> Result<Option<OrderId>> {
    let id = sqlx::query_scalar!(
        "select order_id from payment_operations where kind = 'authorize' and provider_ref = $1 limit 1",
        provider_ref
    )
    .fetch_optional(pool)
    .await?;
    Ok(id.map(OrderId))
}
