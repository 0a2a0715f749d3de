//! What signals and updates may request: validation, deduplication, and the queues of accepted requests.

use super::{OrderWorkflow, ValidationError, step};
use crate::payloads::{CancelRequest, ShipmentEvent};
use waybill_domain::{event::OrderEvent, lines::LineSelection, status::OrderStatus};

impl OrderWorkflow {
    /// Enqueues each event once, regardless of how often the carrier sends it and by which path.
    pub(super) fn enqueue_shipment_event(&mut self, event: ShipmentEvent) {
        if self.seen_events.insert(event.event_id.clone()) {
            self.shipment_events.push_back(event);
        }
    }

    pub(super) fn accept_cancel(&mut self, request: CancelRequest, source: &str) {
        if self.cancel.is_some()
            || self.cancel_in_progress.is_some()
            || matches!(self.state.status, OrderStatus::Cancelling | OrderStatus::Cancelled)
        {
            return;
        }
        if self.is_completed(&request) {
            return;
        }
        if request.request.as_ref().is_some_and(|id| !self.accepted_requests.insert(id.clone())) {
            return;
        }
        let (lines, all) = match &request.lines {
            None => (None, true),
            Some(lines) => {
                let (updates, all) = self.not_yet_requested(lines);
                if updates.is_empty() {
                    return;
                }
                (Some(updates), all)
            }
        };
        let reason = step::messages::sanitize(&request.reason);
        let (source, request) = (source.to_owned(), request.request);
        self.append_event(OrderEvent::CancelRequested {
            reason: reason.clone(),
            source: source.clone(),
            lines: lines.as_ref().map(LineSelection::lines),
            pieces: lines.as_ref().map(LineSelection::quantities).unwrap_or_default(),
            request: request.clone(),
        });
        if all {
            self.cancel = Some(CancelRequest { reason, source, lines: None, request });
        } else {
            let lines = lines.map(|lines| lines.parts());
            self.line_requests.push_back(CancelRequest { reason, source, lines, request });
        }
    }

    /// Rejects decisions on an order that is being compensated, even while its status does not show it yet. Only
    /// updates are rejected: the histories of open orders contain the results of signals.
    pub(super) fn ensure_not_stopping(&self) -> Result<(), ValidationError> {
        if self.is_compensating || self.cancel.is_some() {
            Err("the order is already ending".into())
        } else {
            Ok(())
        }
    }

    pub(super) fn validate_decision(&self) -> Result<(), ValidationError> {
        self.ensure_not_stopping().and_then(|()| self.ensure_awaits_decision())
    }

    pub(super) fn validate_amendment(&self) -> Result<(), ValidationError> {
        self.ensure_not_stopping().and_then(|()| self.ensure_awaits_amendment())
    }

    pub(super) fn ensure_awaits_decision(&self) -> Result<(), ValidationError> {
        match (self.state.status, &self.decision) {
            (OrderStatus::InReview, None) => Ok(()),
            (OrderStatus::InReview, Some(_)) => Err("the order has already been decided".into()),
            (status, _) => Err(format!("the order is {status}, not in_review").into()),
        }
    }

    pub(super) fn ensure_awaits_amendment(&self) -> Result<(), ValidationError> {
        match (self.state.status, &self.amendment) {
            (OrderStatus::AwaitingCustomer, None) => Ok(()),
            (OrderStatus::AwaitingCustomer, Some(_)) => Err("the customer has already answered".into()),
            (status, _) => Err(format!("the order is {status}, not awaiting_customer").into()),
        }
    }
}
