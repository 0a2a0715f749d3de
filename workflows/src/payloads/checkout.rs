//! Payloads of the checkout steps: reserve, screen, authorize.

use serde::{Deserialize, Serialize};
use waybill_domain::{
    allocation::Allocation,
    ids::OrderId,
    money::Amount,
    order::{OrderLine, ShortagePolicy},
    risk::RiskDecision,
};

/// Output of `reserve`: the order's data that the workflow needs, and the reserved stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The ordered lines.
    pub lines: Vec<OrderLine>,
    /// How to handle a shortage.
    pub shortage_policy: ShortagePolicy,
    /// The reserved stock. Empty when the policy is `reject` and there is a shortage.
    pub allocation: Allocation,
    /// How long the customer may take to respond, in seconds.
    pub customer_wait_seconds: u64,
    /// As in [`OrderStepInput`](super::OrderStepInput).
    #[serde(default)]
    pub edition: u32,
}

/// Output of `screen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Screening {
    /// The decision and its reasons.
    pub decision: RiskDecision,
    /// How long a review may take, in seconds.
    pub review_wait_seconds: u64,
}

/// Input of `authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizeInput {
    /// The order.
    pub order_id: OrderId,
    /// The total that its shipments capture; for a re-authorization, the total of the remaining shipments.
    pub amount: Amount,
    /// Number of the order's authorization, from 1. Each is a separate payment: the workflow requests the next one when
    /// the previous one has expired, expires soon, or ended with a capture.
    #[serde(default = "first_generation")]
    pub generation: u32,
}

fn first_generation() -> u32 {
    1
}

/// The properties of an authorization that the workflow needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationDetails {
    /// Number of the order's authorization, from 1.
    pub generation: u32,
    /// When to re-authorize, in Unix seconds. Unknown if the provider does not report when the authorization expires.
    pub renew_at: Option<i64>,
    /// Whether it supports multiple captures. If not, it ends with its first capture.
    #[serde(rename = "in_parts")]
    pub multicapture: bool,
}

/// Output of `authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Authorization {
    /// The amount is authorized.
    Authorized {
        /// The authorized amount.
        amount: Amount,
        /// Details of the authorization. Earlier releases omit them.
        #[serde(default)]
        hold: Option<AuthorizationDetails>,
    },
    /// The bank declined, or the provider rejected the request.
    Declined {
        /// The provider's code, such as `insufficient_funds`; `invalid_request:amount_too_large` where the provider
        /// rejected the request.
        code: String,
    },
    /// The customer must act first, such as 3-D Secure.
    ActionRequired {
        /// How long the customer may take, in seconds.
        wait_seconds: u64,
    },
}
