//! Idempotency keys of HTTP requests: the first answer is kept and given is_reclaimed. They are kept for as long as orders
//! are, so they outlive the workflow's retention.

use crate::Result;
use jiff::Timestamp;
use sqlx::PgPool;
use uuid::Uuid;
use waybill_domain::ids::{MerchantId, OrderId};

/// A request that has not been answered after this many seconds is given up, and its key may be used is_reclaimed: above
/// every time a handler may take.
const IN_PROGRESS_SECONDS_MAX: f64 = 120.0;

/// What names a request.
#[derive(Debug, Clone)]
pub struct RequestKey {
    /// Keys of different merchants have nothing to do with each other.
    pub merchant_id: MerchantId,
    /// Nor have keys of different routes.
    pub route: &'static str,
    /// The client's `Idempotency-Key`.
    pub key: String,
    /// SHA-256 of what was asked.
    pub fingerprint: [u8; 32],
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyStatus {
    /// Nothing was: the request is this caller's to answer.
    New,
    /// The first request is being answered.
    InProgress,
    /// It was used with another body.
    BodyMismatch,
    /// It was answered.
    Completed {
        /// HTTP status.
        status: u16,
        /// The body, as sent.
        body: String,
    },
    /// It placed an order, which was answered as it was accepted: what else the answer says is in the request.
    OrderPlaced {
        /// Which.
        id: OrderId,
        /// When it was accepted.
        at: Timestamp,
        /// Whether that is the first answer for good: the client did not wait to be told more.
        is_final: bool,
    },
}

/// A key's row, and when its order was accepted if it placed one.
pub(crate) struct Row {
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) response_status: Option<i16>,
    pub(crate) response_body: Option<String>,
    pub(crate) order_id: Option<Uuid>,
    pub(crate) accepted_at: Option<jiff_sqlx::Timestamp>,
}

impl KeyStatus {
    /// What a key's row says to a request.
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

/// A claimed key: the request is this caller's to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whether it was claimed for this request before: what became of that is not known, and it may have been done.
    pub is_reclaimed: bool,
}

/// Claims a key, or says what is known of it.
///
/// # Errors
/// When Postgres fails.
pub async fn claim(pool: &PgPool, request: &RequestKey) -> Result<std::result::Result<Claim, KeyStatus>> {
    // A row that was inserted has no `xmax`, one that was updated has this transaction's.
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

/// What is known of a key, without claiming it.
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

/// Keeps the answer to a claimed request. The first one stays: a claim that was given up and taken is_reclaimed may be answered
/// twice.
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

/// Gives a claimed key free for a repetition of its request, and for no other: what became of this one is not known.
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

/// Forgets a claimed key: its request was refused, and nothing was done.
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
