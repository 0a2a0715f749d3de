//! Attention items: why an order requires an operator. `operator.rs` has the actions that are safe for each reason.

use crate::status::string_enum;
use serde::{Deserialize, Serialize};

string_enum!(
    /// Why an order requires operator attention.
    AttentionReason "attention reason" {
        /// The outcome of a payment operation stays unknown.
        PaymentUnknown = "payment_unknown",
        /// The capture for a shipment that has left keeps failing.
        CaptureFailing = "capture_failing",
        /// A compensation keeps failing; the workflow retries it indefinitely.
        UndoFailing = "undo_failing",
        /// A step of the forward path keeps failing; the workflow retries it indefinitely.
        StepFailing = "step_failing",
        /// The carrier handed over, lost or returned a cancelled shipment.
        UnexpectedShipment = "unexpected_shipment",
        /// The carrier lost a shipment that was paid for.
        ShipmentLost = "shipment_lost",
        /// The authorization has expired, or expires soon, and re-authorization failed.
        AuthorizationLapsed = "authorization_lapsed",
        /// A refund keeps failing; the workflow retries it indefinitely.
        RefundFailing = "refund_failing",
        /// The provider reports that a refund failed permanently: the customer does not have the money.
        RefundFailed = "refund_failed",
        /// A step of a return keeps failing; the workflow retries it indefinitely.
        ReturnFailing = "return_failing",
        /// The items of a return were not received in time.
        ReturnOverdue = "return_overdue",
        /// The customer disputes the charge with their bank; there is a deadline for the response.
        Disputed = "disputed",
        /// Waybill's ledger and the provider, or stock and its reservations, disagree.
        Drift = "drift",
        /// A stock count found fewer items than are reserved: the order's shipment can't be served in full.
        StockShortfall = "stock_shortfall",
    }
);

/// One attention item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionItem {
    /// The reason.
    pub reason: AttentionReason,
    /// The step that keeps failing, or the source of the item.
    pub step: String,
    /// The subject: the shipment, the provider's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "about")]
    pub subject: Option<String>,
}

/// Removes the attention items with this reason and subject or, without a subject, all with this reason. Returns
/// whether there were any.
pub fn clear_attention_item(
    needs: &mut Vec<AttentionItem>,
    reason: AttentionReason,
    about: Option<&str>,
) -> bool {
    let before = needs.len();
    needs.retain(|n| n.reason != reason || (about.is_some() && n.subject.as_deref() != about));
    needs.len() < before
}
