//! Answers as the caches keep them. Making and sending them is the endpoints' work: [`crate::orders`].

use axum::{body::Bytes, http::HeaderValue};
use std::time::Instant;
use waybill_domain::ids::{MerchantId, OrderId};
use waybill_store::orders::Stamp;

/// The longest idempotency key.
pub(crate) const KEY_CHARS_MAX: usize = 255;

/// What the first request got.
#[derive(Clone)]
pub(crate) struct FirstAnswer {
    pub(crate) id: OrderId,
    pub(crate) version: i64,
    pub(crate) body: Bytes,
    pub(crate) fingerprint: [u8; 32],
}

impl FirstAnswer {
    /// What it takes in memory with its key, about, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + KEY_CHARS_MAX + self.body.len()).unwrap_or(u32::MAX)
    }
}

/// An order, ready to be sent.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) merchant_id: MerchantId,
    pub(crate) version: i64,
    pub(crate) tag: HeaderValue,
    pub(crate) body: Bytes,
    /// Which writing of the order it is of, if the answer follows from that alone.
    pub(crate) stamp: Option<Stamp>,
    /// Whether the order has ended, and hardly ever changes.
    pub(crate) ended: bool,
    /// When it was known to be true.
    pub(crate) at: Instant,
}

impl Answer {
    /// What it takes in memory, about, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(size_of::<Self>() + self.tag.len() + self.body.len()).unwrap_or(u32::MAX)
    }
}
