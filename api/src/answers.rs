//! Responses as the caches store them. The endpoints create and send them: [`crate::orders`].

use axum::{body::Bytes, http::HeaderValue};
use std::time::Instant;
use waybill_domain::ids::{MerchantId, OrderId};
use waybill_store::orders::RowVersion;

/// The longest idempotency key.
pub(crate) const KEY_CHARS_MAX: usize = 255;

/// The response to the first request with an idempotency key.
#[derive(Clone)]
pub(crate) struct FirstResponse {
    pub(crate) id: OrderId,
    pub(crate) version: i64,
    pub(crate) body: Bytes,
    pub(crate) fingerprint: [u8; 32],
}

impl FirstResponse {
    /// Returns the approximate memory use with the key, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + KEY_CHARS_MAX + self.body.len()).unwrap_or(u32::MAX)
    }
}

/// A serialized order, ready to send.
#[derive(Clone)]
pub(crate) struct CachedOrder {
    pub(crate) merchant_id: MerchantId,
    pub(crate) version: i64,
    pub(crate) etag: HeaderValue,
    pub(crate) body: Bytes,
    /// The version of the order's row, if the response depends on that row alone.
    pub(crate) row_version: Option<RowVersion>,
    /// Whether the order has ended and therefore rarely changes.
    pub(crate) is_terminal: bool,
    /// When the response was last known to be current.
    pub(crate) validated_at: Instant,
}

impl CachedOrder {
    /// Returns the approximate memory use, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + self.etag.len() + self.body.len()).unwrap_or(u32::MAX)
    }
}
