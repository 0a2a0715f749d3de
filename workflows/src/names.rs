//! Names that Temporal stores. They are pinned, because open workflows and operators' scripts use them.

use temporalio_common_wasm::search_attributes::SearchAttributeKey;

/// Workflow type of an order.
pub const ORDER_WORKFLOW: &str = "OrderWorkflow";
/// Workflow type of a refund.
pub const REFUND_WORKFLOW: &str = "RefundWorkflow";
/// Workflow type of a return.
pub const RETURN_WORKFLOW: &str = "ReturnWorkflow";

/// Schedule and workflow id of the sweeper, without the prefix of the task queues.
pub const SWEEP: &str = "waybill-sweep";
/// Schedule and workflow id of the reconciliation, without the prefix of the task queues.
pub const RECONCILE: &str = "waybill-reconcile";

/// Task queue of workflows and of steps that need only Postgres.
pub const QUEUE_ORDERS: &str = "orders";
/// Task queue of steps that call the payment provider.
pub const QUEUE_PAYMENTS: &str = "payments";
/// Task queue of steps that call the carrier.
pub const QUEUE_SHIPPING: &str = "shipping";

/// The order's status for searches: set at the start, while the order waits for a reviewer or the customer, and at the
/// end. The read model in Postgres has every change.
pub const STATUS: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillStatus");
/// The merchant's reference for the customer.
pub const CUSTOMER: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillCustomer");
/// The merchant's id.
pub const MERCHANT: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillMerchant");
/// The reason that requires operator attention. Absent while no attention was ever raised, [`ATTENTION_NONE`] once it
/// is cleared.
pub const ATTENTION: SearchAttributeKey<String> = SearchAttributeKey::keyword("WaybillAttention");
/// Value of [`ATTENTION`] after the attention is cleared. The attribute is not unset, because the server rejects the
/// SDK's (1.1.1) empty value together with the whole workflow task.
pub const ATTENTION_NONE: &str = "none";
/// All search attributes. A namespace must define them before the first order.
pub const SEARCH_ATTRIBUTES: [&str; 4] =
    ["WaybillStatus", "WaybillCustomer", "WaybillMerchant", "WaybillAttention"];

/// Signal that starts the check of one payment.
pub const SIGNAL_PAYMENT_CHECK: &str = "payment_check";
/// Signal that retries a refund's step. Its payload is an [`OperatorCommand`](crate::payloads::OperatorCommand) for the
/// refund.
pub const RETRY_REFUND: &str = "retry_refund";
/// Signal that retries a return's step.
pub const RETRY_RETURN: &str = "retry_return";
/// Kind of an internal [`PaymentEvent`](crate::payloads::PaymentEvent): the provider was queried, and the order's
/// authorization is gone.
pub const EVENT_AUTHORIZATION_GONE: &str = "waybill.hold_gone";

/// Error type of a failure whose operation may have been performed at the provider.
pub const ERROR_UNKNOWN_OUTCOME: &str = "UnknownOutcome";
/// Error type of a failure before any operation was performed.
pub const ERROR_UNAVAILABLE: &str = "Unavailable";
/// Message of a rejected capture whose authorization has expired without a capture.
pub const CODE_AUTHORIZATION_LAPSED: &str = "authorization_lapsed";
/// Prefix of an authorization's code when the payment provider rejected the request as invalid. The provider's code
/// follows. No bank received the request.
pub const CODE_PREFIX_INVALID_REQUEST: &str = "invalid_request:";
/// The code of a step that an operator skipped.
pub const CODE_SKIPPED: &str = "skipped_by_operator";
/// Error type of a step that fails permanently; Temporal does not retry it.
pub const ERROR_PERMANENT: &str = "Refused";
