//! Changes to an order in progress, during checkout and shipping: cancelled lines or quantities of lines, and shipments
//! with a stock shortfall.

pub(crate) mod lines;
pub(crate) mod shortfall;
