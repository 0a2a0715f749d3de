//! Stripe's error object (<https://docs.stripe.com/api/errors>), and its classification.

use crate::payments::ProviderError;
use reqwest::StatusCode;
use serde_json::Value;

/// An error that Stripe reports, from its error object.
pub(super) struct StripeError {
    status: StatusCode,
    kind: String,
    code: String,
}

impl StripeError {
    pub(super) fn parse(status: StatusCode, body: &str) -> Self {
        let error = serde_json::from_str::<Value>(body).unwrap_or_default()["error"].take();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let code = match (text("decline_code"), text("code"), text("param")) {
            (decline, ..) if !decline.is_empty() => decline,
            (_, code, _) if !code.is_empty() => code,
            // Some errors have no code, such as that of an unsupported currency.
            (_, _, param) if !param.is_empty() => format!("invalid_{param}"),
            _ => format!("http_{}", status.as_u16()),
        };
        Self { status, kind: text("type"), code }
    }

    /// Converts an error of an authorization. An `idempotency_error` means that an earlier attempt used the key with
    /// other parameters, for example before a setting changed; it does not contain the outcome of that attempt.
    pub(super) fn into_authorization_error(self) -> ProviderError {
        match self.kind.as_str() {
            "idempotency_error" => ProviderError::UnknownOutcome("key used with other parameters".into()),
            _ => self.into_error(),
        }
    }

    /// Converts an error. Only a `card_error` comes from the customer's bank; a request that Stripe itself rejects is
    /// not a decline, regardless of its status.
    pub(super) fn into_error(self) -> ProviderError {
        let declined = match self.kind.as_str() {
            "card_error" => true,
            "invalid_request_error" => false,
            _ => self.status == StatusCode::PAYMENT_REQUIRED,
        };
        if declined {
            ProviderError::Declined { code: self.code }
        } else {
            ProviderError::Permanent { code: self.code }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, error: &str) -> ProviderError {
        let body = format!(r#"{{"error": {error}}}"#);
        StripeError::parse(StatusCode::from_u16(status).unwrap(), &body).into_error()
    }

    #[test]
    fn card_error_is_a_decline() {
        let card = r#"{"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}"#;
        assert!(matches!(error(402, card), ProviderError::Declined { code } if code == "insufficient_funds"));
        assert!(matches!(error(402, "{}"), ProviderError::Declined { code } if code == "http_402"));
    }

    #[test]
    fn invalid_request_error_is_not_a_decline() {
        let kind = r#""type": "invalid_request_error""#;
        for (status, rest, expected) in [
            (400, r#""code": "amount_too_large", "param": "amount""#, "amount_too_large"),
            (402, r#""code": "amount_too_large", "param": "amount""#, "amount_too_large"),
            (400, r#""code": "resource_missing", "param": "payment_method""#, "resource_missing"),
            (400, r#""param": "currency""#, "invalid_currency"),
            (400, r#""message": "no""#, "http_400"),
        ] {
            let answer = error(status, &format!("{{{kind}, {rest}}}"));
            assert!(matches!(&answer, ProviderError::Permanent { code } if code == expected), "{answer:?}");
        }
    }
}
