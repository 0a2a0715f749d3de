//! What changes an order under way: lines, or pieces of them, that are cancelled, and shipments that are short of items.

pub(crate) mod lines;
pub(crate) mod shortfall;
