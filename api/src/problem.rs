//! Every error response, as RFC 9457 problem details: the only place where causes become status codes. A client matches
//! on `code` (and its `type`), shows `detail` to a user, and finds the invalid fields in `errors`. A 5xx never quotes
//! its cause.

use crate::request_context::REQUEST_CONTEXT;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{fmt::Display, time::Duration};
use waybill_domain::{
    cancellation::{CustomerAction, allowed_actions},
    ids::OrderId,
    money::Amount,
    refundable::RefundRejection,
    returns::InsufficientQuantity,
    status::OrderStatus,
};
use waybill_runtime::temporal::WorkflowClientError;
use waybill_store::StoreError;

/// When to retry after a 503, in seconds: a server restart takes about as long.
const RETRY_AFTER_SECONDS: u32 = 2;

/// The code for a body with a content coding that the API does not decode.
const CONTENT_ENCODING_UNSUPPORTED: &str = "content_encoding_unsupported";

/// A validation error of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FieldError {
    /// JSON pointer into the body, or the name of a header or query parameter.
    pub(crate) pointer: String,
    /// How to correct the field.
    pub(crate) detail: String,
}

/// An error response.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<OrderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_actions: Option<&'static [CustomerAction]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

impl Problem {
    /// Returns whether the error is the server's: the request may still have taken effect.
    pub(crate) fn is_server_error(&self) -> bool {
        self.status >= 500
    }

    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:waybill:problem:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retryable: false,
            order_id: None,
            allowed_actions: None,
            trace_id: None,
        }
    }

    fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Names the order that the problem is about.
    pub(crate) fn for_order(mut self, order: OrderId) -> Self {
        self.order_id = Some(order);
        self
    }

    pub(crate) fn malformed(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = FieldError { pointer: pointer.into(), detail: detail.clone() };
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request is malformed", detail)
            .with_errors(vec![error])
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match &errors[..] {
            [one] => format!("{}: {}", one.pointer, one.detail),
            several => format!("{} fields are invalid; see errors", several.len()),
        };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request is not valid", detail)
            .with_errors(errors)
    }

    pub(crate) fn unauthorized() -> Self {
        let detail = "send a valid API key: Authorization: Bearer <key>";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Missing or invalid API key", detail)
    }

    pub(crate) fn forbidden(scope: &str) -> Self {
        let detail = format!("the API key does not have the scope {scope}");
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Insufficient scope", detail)
    }

    pub(crate) fn bad_signature(detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad_signature", "The webhook's signature is not valid", detail)
    }

    pub(crate) fn not_found(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", format!("{what} not found"))
    }

    /// The problem for an id in the path that breaks the rule for such ids, so that nothing can have it.
    pub(crate) fn unreadable_id(rule: &dyn Display) -> Self {
        let detail = format!("the id in the path is invalid: {rule}");
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    pub(crate) fn route_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_route", "Not found", "no route matches this path")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let detail = "this route does not support the method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail)
    }

    pub(crate) fn body_too_large(limit_bytes: usize) -> Self {
        let detail = format!("the body must be at most {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is too large", detail)
    }

    pub(crate) fn too_slow(limit: Duration) -> Self {
        let detail = format!("the body was not received within {} seconds", limit.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "Request timeout", detail).retryable()
    }

    pub(crate) fn not_json() -> Self {
        let detail = "send Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "Unsupported media type", detail)
    }

    pub(crate) fn content_encoding() -> Self {
        let detail = "send the body without Content-Encoding";
        let error = FieldError { pointer: "Content-Encoding".into(), detail: detail.into() };
        let (status, code) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, CONTENT_ENCODING_UNSUPPORTED);
        Self::new(status, code, "Unsupported content encoding", detail).with_errors(vec![error])
    }

    pub(crate) fn key_missing() -> Self {
        let detail = "send an Idempotency-Key of 1 to 255 printable characters, new for each operation";
        let error = FieldError { pointer: "Idempotency-Key".into(), detail: detail.into() };
        Self::new(
            StatusCode::BAD_REQUEST,
            "idempotency_key_missing",
            "Missing or invalid idempotency key",
            detail,
        )
        .with_errors(vec![error])
    }

    pub(crate) fn key_reused() -> Self {
        let detail = "this Idempotency-Key was used with a different request; use a new key";
        let error = FieldError { pointer: "Idempotency-Key".into(), detail: detail.into() };
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "Idempotency key reused",
            detail,
        )
        .with_errors(vec![error])
    }

    pub(crate) fn key_in_progress() -> Self {
        let detail = "a request with this Idempotency-Key is still in progress; retry shortly";
        Self::new(StatusCode::CONFLICT, "idempotency_key_under_way", "Request in progress", detail)
            .retryable()
    }

    pub(crate) fn wrong_state(order: OrderId, status: OrderStatus, detail: impl Into<String>) -> Self {
        let mut problem =
            Self::new(StatusCode::CONFLICT, "wrong_state", "Invalid state", detail).for_order(order);
        problem.allowed_actions = Some(allowed_actions(status));
        problem
    }

    /// The problem for a rejected refund.
    pub(crate) fn refund_rejected(order: OrderId, status: OrderStatus, limit: RefundRejection) -> Self {
        match limit {
            RefundRejection::MoreThanCaptured { left, .. } => Self::more_than_captured(order, left),
            RefundRejection::ExceedsEachPayment { max_refundable: most } => {
                Self::more_than_one_payment(order, most)
            }
            RefundRejection::Disputed { max_refundable: most, disputed } => {
                Self::charge_disputed(order, status, most, disputed)
            }
        }
    }

    fn charge_disputed(order: OrderId, status: OrderStatus, most: Amount, disputed: Amount) -> Self {
        let detail = format!(
            "{disputed} minor units of the captured amount are disputed and cannot be refunded unless the dispute is won; at most {most} can be refunded now, see GET /v1/orders/{order}/disputes"
        );
        let mut problem =
            Self::new(StatusCode::CONFLICT, "charge_disputed", "The charge is disputed", detail)
                .for_order(order);
        problem.allowed_actions = Some(allowed_actions(status));
        problem
    }

    fn more_than_captured(order: OrderId, left: Amount) -> Self {
        let detail = format!("the refundable amount is {left} minor units");
        Self::new(StatusCode::CONFLICT, "more_than_captured", "Exceeds the refundable amount", detail)
            .for_order(order)
    }

    fn more_than_one_payment(order: OrderId, most: Amount) -> Self {
        let detail = format!(
            "the order has several payments; a single refund can be at most {most} minor units, create another refund for the remainder"
        );
        Self::new(StatusCode::CONFLICT, "more_than_one_payment", "More than one payment", detail)
            .for_order(order)
    }

    pub(crate) fn not_returnable(order: OrderId, too_few: InsufficientQuantity) -> Self {
        let InsufficientQuantity { line, left } = too_few;
        let detail = format!("line {line} has {left} returnable units");
        Self::new(StatusCode::CONFLICT, "not_returnable", "Not returnable", detail).for_order(order)
    }

    pub(crate) fn already_received(order: OrderId) -> Self {
        let detail = "this return has already been received; read the return for the received quantities";
        Self::new(StatusCode::CONFLICT, "already_received", "Already received", detail).for_order(order)
    }

    pub(crate) fn stock_conflict(detail: String, pointer: String) -> Self {
        let error = FieldError { pointer, detail: "would leave on_hand below the reserved quantity".into() };
        let problem = Self::new(StatusCode::CONFLICT, "stock_reserved", "Not enough stock", detail);
        Self { errors: vec![error], ..problem }
    }

    pub(crate) fn too_many_locations(limit: usize) -> Self {
        let detail = format!("a SKU can be stocked at no more than {limit} locations; use existing ones");
        Self::new(StatusCode::CONFLICT, "too_many_locations", "Too many locations", detail)
    }

    pub(crate) fn precondition_missing() -> Self {
        let detail = "send If-Match with the order's ETag so that the amendment applies to the version the customer saw";
        Self::new(StatusCode::PRECONDITION_REQUIRED, "if_match_missing", "If-Match is required", detail)
    }

    pub(crate) fn precondition_failed(order: OrderId) -> Self {
        let detail = "the order has changed since that ETag; fetch it again";
        Self::new(StatusCode::PRECONDITION_FAILED, "stale", "The order has changed", detail).for_order(order)
    }

    pub(crate) fn overloaded() -> Self {
        let detail = "too many requests in flight; retry after Retry-After seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", detail).retryable()
    }

    pub(crate) fn unavailable() -> Self {
        let detail = "a dependency is unavailable; retry after Retry-After seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available", detail).retryable()
    }

    /// The order's workflow was terminated, and the sweeper has not started its successor yet.
    pub(crate) fn awaiting_successor_run(order: OrderId) -> Self {
        let detail =
            "the order's workflow was terminated and is being restarted; retry after Retry-After seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available", detail)
            .retryable()
            .for_order(order)
    }

    pub(crate) fn internal() -> Self {
        let detail = "internal error; the log has the cause under this trace id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }
}

/// Returns the whole response to a connection above the limit. The server sends it before it reads a request, so it has
/// no trace id.
pub(crate) fn too_many_connections() -> String {
    let mut problem = Problem::overloaded();
    problem.detail = "connection limit reached; retry after Retry-After seconds".into();
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: {RETRY_AFTER_SECONDS}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let transient = error.is_transient();
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "Postgres request failed");
        if transient { Self::unavailable() } else { Self::internal() }
    }
}

impl From<WorkflowClientError> for Problem {
    fn from(error: WorkflowClientError) -> Self {
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "Temporal request failed");
        Self::unavailable()
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        self.trace_id = REQUEST_CONTEXT.try_with(|served| served.trace_id.clone()).ok();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        let kind: (HeaderName, HeaderValue) =
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (status, [kind], body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if self.code == CONTENT_ENCODING_UNSUPPORTED {
            // RFC 9110, 12.5.3: the content codings that the next request may use.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
