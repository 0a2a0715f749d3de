//! Records an operation in the ledger before the provider is called: one statement each, which also reads what the
//! request needs. A statement conflicts with the key of a row that was committed after it began, but cannot see that
//! row and returns none. A second attempt sees it: rows of the ledger are never deleted.

use super::{OperationKind, OperationState, PaymentOperation, Row, find_operation};
use crate::{Result, parse};
use sqlx::PgPool;
use waybill_domain::{
    Currency,
    ids::{OrderId, ShipmentId},
    money::Amount,
    order,
};

/// Records that an operation is about to be requested, with its payment if that is known, or returns the existing
/// operation. Authorizations and captures read more: see [`begin_authorization`] and [`begin_capture`].
///
/// # Errors
/// When Postgres fails.
pub async fn begin_operation(
    pool: &PgPool,
    order: OrderId,
    kind: OperationKind,
    amount: Amount,
    provider_ref: Option<&str>,
) -> Result<PaymentOperation> {
    let row = sqlx::query_as!(
        Row,
        r#"with begun as (
             insert into payment_operations (key, order_id, kind, shipment_id, amount, state, generation, provider_ref)
             values ($1, $2, $3, $4, $5, 'pending', $6, $7) on conflict (key) do nothing returning *
           )
           select state as "state!", amount as "amount!", provider_ref, code, generation as "generation!", multicapture,
             created_at as "begun_at!: _", capture_before as "capture_before: _",
             (extract(epoch from now() - created_at) / 3600)::float8 as "age_hours!",
             exists (select from payment_operations rest where rest.state = 'succeeded'
               and rest.key = concat('order:', p.order_id, ':void:', p.generation)) as "is_released!"
           from (select * from begun union all select * from payment_operations where key = $1) p"#,
        kind.key(order),
        order.0,
        kind.as_str(),
        kind.shipment().map(|shipment| shipment.0),
        amount.minor(),
        kind.authorization_number(),
        provider_ref
    )
    .fetch_optional(pool)
    .await?;
    match row {
        Some(row) => row.try_into(),
        None => find_operation(pool, order, kind).await?.ok_or_else(|| sqlx::Error::RowNotFound.into()),
    }
}

/// The order's data for an authorization request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentTerms {
    /// The currency of the amount.
    pub currency: Currency,
    /// The provider's id of the payment method.
    pub payment_method: String,
}

/// An authorization that is about to be requested.
#[derive(Debug, Clone)]
pub struct AuthorizationAttempt {
    /// The current operation in the ledger. `None` if the order has been compensated: then nothing was written.
    pub operation: Option<PaymentOperation>,
    /// Further data for the request.
    pub terms: PaymentTerms,
}

/// Records that an authorization is about to be requested, or returns the existing operation, unless the order has been
/// compensated. Returns `None` if there is no such order.
///
/// # Errors
/// When Postgres fails.
pub async fn begin_authorization(
    pool: &PgPool,
    order: OrderId,
    generation: u32,
    amount: Amount,
) -> Result<Option<AuthorizationAttempt>> {
    let attempt = match try_begin_authorization(pool, order, generation, amount).await? {
        None => try_begin_authorization(pool, order, generation, amount).await?,
        attempt => attempt,
    };
    // A compensation first records the order's void and then looks for authorizations. With this check one of the two
    // sees the other: the statement above does not see rows that were committed after it began.
    match attempt {
        Some(AuthorizationAttempt { operation: Some(_), terms })
            if find_operation(pool, order, OperationKind::Void).await?.is_some() =>
        {
            Ok(Some(AuthorizationAttempt { operation: None, terms }))
        }
        attempt => Ok(attempt),
    }
}

async fn try_begin_authorization(
    pool: &PgPool,
    order: OrderId,
    generation: u32,
    amount: Amount,
) -> Result<Option<AuthorizationAttempt>> {
    let kind = OperationKind::Authorize(generation);
    // If both the order's void and the authorization exist, the void takes precedence: the sort order puts it first.
    let row = sqlx::query!(
        r#"with known as (
             select * from payment_operations where key in ($2, $3)
           ), begun as (
             insert into payment_operations (key, order_id, kind, amount, state, generation)
             select $2, id, 'authorize', $4, 'pending', $5 from orders where id = $1 and not exists (select from known)
             on conflict (key) do nothing returning *
           )
           select o.currency, o.payment_method, p.kind = 'void' as "is_undone!",
             p.state as "state!", p.amount as "amount!", p.provider_ref, p.code, p.generation as "generation!",
             p.multicapture, p.created_at as "begun_at!: jiff_sqlx::Timestamp",
             p.capture_before as "capture_before: jiff_sqlx::Timestamp",
             (extract(epoch from now() - p.created_at) / 3600)::float8 as "age_hours!",
             exists (select from payment_operations rest where rest.state = 'succeeded'
               and rest.key = concat('order:', p.order_id, ':void:', p.generation)) as "is_released!"
           from orders o, (select * from known union all select * from begun) p
           where o.id = $1 order by p.kind desc limit 1"#,
        order.0,
        kind.key(order),
        OperationKind::Void.key(order),
        amount.minor(),
        kind.authorization_number()
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let terms = PaymentTerms {
            currency: parse("currency", order::parse_currency(&row.currency))?,
            payment_method: row.payment_method,
        };
        let operation = Row {
            state: row.state,
            amount: row.amount,
            provider_ref: row.provider_ref,
            code: row.code,
            age_hours: row.age_hours,
            begun_at: row.begun_at,
            generation: row.generation,
            capture_before: row.capture_before,
            multicapture: row.multicapture,
            is_released: row.is_released,
        };
        let operation = if row.is_undone { None } else { Some(operation.try_into()?) };
        Ok(AuthorizationAttempt { operation, terms })
    })
    .transpose()
}

/// An authorization that can be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturableAuthorization {
    /// Its number within the order, from 1.
    pub generation: u32,
    /// The authorized amount.
    pub amount: Amount,
    /// The amount captured so far.
    pub captured: Amount,
    /// The provider's id of the payment.
    pub provider_ref: String,
    /// Whether it supports multicapture, if known.
    pub in_parts: Option<bool>,
}

/// A capture that is about to be requested.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptureAttempt {
    /// Its state.
    pub state: OperationState,
    /// The amount to request: the amount that was recorded first.
    pub amount: Amount,
    /// The currency of the amount.
    pub currency: Currency,
    /// The order's latest active authorization, which is to be captured.
    pub authorization: Option<CapturableAuthorization>,
    /// Whether the order ever had an authorization.
    pub was_authorized: bool,
    /// The time since it was first recorded, in hours.
    pub age_hours: f64,
}

/// Records that a shipment's capture is about to be requested, with the authorization to capture, or returns the
/// existing operation. If its earlier authorization expired before the capture, the capture moves to the active one.
///
/// # Errors
/// When Postgres fails.
pub async fn begin_capture(
    pool: &PgPool,
    order: OrderId,
    shipment: ShipmentId,
    amount: Amount,
) -> Result<CaptureAttempt> {
    let attempt = match try_begin_capture(pool, order, shipment, amount).await? {
        None => try_begin_capture(pool, order, shipment, amount).await?,
        attempt => attempt,
    };
    attempt.ok_or_else(|| sqlx::Error::RowNotFound.into())
}

async fn try_begin_capture(
    pool: &PgPool,
    order: OrderId,
    shipment: ShipmentId,
    amount: Amount,
) -> Result<Option<CaptureAttempt>> {
    let row = sqlx::query!(
        r#"with holds as (
             select p.*, exists (select from payment_operations rest where rest.state = 'succeeded'
               and rest.key = concat('order:', p.order_id, ':void:', p.generation)) as is_released
             from payment_operations p where order_id = $1 and kind = 'authorize' and state = 'succeeded'
           ), standing as (
             select * from holds where not is_released order by generation desc limit 1
           ), begun as (
             insert into payment_operations as known (key, order_id, kind, shipment_id, amount, state, provider_ref)
             values ($2, $1, 'capture', $3, $4, 'pending', (select provider_ref from standing))
             on conflict (key) do update set provider_ref = excluded.provider_ref, updated_at = now()
             where known.state = 'pending' and known.provider_ref is distinct from excluded.provider_ref
               and excluded.provider_ref is not null
             returning known.state, known.amount, known.code, known.created_at
           ), capture as (
             select * from begun
             union all
             select state, amount, code, created_at from payment_operations
             where key = $2 and not exists (select from begun)
           )
           select c.state as "state!", c.amount as "amount!", c.code, h.generation as "generation?",
             (select currency from orders where id = $1) as "currency!",
             h.amount as "held?", h.provider_ref, h.multicapture, exists (select from holds) as "was_authorized!",
             (extract(epoch from now() - c.created_at) / 3600)::float8 as "age_hours!",
             (select coalesce(sum(taken.amount), 0)::bigint from payment_operations taken where taken.order_id = $1
               and taken.provider_ref = h.provider_ref and taken.kind = 'capture' and taken.state = 'succeeded')
               as "captured!"
           from capture c left join standing h on true"#,
        order.0,
        OperationKind::Capture(shipment).key(order),
        shipment.0,
        amount.minor()
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let authorization = match (row.generation, row.held, row.provider_ref) {
            (Some(generation), Some(held), Some(provider_ref)) => Some(CapturableAuthorization {
                generation: generation.unsigned_abs(),
                amount: parse("amount", Amount::new(held))?,
                captured: parse("amount", Amount::new(row.captured))?,
                provider_ref,
                in_parts: row.multicapture,
            }),
            _ => None,
        };
        Ok(CaptureAttempt {
            state: OperationState::of(&row.state, row.code),
            amount: parse("amount", Amount::new(row.amount))?,
            currency: parse("currency", order::parse_currency(&row.currency))?,
            authorization,
            was_authorized: row.was_authorized,
            age_hours: row.age_hours,
        })
    })
    .transpose()
}
