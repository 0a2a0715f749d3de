//! The payment provider: the interface that Waybill requires, and its implementation for Stripe. Amounts are minor
//! units of ISO 4217: a client converts them to its provider's units, and back.

pub mod stripe;

use async_trait::async_trait;
use jiff::Timestamp;
use waybill_domain::{
    Currency,
    ids::{OrderId, RefundId},
    money::Amount,
    provider_currency::NotChargeable,
    refund::RefundState,
};

/// Why a call to the provider failed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The operation was not performed; a retry may succeed.
    #[error("the payment provider is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operation may have been performed. Not a decline.
    #[error("outcome unknown at the payment provider")]
    UnknownOutcome(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The authorization has expired without a capture.
    #[error("the authorization has expired")]
    Lapsed,
    /// The customer's bank or the provider declined.
    #[error("declined: {code}")]
    Declined {
        /// The provider's code.
        code: String,
    },
    /// A permanent failure.
    #[error("rejected: {code}")]
    Permanent {
        /// The provider's code.
        code: String,
    },
}

impl From<NotChargeable> for ProviderError {
    fn from(reason: NotChargeable) -> Self {
        Self::Permanent { code: reason.code().to_owned() }
    }
}

/// A request to authorize a payment.
#[derive(Debug, Clone)]
pub struct AuthorizeRequest {
    /// The idempotency key: the same key returns the same payment.
    pub key: String,
    /// Our order reference at the provider.
    pub order_id: OrderId,
    /// The amount to authorize.
    pub amount: Amount,
    /// The currency of the amount.
    pub currency: Currency,
    /// The provider's id of the payment method.
    pub payment_method: String,
}

/// An authorized payment.
#[derive(Debug, Clone)]
pub struct ProviderAuthorization {
    /// The provider's id of the payment.
    pub provider_ref: String,
    /// When the authorization expires, if the provider reports it.
    pub capture_before: Option<Timestamp>,
    /// Whether it supports multiple captures, if the provider reports it.
    pub in_parts: Option<bool>,
}

/// The state of an authorization at the provider.
#[derive(Debug, Clone)]
pub enum AuthorizationOutcome {
    /// The amount is authorized, or was and has been captured.
    Authorized(ProviderAuthorization),
    /// The customer must act first.
    ActionRequired {
        /// The provider's id of the payment.
        provider_ref: String,
        /// The page for the customer's action, if the provider reports it.
        url: Option<String>,
    },
    /// The customer's bank declined: nothing is authorized, and nothing will be.
    Declined {
        /// The provider's code.
        code: String,
    },
    /// The provider rejected the request without a request to a bank: nothing is authorized, and nothing will be.
    Rejected {
        /// The provider's code, such as `amount_too_large`.
        code: String,
    },
}

/// A request to capture part of an authorization.
#[derive(Debug, Clone)]
pub struct CaptureRequest {
    /// The idempotency key.
    pub key: String,
    /// The payment.
    pub provider_ref: String,
    /// The amount to capture.
    pub amount: Amount,
    /// The currency of the amounts.
    pub currency: Currency,
    /// The amount that our ledger has as captured of this payment before this request.
    pub previously_captured: Amount,
    /// Whether the provider releases the remainder.
    pub is_final: bool,
}

/// A payment in the provider's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPayment {
    /// The provider's id of the payment.
    pub provider_ref: String,
    /// Our order reference, if the payment has one.
    pub order_id: Option<OrderId>,
    /// Authorized and not captured, in minor units.
    pub capturable: i64,
    /// Captured, in minor units.
    pub captured: i64,
    /// Refunded, in minor units. None in a list, where the provider does not report it.
    pub refunded: Option<i64>,
}

/// A page of payments, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentPage {
    /// At most a hundred.
    pub payments: Vec<ProviderPayment>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// A request to refund a captured payment.
#[derive(Debug, Clone)]
pub struct RefundRequest {
    /// The idempotency key.
    pub key: String,
    /// Our order reference at the provider.
    pub order_id: OrderId,
    /// Our refund reference at the provider.
    pub refund_id: RefundId,
    /// The payment.
    pub provider_ref: String,
    /// The amount to refund.
    pub amount: Amount,
    /// The currency of the amount.
    pub currency: Currency,
}

/// A refund in the provider's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRefund {
    /// The provider's id of the refund.
    pub provider_ref: String,
    /// `pending`, `succeeded` or `failed`.
    pub state: RefundState,
    /// The failure code.
    pub code: Option<String>,
}

/// A refund in the provider's list, also one that Waybill did not create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderListedRefund {
    /// The refund in the provider's records.
    pub refund: ProviderRefund,
    /// The provider's id of the payment.
    pub payment: String,
    /// The refunded amount.
    pub amount: Amount,
    /// Our id of the refund, if it has one.
    pub refund_id: Option<RefundId>,
}

/// A page of refunds, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundPage {
    /// At most a hundred. Entries for a released authorization, without a transfer of money, are omitted.
    pub refunds: Vec<ProviderListedRefund>,
    /// The provider's id of the last entry, omitted or not: the next page starts after it.
    pub last_id: Option<String>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// A provider that supports authorizations with multiple captures.
#[async_trait]
pub trait PaymentProvider: Send + Sync {
    /// Authorizes a payment, once per key. Returns [`AuthorizationOutcome::Declined`] if the bank declines, and
    /// [`AuthorizationOutcome::Rejected`] if the provider rejects the request.
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<AuthorizationOutcome, ProviderError>;

    /// Returns the state of an authorization.
    async fn get_authorization(&self, provider_ref: &str) -> Result<AuthorizationOutcome, ProviderError>;

    /// Searches for an authorization by our own references. An empty result proves nothing: providers index new
    /// payments late.
    async fn search_authorization(
        &self,
        order: OrderId,
        key: &str,
    ) -> Result<Option<AuthorizationOutcome>, ProviderError>;

    /// Captures a payment. A repeated capture succeeds. After a lost response the client queries the payment
    /// immediately: the payment itself has the captured amount. Returns the amount that can still be captured, in minor
    /// units. It is also above zero after a final capture if an earlier request that was not final had captured the
    /// amount.
    async fn capture(&self, request: &CaptureRequest) -> Result<i64, ProviderError>;

    /// Voids the amount that is authorized and not captured. It succeeds if there is nothing to void, and queries the
    /// payment after a lost response, as in [`capture`](Self::capture).
    async fn void(&self, key: &str, provider_ref: &str) -> Result<(), ProviderError>;

    /// Returns a payment in the provider's records.
    async fn get_payment(&self, provider_ref: &str) -> Result<ProviderPayment, ProviderError>;

    /// Lists payments created since, the latest first: one page, after the payment `starting_after`.
    async fn list_payments_since(
        &self,
        since: Timestamp,
        after: Option<&str>,
    ) -> Result<PaymentPage, ProviderError>;

    /// Refunds a payment. A repeated refund with the same refund id succeeds, and after a lost response the client
    /// searches for that id.
    async fn refund(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError>;

    /// Returns the refund that was created for our id, if the provider has one, for when the provider may have pruned
    /// the key.
    async fn find_refund(
        &self,
        payment: &str,
        refund: RefundId,
    ) -> Result<Option<ProviderRefund>, ProviderError>;

    /// Lists every refund of a payment, also those that Waybill did not create.
    async fn list_refunds_of(&self, payment: &str) -> Result<Vec<ProviderListedRefund>, ProviderError>;

    /// Lists refunds created since, the latest first: one page, after the refund `starting_after`.
    async fn list_refunds_since(
        &self,
        since: Timestamp,
        after: Option<&str>,
    ) -> Result<RefundPage, ProviderError>;

    /// Returns the state of a refund, by the provider's id.
    async fn get_refund(&self, provider_ref: &str) -> Result<ProviderRefund, ProviderError>;
}
