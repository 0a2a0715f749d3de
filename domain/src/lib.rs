//! The order, its money and its goods: rules and types that know no Temporal, SQL or HTTP, no clock and no
//! randomness. Everything here is pure and is the same on every machine.

pub mod allocation;
pub mod cancellation;
pub mod country;
pub mod event;
pub mod ids;
pub mod lines;
pub mod money;
pub mod operator;
pub mod order;
pub mod provider_units;
pub mod refund;
pub mod refundable;
pub mod returns;
pub mod risk;
pub mod shortfall;
pub mod state;
pub mod status;

pub use iso_currency::Currency;
