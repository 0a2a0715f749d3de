//! Payloads between the workflow and its activities, and of signals and updates. These types are permanent, because
//! histories of open orders contain them: add only optional fields. They contain no personal data.

mod checkout;
mod messages;
mod order;
mod shipping;

pub use checkout::*;
pub use messages::*;
pub use order::*;
pub use shipping::*;
