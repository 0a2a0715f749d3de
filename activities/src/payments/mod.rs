//! The payment provider: what Waybill asks of one, and Stripe's way of doing it. Amounts are minor units of ISO 4217: a
//! client converts them to its provider's units, and back.

pub mod stripe;

use async_trait::async_trait;
use jiff::Timestamp;
use waybill_domain::{
    Currency,
    ids::{OrderId, RefundId},
    money::Amount,
    provider_units::NotChargeable,
    refund::RefundState,
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
    /// The money is not held any more, and was not taken.
    #[error("the authorization has lapsed")]
    Lapsed,
    /// The customer's bank or the provider said no.
    #[error("declined: {code}")]
    Declined {
        /// The provider's code.
        code: String,
    },
    /// The request can never work.
    #[error("refused: {code}")]
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
pub struct ProviderAuthorization {
    /// The provider's id of the payment.
    pub provider_ref: String,
    /// When the hold lapses, if the provider says so.
    pub capture_before: Option<Timestamp>,
    /// Whether it can be captured in parts, if the provider says so.
    pub in_parts: Option<bool>,
}

/// What a payment is at the provider.
#[derive(Debug, Clone)]
pub enum AuthorizationOutcome {
    /// The money is held, or was and has been taken.
    Authorized(ProviderAuthorization),
    /// The customer has to do something first.
    ActionRequired {
        /// The provider's id of the payment.
        provider_ref: String,
        /// Where they do it, if the provider says so.
        url: Option<String>,
    },
    /// The customer's bank declined: nothing is held, and nothing will be.
    Declined {
        /// The provider's code.
        code: String,
    },
    /// The provider rejected the request, so no bank was asked: nothing is held, and nothing will be.
    Rejected {
        /// The provider's code, such as `amount_too_large`.
        code: String,
    },
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
    /// Of the amounts.
    pub currency: Currency,
    /// What our ledger says was taken of this payment before, without this.
    pub previously_captured: Amount,
    /// Whether the rest is given free.
    pub is_final: bool,
}

/// A payment as the provider's ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPayment {
    /// The provider's id of the payment.
    pub provider_ref: String,
    /// Our reference, where it has one that is ours.
    pub order_id: Option<OrderId>,
    /// Held and not taken, in minor units.
    pub capturable: i64,
    /// Taken, in minor units.
    pub captured: i64,
    /// Given back of it, in minor units; where the provider lists many at once it does not say.
    pub refunded: Option<i64>,
}

/// A page of them, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentPage {
    /// At most a hundred.
    pub payments: Vec<ProviderPayment>,
    /// Whether there are older ones.
    pub has_more: bool,
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
    /// Of the amount.
    pub currency: Currency,
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

/// A refund in the provider's list, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderListedRefund {
    /// As the provider has it.
    pub refund: ProviderRefund,
    /// The provider's id of the payment.
    pub payment: String,
    /// How much.
    pub amount: Amount,
    /// Our id of it, if it carries one.
    pub refund_id: Option<RefundId>,
}

/// A page of them, the latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundPage {
    /// At most a hundred. Entries that say that an authorization was released, and no money moved, are left out.
    pub refunds: Vec<ProviderListedRefund>,
    /// The provider's id of the last entry, left out or not: the next page is behind it.
    pub last_id: Option<String>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// A provider that can hold money and take it in parts.
#[async_trait]
pub trait PaymentProvider: Send + Sync {
    /// Holds money, once per key. A bank that declines is [`Hold::Declined`], a request that the provider rejects is
    /// [`Hold::Rejected`].
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<AuthorizationOutcome, ProviderError>;

    /// What became of a payment.
    async fn get_authorization(&self, provider_ref: &str) -> Result<AuthorizationOutcome, ProviderError>;

    /// Finds what an authorization came to by our own references. That nothing is found proves nothing: providers show
    /// new payments late.
    async fn search_authorization(
        &self,
        order: OrderId,
        key: &str,
    ) -> Result<Option<AuthorizationOutcome>, ProviderError>;

    /// Takes money. That it was taken before is success. An answer that is lost is looked up at once: the payment itself
    /// tells what was taken of it. Returns what the payment still holds, in minor units: also after a final capture, if the
    /// money had been taken by an earlier request that was not final.
    async fn capture(&self, request: &CaptureRequest) -> Result<i64, ProviderError>;

    /// Gives free what is held and not taken. That there is nothing to give free is success, and a lost answer is looked
    /// up, as in [`capture`](Self::capture).
    async fn void(&self, key: &str, provider_ref: &str) -> Result<(), ProviderError>;

    /// A payment as the provider's ledger has it.
    async fn get_payment(&self, provider_ref: &str) -> Result<ProviderPayment, ProviderError>;

    /// Payments that were begun since, the latest first: a page, behind the payment `after`.
    async fn list_payments_since(
        &self,
        since: Timestamp,
        after: Option<&str>,
    ) -> Result<PaymentPage, ProviderError>;

    /// Gives money back. That it was given back before under this refund's id is success, and a lost answer is looked up
    /// under it.
    async fn refund(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError>;

    /// The refund that was made for our id, if the provider has one: for when it may have forgotten the key.
    async fn find_refund(
        &self,
        payment: &str,
        refund: RefundId,
    ) -> Result<Option<ProviderRefund>, ProviderError>;

    /// Every refund of a payment, whoever made it.
    async fn list_refunds_of(&self, payment: &str) -> Result<Vec<ProviderListedRefund>, ProviderError>;

    /// Refunds that were made since, the latest first: a page, behind the refund `after`.
    async fn list_refunds_since(
        &self,
        since: Timestamp,
        after: Option<&str>,
    ) -> Result<RefundPage, ProviderError>;

    /// How a refund stands, by the provider's id of it.
    async fn get_refund(&self, provider_ref: &str) -> Result<ProviderRefund, ProviderError>;
}
