//! Client of a carrier with a small JSON API: `POST /v1/labels`, `POST /v1/labels/{reference}/cancel`. Carriers' APIs
//! differ; another carrier needs another implementation of [`Carrier`] next to this one.

use super::{BookRequest, Carrier, CarrierError, Label};
use crate::metrics::StepMetrics;
use async_trait::async_trait;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;
use waybill_domain::ids::ShipmentId;

/// Timeout of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout of a connection attempt, after which the carrier counts as unavailable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The client.
pub struct HttpCarrier {
    http: Client,
    base: Url,
    key: SecretString,
    metrics: StepMetrics,
}

impl HttpCarrier {
    /// Creates a client of the API at `base`.
    ///
    /// # Errors
    /// When the HTTP client can't be built.
    pub fn new(base: Url, key: SecretString, metrics: StepMetrics) -> reqwest::Result<Self> {
        let http = Client::builder().timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Self { http, base, key, metrics })
    }

    async fn post(
        &self,
        operation: &str,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), CarrierError> {
        let result = self.send(path, body).await;
        let outcome = match &result {
            Ok((status, _)) if status.is_success() => "ok",
            Ok(_) => "refused",
            Err(_) => "unavailable",
        };
        self.metrics.record_call("carrier", operation, outcome);
        result
    }

    async fn send(&self, path: &str, body: &Value) -> Result<(StatusCode, Value), CarrierError> {
        let unavailable = |e: Box<dyn std::error::Error + Send + Sync>| CarrierError::Unavailable(e);
        let url = self.base.join(path).map_err(|e| unavailable(e.into()))?;
        let request = self.http.post(url).bearer_auth(self.key.expose_secret()).json(body);
        let response = request.send().await.map_err(|e| unavailable(e.into()))?;
        let status = response.status();
        let text = response.text().await.map_err(|e| unavailable(e.into()))?;
        let is_own_fault = matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
        if is_own_fault || status.is_server_error() {
            return Err(unavailable(format!("HTTP {status}").into()));
        }
        Ok((status, serde_json::from_str(&text).map_err(|e| unavailable(e.into()))?))
    }
}

fn parse_error(status: StatusCode, body: &Value) -> CarrierError {
    let code = body["code"].as_str().map_or_else(|| format!("http_{}", status.as_u16()), str::to_owned);
    CarrierError::Permanent { code }
}

/// The request body of a booking. It omits address fields that are empty.
fn booking(request: &BookRequest) -> Value {
    let parcels: Vec<Value> =
        request.items.iter().map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity})).collect();
    json!({"reference": request.reference, "from": request.from, "to": request.to, "parcels": parcels})
}

#[async_trait]
impl Carrier for HttpCarrier {
    async fn book(&self, request: &BookRequest) -> Result<Label, CarrierError> {
        let (status, reply) = self.post("book", "v1/labels", &booking(request)).await?;
        match (status.is_success(), reply["id"].as_str(), reply["tracking_number"].as_str()) {
            (true, Some(id), Some(number)) => {
                Ok(Label { id: id.to_owned(), tracking_number: number.to_owned() })
            }
            (true, ..) => Err(CarrierError::Unavailable("a label without id or tracking number".into())),
            (false, ..) => Err(parse_error(status, &reply)),
        }
    }

    async fn cancel(&self, reference: ShipmentId) -> Result<bool, CarrierError> {
        let (status, reply) =
            self.post("cancel", &format!("v1/labels/{reference}/cancel"), &json!({})).await?;
        match status {
            _ if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(true),
            StatusCode::CONFLICT => Ok(false),
            _ => Err(parse_error(status, &reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use uuid::Uuid;

    #[test]
    fn booking_has_the_contact_and_no_empty_fields() {
        let to = json!({"name": "A", "line1": "1 Road", "city": "Hong Kong", "country": "HK",
            "phone": "+852 5550 1234", "email": "a@example.org"});
        let request = BookRequest {
            reference: ShipmentId(Uuid::from_u128(7)),
            from: "AMS".parse().unwrap(),
            to: serde_json::from_value(to.clone()).unwrap(),
            items: vec![("Schuh 42 grün".into(), 2)],
        };
        let body = booking(&request);
        assert_eq!(body["to"], to);
        assert_eq!(body["parcels"], json!([{"sku": "Schuh 42 grün", "quantity": 2}]));
    }
}
