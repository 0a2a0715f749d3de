//! Answers as the caches keep them. Making and sending them is the endpoints' work: [`crate::orders`].

use axum::{body::Bytes, http::HeaderValue};
use std::time::Instant;
use waybill_domain::ids::{MerchantId, OrderId};
use waybill_store::orders::RowVersion;

/// The longest idempotency key.
pub(crate) const KEY_CHARS_MAX: usize = 255;

/// What the first request got.
#[derive(Clone)]
pub(crate) struct FirstResponse {
    pub(crate) id: OrderId,
    pub(crate) version: i64,
    pub(crate) body: Bytes,
    pub(crate) fingerprint: [u8; 32],
}

impl FirstResponse {
    /// What it takes in memory with its key, about, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + KEY_CHARS_MAX + self.body.len()).unwrap_or(u32::MAX)
    }
}

/// An order, ready to be sent.
#[derive(Clone)]
pub(crate) struct CachedOrder {
    pub(crate) merchant_id: MerchantId,
    pub(crate) version: i64,
    pub(crate) etag: HeaderValue,
    pub(crate) body: Bytes,
    /// Which writing of the order it is of, if the answer follows from that alone.
    pub(crate) row_version: Option<RowVersion>,
    /// Whether the order has ended, and hardly ever changes.
    pub(crate) is_terminal: bool,
    /// When it was known to be true.
    pub(crate) validated_at: Instant,
}

impl CachedOrder {
    /// What it takes in memory, about, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + self.etag.len() + self.body.len()).unwrap_or(u32::MAX)
    }
}
