//! Names that Temporal keeps: pinned for ever, since open workflows and people's scripts use them.

use temporalio_common_wasm::search_attributes::SearchAttributeKey;

/// Workflow type of an order.
pub const ORDER_WORKFLOW: &str = "OrderWorkflow";
/// Workflow type of a refund.
pub const REFUND_WORKFLOW: &str = "RefundWorkflow";
/// Workflow type of a return.
pub const RETURN_WORKFLOW: &str = "ReturnWorkflow";

/// Schedule, and workflow id, of the sweeper; the prefix of the task queues is put before it.
pub const SWEEP: &str = "waybill-sweep";
/// The same of the reconciliation.
pub const RECONCILE: &str = "waybill-reconcile";

/// Task queue of workflows and of steps that need Postgres alone.
pub const QUEUE_ORDERS: &str = "orders";
/// Task queue of steps that call the payment provider.
pub const QUEUE_PAYMENTS: &str = "payments";
/// Task queue of steps that call the carrier.
pub const QUEUE_SHIPPING: &str = "shipping";

/// The order's status where somebody searches for it: set at the start, then while a person is awaited and at
/// the end. The read model in Postgres has every change.
pub const STATUS: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillStatus");
/// The merchant's name for the customer.
pub const CUSTOMER: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillCustomer");
/// The merchant's id.
pub const MERCHANT: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillMerchant");
/// The reason a person is needed; [`NOBODY`] afterwards, and absent where nobody ever was.
pub const ATTENTION: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillAttention");
/// What is left of [`ATTENTION`] when nobody is needed any more. Not an unset attribute: the server refuses the SDK's
/// (1.1.1) empty value, and with it the whole workflow task.
pub const ATTENTION_NONE: &str = "none";
/// All of them: what a namespace must know before the first order.
pub const SEARCH_ATTRIBUTES: [&str; 4] =
    ["WaybillStatus", "WaybillCustomer", "WaybillMerchant", "WaybillAttention"];

/// The signal's name of a message that starts a look at one payment.
pub const SIGNAL_PAYMENT_CHECK: &str = "payment_check";
/// The signal's name of a message that has a refund's step tried again; its payload is an
/// [`Operation`](crate::wire::Operation) about the refund.
pub const RETRY_REFUND: &str = "retry_refund";
/// The same of a return's step.
pub const RETRY_RETURN: &str = "retry_return";
/// The kind of a [`PaymentEvent`](crate::wire::PaymentEvent) of ours: the provider was asked, and an order's hold is gone.
pub const EVENT_AUTHORIZATION_GONE: &str = "waybill.hold_gone";

/// Error type of a failure whose operation may have happened at the provider.
pub const ERROR_UNKNOWN_OUTCOME: &str = "UnknownOutcome";
/// Error type of a failure that happened before anything was done.
pub const ERROR_UNAVAILABLE: &str = "Unavailable";
/// Message of a refused capture whose money is not held any more, and was not taken.
pub const CODE_AUTHORIZATION_LAPSED: &str = "authorization_lapsed";
/// What the code of an authorization begins with that the payment provider rejected as an invalid request. The
/// provider's own code follows. No bank was asked.
pub const CODE_PREFIX_INVALID_REQUEST: &str = "invalid_request:";
/// The code of a step that an operator skipped.
pub const CODE_SKIPPED: &str = "skipped_by_operator";
/// Error type of a step that can't succeed however often it is tried; not retried.
pub const ERROR_PERMANENT: &str = "Refused";
