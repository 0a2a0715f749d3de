//! Idempotency keys of HTTP requests: the first response is stored and replayed. They are stored for as long as the
//! orders are, so they outlive the workflow's retention.

use crate::Result;
use jiff::Timestamp;
use sqlx::PgPool;
use uuid::Uuid;
use waybill_domain::ids::{MerchantId, OrderId};

/// A request without a response after this many seconds counts as failed, and its key may be claimed again: longer than
/// the timeout of any handler.
const IN_PROGRESS_SECONDS_MAX: f64 = 120.0;

/// The key of a request.
#[derive(Debug, Clone)]
pub struct RequestKey {
    /// Keys of different merchants are independent.
    pub merchant_id: MerchantId,
    /// Keys of different routes are independent.
    pub route: &'static str,
    /// The client's `Idempotency-Key`.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
}

/// The status of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyStatus {
    /// The key is new: the caller must process the request.
    New,
    /// The first request is still being processed.
    InProgress,
    /// It was used with another body.
    BodyMismatch,
    /// The first request has a response.
    Completed {
        /// HTTP status.
        status: u16,
        /// The body, as sent.
        body: String,
    },
    /// It placed an order and the client received the response for an accepted order, whose other fields follow from
    /// the request.
    OrderPlaced {
        /// The order.
        id: OrderId,
        /// When it was accepted.
        at: Timestamp,
        /// Whether this response is final, because the client did not wait for the outcome.
        is_final: bool,
    },
}

/// A key's row and, if it placed an order, when that was accepted.
pub(crate) struct Row {
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) response_status: Option<i16>,
    pub(crate) response_body: Option<String>,
    pub(crate) order_id: Option<Uuid>,
    pub(crate) accepted_at: Option<jiff_sqlx::Timestamp>,
}

impl KeyStatus {
    /// The status of a key's row for a request.
    pub(crate) fn from_row(request: &RequestKey, row: Row) -> Self {
        if row.fingerprint != request.fingerprint {
            return Self::BodyMismatch;
        }
        match (row.response_status, row.response_body, row.order_id.zip(row.accepted_at)) {
            (Some(status), Some(body), _) => Self::Completed { status: status.unsigned_abs(), body },
            (status, None, Some((id, at))) => {
                Self::OrderPlaced { id: OrderId(id), at: at.to_jiff(), is_final: status.is_some() }
            }
            _ => Self::InProgress,
        }
    }
}

/// A claimed key: the caller must process the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whether this request claimed it before: the outcome of the first attempt is unknown, and it may have succeeded.
    pub is_reclaimed: bool,
}

/// Claims a key, or returns its status.
///
/// # Errors
/// When Postgres fails.
pub async fn claim(pool: &PgPool, request: &RequestKey) -> Result<std::result::Result<Claim, KeyStatus>> {
    // An inserted row has no `xmax`, an updated one has this transaction's id.
    let claim = sqlx::query_as!(
        Claim,
        r#"insert into idempotency_keys (merchant_id, route, key, fingerprint) values ($1, $2, $3, $4)
         on conflict (merchant_id, route, key) do update set created_at = now()
         where idempotency_keys.response_status is null and idempotency_keys.fingerprint = excluded.fingerprint
           and idempotency_keys.created_at < now() - make_interval(secs => $5)
         returning xmax <> '0' as "is_reclaimed!""#,
        request.merchant_id.0,
        request.route,
        request.key,
        &request.fingerprint[..],
        IN_PROGRESS_SECONDS_MAX
    )
    .fetch_optional(pool)
    .await?;
    Ok(match claim {
        Some(claim) => Ok(claim),
        None => Err(find(pool, request).await?),
    })
}

/// Returns the status of a key without claiming it.
///
/// # Errors
/// When Postgres fails.
pub async fn find(pool: &PgPool, request: &RequestKey) -> Result<KeyStatus> {
    let row = sqlx::query_as!(
        Row,
        r#"select fingerprint, response_status, response_body, order_id, o.created_at as "accepted_at?: _"
           from idempotency_keys k left join orders o on o.id = k.order_id
           where k.merchant_id = $1 and k.route = $2 and k.key = $3"#,
        request.merchant_id.0,
        request.route,
        request.key
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map_or(KeyStatus::New, |row| KeyStatus::from_row(request, row)))
}

/// Stores the response to a claimed request. The first response stays: a claim that expired and was claimed again may
/// get two responses.
///
/// # Errors
/// When Postgres fails.
pub async fn store_response(pool: &PgPool, request: &RequestKey, status: u16, body: &str) -> Result<()> {
    sqlx::query!(
        "update idempotency_keys set response_status = $4, response_body = $5
         where merchant_id = $1 and route = $2 and key = $3 and response_status is null",
        request.merchant_id.0,
        request.route,
        request.key,
        i16::try_from(status).unwrap_or(i16::MAX),
        body
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Expires a claim, so that only a retry of the same request can claim the key again: the outcome of this one is
/// unknown.
///
/// # Errors
/// When Postgres fails.
pub async fn expire_claim(pool: &PgPool, request: &RequestKey) -> Result<()> {
    sqlx::query!(
        "update idempotency_keys set created_at = 'epoch'
         where merchant_id = $1 and route = $2 and key = $3 and response_status is null",
        request.merchant_id.0,
        request.route,
        request.key
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes a claimed key: its request was rejected, and nothing was done.
///
/// # Errors
/// When Postgres fails.
pub async fn delete_claim(pool: &PgPool, request: &RequestKey) -> Result<()> {
    sqlx::query!(
        "delete from idempotency_keys
         where merchant_id = $1 and route = $2 and key = $3 and response_status is null",
        request.merchant_id.0,
        request.route,
        request.key
    )
    .execute(pool)
    .await?;
    Ok(())
}
