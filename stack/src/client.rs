//! A small client of Waybill's HTTP API, for `cargo dev` and the integration tests.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// Longer than the longest `Prefer: wait`.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(40);

/// A complete response of the API.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null when it is empty, a string when it is not JSON.
    pub body: Value,
}

impl Reply {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns a text field of the body by its JSON pointer; empty when the field is missing.
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the body if it is a list, or else the first list among its fields.
    pub fn items(&self) -> Option<&[Value]> {
        let held = || self.body.as_object()?.values().find_map(Value::as_array);
        self.body.as_array().or_else(held).map(Vec::as_slice)
    }

    /// Returns this reply if it is a success, or else an error with the status and the body.
    pub fn success(self) -> Result<Self> {
        if !self.status.is_success() {
            bail!("the API responded {}: {}", self.status, self.body);
        }
        Ok(self)
    }
}

/// A client that uses one merchant's key.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    /// A client of the API at `base`, such as `http://127.0.0.1:7700`.
    pub fn new(base: &str, key: &str) -> Result<Self> {
        // The test process may not have installed a provider yet; a second installation has no effect.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().timeout(REQUEST_TIME_MAX).no_proxy().build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// The same API with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// The base URL of the API.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `POST /v1/orders`; `wait` is the number of seconds for `Prefer: wait`.
    pub async fn place(&self, order: &Value, idempotency_key: &str, wait: Option<u32>) -> Result<Reply> {
        let mut request =
            self.request(Method::POST, "/v1/orders").header("Idempotency-Key", idempotency_key).json(order);
        if let Some(seconds) = wait {
            request = request.header("Prefer", format!("wait={seconds}"));
        }
        self.send(request).await
    }

    /// `GET /v1/orders/{id}`
    pub async fn get(&self, id: &str) -> Result<Reply> {
        self.send(self.request(Method::GET, &format!("/v1/orders/{id}"))).await
    }

    /// `GET /v1/orders` with a query such as `[("status", "confirmed")]`.
    pub async fn list(&self, query: &[(&str, &str)]) -> Result<Reply> {
        self.send(self.request(Method::GET, "/v1/orders").query(query)).await
    }

    /// `GET /v1/orders/{id}/events` after a sequence number.
    pub async fn events(&self, id: &str, after_seq: i64) -> Result<Reply> {
        let request = self.request(Method::GET, &format!("/v1/orders/{id}/events"));
        self.send(request.query(&[("after_seq", after_seq)])).await
    }

    /// `POST /v1/orders/{id}/cancellation`
    pub async fn cancel(&self, id: &str, reason: &str, dry_run: bool) -> Result<Reply> {
        let mut body = json!({ "reason": reason });
        if dry_run {
            body["dry_run"] = true.into();
        }
        self.post(&format!("/v1/orders/{id}/cancellation"), &body).await
    }

    /// `POST /v1/orders/{id}/decision`: `approve` or `reject`.
    pub async fn decide(&self, id: &str, decision: &str, reason: &str) -> Result<Reply> {
        self.post(&format!("/v1/orders/{id}/decision"), &json!({ "decision": decision, "reason": reason }))
            .await
    }

    /// `POST /v1/orders/{id}/amendment`: `ship_available` or `cancel`, for the version in `if_match`.
    pub async fn amend(&self, id: &str, accept: &str, if_match: Option<&str>) -> Result<Reply> {
        let mut request = self
            .request(Method::POST, &format!("/v1/orders/{id}/amendment"))
            .header("Idempotency-Key", new_key())
            .json(&json!({ "accept": accept }));
        if let Some(etag) = if_match {
            request = request.header("If-Match", etag);
        }
        self.send(request).await
    }

    /// `PUT /v1/stock/{sku}`
    pub async fn put_stock(&self, sku: &str, stock: &Value) -> Result<Reply> {
        self.send(self.request(Method::PUT, &stock_path(sku)).json(stock)).await
    }

    /// `GET /v1/stock/{sku}`
    pub async fn get_stock(&self, sku: &str) -> Result<Reply> {
        self.send(self.request(Method::GET, &stock_path(sku))).await
    }

    /// Returns the status of any URL, requested without the key; none when there is no response.
    pub async fn probe(&self, url: &str) -> Option<StatusCode> {
        self.http.get(url).send().await.ok().map(|response| response.status())
    }

    /// Any `POST` with a JSON body and a new idempotency key.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        let request = self.request(Method::POST, path).header("Idempotency-Key", new_key());
        self.send(request.json(body)).await
    }

    /// Builds any other request, with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key)
    }

    /// Sends a request and reads the complete response.
    pub async fn send(&self, request: RequestBuilder) -> Result<Reply> {
        let response =
            request.send().await.with_context(|| format!("the API at {} does not respond", self.base))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let body = match serde_json::from_str(&text) {
            Ok(body) => body,
            Err(_) if text.is_empty() => Value::Null,
            Err(_) => Value::String(text),
        };
        Ok(Reply { status, headers, body })
    }
}

/// The path of a SKU's stock. The SKU is one segment; all but RFC 3986's unreserved characters are percent-encoded.
pub fn stock_path(sku: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    format!("/v1/stock/{}", sku.bytes().map(encode).collect::<String>())
}

/// Returns a new unique idempotency key.
pub fn new_key() -> String {
    uuid::Uuid::now_v7().to_string()
}
