//! Stripe, by its public HTTP API (<https://docs.stripe.com/api>): PaymentIntents with manual capture. Several
//! shipments of one order are several captures of one authorization ("multicapture").

mod error;
mod refunds;

use super::{
    AuthorizationOutcome, AuthorizeRequest, CaptureRequest, PaymentPage, PaymentProvider,
    ProviderAuthorization, ProviderError, ProviderListedRefund, ProviderPayment, ProviderRefund, RefundPage,
    RefundRequest,
};
use crate::metrics::StepMetrics;
use async_trait::async_trait;
use error::StripeError;
use jiff::Timestamp;
use reqwest::{Client, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::time::Duration;
use url::Url;
use waybill_domain::{
    ids::{OrderId, RefundId},
    provider_currency::ProviderCurrency,
};

/// Timeout of a call, after which its outcome is unknown. Shorter than an attempt's timeout, so that the client and not
/// Temporal reports it.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of a connection attempt, after which the provider counts as unavailable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Page size of payment lists: Stripe's maximum.
const LIST_PAGE: u8 = 100;
/// The version of Stripe's API that this client was written for.
const API_VERSION: &str = "2024-06-20";

/// A client of Stripe, or of a server that implements its API.
pub struct Stripe {
    http: Client,
    base: Url,
    key: SecretString,
    return_url: Option<Url>,
    metrics: StepMetrics,
}

impl Stripe {
    /// Creates a client of the API at `base`, `https://api.stripe.com` in production. After 3-D Secure authentication,
    /// Stripe redirects customers to `return_url`.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(
        base: Url,
        key: SecretString,
        return_url: Option<Url>,
        metrics: StepMetrics,
    ) -> reqwest::Result<Self> {
        let http = Client::builder().timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Self { http, base, key, return_url, metrics })
    }

    /// Sends one request. `Ok(Err(_))` is an error that Stripe reports; `Err` is an error that contains no information
    /// about the payment.
    async fn call(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        key: Option<&str>,
        form: &[(&str, String)],
    ) -> Result<Result<Value, StripeError>, ProviderError> {
        let result = self.send(method, path, key, form).await;
        let outcome = match &result {
            Ok(Ok(_)) => "ok",
            Ok(Err(_)) => "refused",
            Err(ProviderError::Unavailable(_)) => "unavailable",
            Err(_) => "unknown",
        };
        self.metrics.record_call("payments", operation, outcome);
        result
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        form: &[(&str, String)],
    ) -> Result<Result<Value, StripeError>, ProviderError> {
        let url = self.base.join(path).map_err(|e| ProviderError::Unavailable(e.into()))?;
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(self.key.expose_secret())
            .header("Stripe-Version", API_VERSION);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if !form.is_empty() {
            request = request.form(form);
        }
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                ProviderError::Unavailable(error.into())
            } else {
                ProviderError::UnknownOutcome(error.into())
            }
        })?;
        let status = response.status();
        let body = response.text().await.map_err(|e| ProviderError::UnknownOutcome(e.into()))?;
        if status.is_success() {
            return serde_json::from_str(&body).map(Ok).map_err(|e| ProviderError::UnknownOutcome(e.into()));
        }
        match status {
            // A key that Stripe rejects is our configuration, which an operator may fix while the order waits.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                Err(ProviderError::Unavailable(format!("HTTP {status}").into()))
            }
            // The first request with this key is still in progress.
            StatusCode::CONFLICT => Err(ProviderError::UnknownOutcome(format!("HTTP {status}").into())),
            _ if status.is_server_error() => {
                Err(ProviderError::UnknownOutcome(format!("HTTP {status}").into()))
            }
            _ => Ok(Err(StripeError::parse(status, &body))),
        }
    }

    async fn get_payment_intent(&self, provider_ref: &str) -> Result<Value, ProviderError> {
        let path = format!("v1/payment_intents/{provider_ref}?expand[]=latest_charge");
        self.call("look_up", Method::GET, &path, None, &[]).await?.map_err(StripeError::into_error)
    }

    /// Returns the payment after a failed call: the operation may still have been performed, now or before. Stripe
    /// prunes keys after a day; the payment itself has the result. None if the call was never made, or if the query
    /// fails as well.
    async fn get_intent_after_failure(
        &self,
        failure: &ProviderError,
        provider_ref: &str,
    ) -> Result<Option<Value>, ProviderError> {
        match failure {
            ProviderError::Unavailable(_) => Ok(None),
            ProviderError::UnknownOutcome(_) => Ok(self.get_payment_intent(provider_ref).await.ok()),
            _ => self.get_payment_intent(provider_ref).await.map(Some),
        }
    }
}

/// Parses a PaymentIntent (<https://docs.stripe.com/payments/paymentintents/lifecycle>).
fn parse_authorization(intent: &Value) -> Result<AuthorizationOutcome, ProviderError> {
    let provider_ref = provider_ref(intent);
    Ok(match intent["status"].as_str() {
        Some("requires_capture" | "succeeded") => AuthorizationOutcome::Authorized(ProviderAuthorization {
            capture_before: intent["latest_charge"]["payment_method_details"]["card"]["capture_before"]
                .as_i64()
                .and_then(|seconds| Timestamp::from_second(seconds).ok()),
            in_parts: intent["latest_charge"]["payment_method_details"]["card"]["multicapture"]["status"]
                .as_str()
                .map(|status| status == "available"),
            provider_ref,
        }),
        Some("requires_action") => AuthorizationOutcome::ActionRequired {
            url: intent["next_action"]["redirect_to_url"]["url"].as_str().map(str::to_owned),
            provider_ref,
        },
        Some("requires_payment_method" | "canceled") => {
            let error = &intent["last_payment_error"];
            let code = error["decline_code"].as_str().or_else(|| error["code"].as_str());
            AuthorizationOutcome::Declined { code: code.unwrap_or("card_declined").to_owned() }
        }
        other => return Err(ProviderError::UnknownOutcome(format!("payment is {other:?}").into())),
    })
}

/// Returns the amounts of a PaymentIntent, in ISO minor units; only its charge has the refunded amount. None if
/// Stripe's units cannot be converted, as for a currency that Waybill does not support.
fn parse_payment(intent: &Value) -> Option<ProviderPayment> {
    let units = ProviderCurrency::for_code(intent["currency"].as_str()?).ok()?;
    let amount = |value: &Value| units.to_minor(value.as_i64().unwrap_or(0));
    let refunded = &intent["latest_charge"]["amount_refunded"];
    Some(ProviderPayment {
        provider_ref: provider_ref(intent),
        order_id: intent["metadata"]["order_id"].as_str().and_then(|id| id.parse().ok()),
        capturable: amount(&intent["amount_capturable"])?,
        captured: amount(&intent["amount_received"])?,
        refunded: if refunded.is_null() { None } else { Some(amount(refunded)?) },
    })
}

/// Parses a payment in a list. If its amounts cannot be converted it has no order, so that reconciliation skips it and
/// still compares the others.
fn parse_listed_payment(intent: &Value) -> ProviderPayment {
    parse_payment(intent).unwrap_or_else(|| {
        let provider_ref = provider_ref(intent);
        tracing::warn!(payment = provider_ref, "payment amounts cannot be converted; payment skipped");
        ProviderPayment { provider_ref, order_id: None, capturable: 0, captured: 0, refunded: None }
    })
}

/// Converts an amount from Stripe to ISO minor units. None if it is missing or cannot be converted.
fn parse_minor(units: ProviderCurrency, amount: &Value) -> Option<i64> {
    amount.as_i64().and_then(|amount| units.to_minor(amount))
}

fn provider_ref(intent: &Value) -> String {
    intent["id"].as_str().unwrap_or_default().to_owned()
}

#[async_trait]
impl PaymentProvider for Stripe {
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<AuthorizationOutcome, ProviderError> {
        let amount = match ProviderCurrency::for_currency(request.currency)
            .and_then(|u| u.to_provider(request.amount))
        {
            Ok(amount) => amount,
            Err(reason) => return Ok(AuthorizationOutcome::Rejected { code: reason.code().to_owned() }),
        };
        let mut form = vec![
            ("amount", amount.to_string()),
            ("currency", request.currency.code().to_lowercase()),
            ("payment_method", request.payment_method.clone()),
            ("payment_method_types[]", "card".into()),
            ("capture_method", "manual".into()),
            ("confirm", "true".into()),
            ("payment_method_options[card][request_multicapture]", "if_available".into()),
            ("metadata[order_id]", request.order_id.to_string()),
            ("metadata[operation]", request.key.clone()),
            ("expand[]", "latest_charge".into()),
        ];
        if let Some(url) = &self.return_url {
            form.push(("return_url", url.to_string()));
        }
        let reply =
            self.call("authorize", Method::POST, "v1/payment_intents", Some(&request.key), &form).await?;
        match reply.map_err(StripeError::into_authorization_error) {
            Ok(intent) => parse_authorization(&intent),
            Err(ProviderError::Declined { code }) => Ok(AuthorizationOutcome::Declined { code }),
            Err(ProviderError::Permanent { code }) => Ok(AuthorizationOutcome::Rejected { code }),
            Err(error) => Err(error),
        }
    }

    async fn get_authorization(&self, provider_ref: &str) -> Result<AuthorizationOutcome, ProviderError> {
        parse_authorization(&self.get_payment_intent(provider_ref).await?)
    }

    async fn search_authorization(
        &self,
        order: OrderId,
        key: &str,
    ) -> Result<Option<AuthorizationOutcome>, ProviderError> {
        let query = [
            ("query", format!("metadata['order_id']:'{order}'")),
            ("expand[]", "data.latest_charge".to_owned()),
        ];
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let path = format!("v1/payment_intents/search?{query}");
        let found =
            self.call("find", Method::GET, &path, None, &[]).await?.map_err(StripeError::into_error)?;
        let intents = found["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        intents
            .iter()
            .find(|intent| intent["metadata"]["operation"] == key)
            .map(parse_authorization)
            .transpose()
    }

    async fn capture(&self, request: &CaptureRequest) -> Result<i64, ProviderError> {
        let path = format!("v1/payment_intents/{}/capture", request.provider_ref);
        let units = ProviderCurrency::for_currency(request.currency)?;
        let mut form = vec![("amount_to_capture", units.to_provider(request.amount)?.to_string())];
        if !request.is_final {
            form.push(("final_capture", "false".into()));
        }
        let failure = match self.call("capture", Method::POST, &path, Some(&request.key), &form).await {
            Ok(Ok(intent)) => return Ok(parse_minor(units, &intent["amount_capturable"]).unwrap_or(0)),
            Ok(Err(rejection)) => rejection.into_error(),
            Err(failure) => failure,
        };
        let Some(intent) = self.get_intent_after_failure(&failure, &request.provider_ref).await? else {
            return Err(failure);
        };
        // A response without the captured amount proves nothing.
        let Some(received) = parse_minor(units, &intent["amount_received"]) else { return Err(failure) };
        if received >= request.previously_captured.minor() + request.amount.minor() {
            return Ok(parse_minor(units, &intent["amount_capturable"]).unwrap_or(0));
        }
        let ended = matches!(intent["status"].as_str(), Some("canceled" | "succeeded"));
        Err(if ended && intent["amount_capturable"] == 0 { ProviderError::Lapsed } else { failure })
    }

    async fn void(&self, key: &str, provider_ref: &str) -> Result<(), ProviderError> {
        let path = format!("v1/payment_intents/{provider_ref}/cancel");
        let failure = match self.call("void", Method::POST, &path, Some(key), &[]).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(rejection)) => rejection.into_error(),
            Err(failure) => failure,
        };
        let intent = self.get_intent_after_failure(&failure, provider_ref).await?.unwrap_or_default();
        if matches!(intent["status"].as_str(), Some("canceled" | "succeeded")) {
            return Ok(());
        }
        Err(failure)
    }

    async fn get_payment(&self, provider_ref: &str) -> Result<ProviderPayment, ProviderError> {
        let intent = self.get_payment_intent(provider_ref).await?;
        parse_payment(&intent)
            .ok_or_else(|| ProviderError::UnknownOutcome("the payment's amounts cannot be converted".into()))
    }

    async fn list_payments_since(
        &self,
        since: Timestamp,
        after: Option<&str>,
    ) -> Result<PaymentPage, ProviderError> {
        let mut path = format!("v1/payment_intents?limit={LIST_PAGE}&created[gte]={}", since.as_second());
        if let Some(after) = after {
            path += &format!("&starting_after={after}");
        }
        let list =
            self.call("list", Method::GET, &path, None, &[]).await?.map_err(StripeError::into_error)?;
        let payments = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let payments = payments.iter().map(parse_listed_payment).collect();
        Ok(PaymentPage { payments, has_more: list["has_more"].as_bool().unwrap_or(false) })
    }

    async fn refund(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
        refunds::create(self, request).await
    }

    async fn find_refund(
        &self,
        payment: &str,
        refund: RefundId,
    ) -> Result<Option<ProviderRefund>, ProviderError> {
        refunds::find(self, payment, refund).await
    }

    async fn list_refunds_of(&self, payment: &str) -> Result<Vec<ProviderListedRefund>, ProviderError> {
        refunds::list_by_payment(self, payment).await
    }

    async fn list_refunds_since(
        &self,
        since: Timestamp,
        after: Option<&str>,
    ) -> Result<RefundPage, ProviderError> {
        refunds::list_page(self, &format!("created[gte]={}", since.as_second()), after).await
    }

    async fn get_refund(&self, provider_ref: &str) -> Result<ProviderRefund, ProviderError> {
        refunds::get(self, provider_ref).await
    }
}
