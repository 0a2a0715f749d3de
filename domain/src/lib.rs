//! The domain model: orders, payments, stock and shipments. Everything here is pure (no Temporal, SQL or HTTP, no clock
//! and no randomness), so that every process computes the same result.

pub mod allocation;
pub mod attention;
pub mod cancellation;
pub mod country;
pub mod event;
pub mod ids;
pub mod lines;
pub mod money;
pub mod operator;
pub mod order;
pub mod provider_currency;
pub mod refund;
pub mod refundable;
pub mod returns;
pub mod risk;
pub mod shortfall;
pub mod state;
pub mod status;

pub use iso_currency::Currency;
