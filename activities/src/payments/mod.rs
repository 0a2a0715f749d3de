//! The payment provider: what Waybill asks of one, and Stripe's way of doing it.

pub mod stripe;

use async_trait::async_trait;
use jiff::Timestamp;
use waybill_domain::{
    Currency,
    after::RefundState,
    ids::{OrderId, RefundId},
    money::Amount,
};

/// Why a call to the provider did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Nothing was done; it may work later.
    #[error("the payment provider is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It may have been done. Not a decline.
    #[error("the payment provider's answer is not known")]
    UnknownOutcome(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The customer's bank or the provider said no.
    #[error("declined: {code}")]
    Declined {
        /// The provider's code.
        code: String,
    },
    /// The request can never work.
    #[error("refused: {code}")]
    Refused {
        /// The provider's code.
        code: String,
    },
}

/// A request to hold money.
#[derive(Debug, Clone)]
pub struct AuthorizeRequest {
    /// Names the operation: the same key is the same money.
    pub key: String,
    /// Our reference at the provider.
    pub order_id: OrderId,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// The provider's name for the means of payment.
    pub payment_method: String,
}

/// Money that is held.
#[derive(Debug, Clone)]
pub struct Authorized {
    /// The provider's id of the payment.
    pub provider_ref: String,
    /// When the hold lapses, if the provider says so.
    pub capture_before: Option<Timestamp>,
}

/// A request to take part of what is held.
#[derive(Debug, Clone)]
pub struct CaptureRequest {
    /// Names the operation.
    pub key: String,
    /// The payment.
    pub provider_ref: String,
    /// How much.
    pub amount: Amount,
    /// What our ledger says was taken before, without this.
    pub captured_before: Amount,
    /// Whether the rest is given free.
    pub is_final: bool,
}

/// A request to give back money that was taken.
#[derive(Debug, Clone)]
pub struct RefundRequest {
    /// Names the operation.
    pub key: String,
    /// Our reference at the provider.
    pub order_id: OrderId,
    /// Our reference at the provider.
    pub refund_id: RefundId,
    /// The payment.
    pub provider_ref: String,
    /// How much.
    pub amount: Amount,
}

/// A refund as the provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRefund {
    /// The provider's id of it.
    pub provider_ref: String,
    /// `pending`, `succeeded` or `failed`.
    pub state: RefundState,
    /// Why it failed.
    pub code: Option<String>,
}

/// A provider that can hold money and take it in parts.
#[async_trait]
pub trait PaymentProvider: Send + Sync {
    /// Holds money.
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<Authorized, ProviderError>;

    /// Takes money. That it was taken before is success.
    async fn capture(&self, request: &CaptureRequest) -> Result<(), ProviderError>;

    /// Gives free what is held and not taken. That there is nothing to give free is success.
    async fn void(&self, key: &str, provider_ref: &str) -> Result<(), ProviderError>;

    /// Gives money back. That it was given back before under this refund's id is success.
    async fn refund(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError>;

    /// The refund that was made for our id, if the provider has one: for when it may have forgotten the key.
    async fn find_refund(
        &self,
        payment: &str,
        refund: RefundId,
    ) -> Result<Option<ProviderRefund>, ProviderError>;

    /// How a refund stands, by the provider's id of it.
    async fn look_up_refund(&self, provider_ref: &str) -> Result<ProviderRefund, ProviderError>;
}
