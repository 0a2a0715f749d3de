//! A client of Temporal's HTTP API: the operations of the `temporal` CLI without a process per call.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::{Value, json};

/// A server that is up responds within milliseconds; a frozen one must not block the caller.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Executions per page of a list: Temporal's maximum.
const PAGE: &str = "1000";

/// One namespace of a Temporal server.
#[derive(Clone, Debug)]
pub struct TemporalHttp {
    http: reqwest::Client,
    base: String,
}

/// A workflow execution and its status.
#[derive(Clone, Debug)]
pub struct Execution {
    /// For example `order:{id}`.
    pub workflow_id: String,
    /// The run's id.
    pub run_id: String,
    /// For example `RUNNING`, `COMPLETED` or `TERMINATED`.
    pub status: String,
    /// The search attribute `WaybillStatus`.
    pub order_status: Option<String>,
    /// Start time, RFC 3339.
    pub started: String,
}

impl TemporalHttp {
    /// A client for the namespace `default` of the server whose HTTP API listens on this loopback port.
    ///
    /// # Errors
    /// When the HTTP client cannot be created.
    pub fn new(port: u16) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(CALL_MAX).no_proxy().build()?;
        Ok(Self { http, base: format!("http://127.0.0.1:{port}/api/v1/namespaces/default") })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When no such execution is running, or the server does not respond.
    pub async fn signal(&self, workflow_id: &str, name: &str, input: &Value) -> Result<()> {
        let body = json!({ "input": [input] });
        self.call(Method::POST, &format!("workflows/{workflow_id}/signal/{name}"), Some(&body)).await?;
        Ok(())
    }

    /// Requests cancellation, as `temporal workflow cancel` does.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub async fn cancel(&self, workflow_id: &str) -> Result<()> {
        self.call(Method::POST, &format!("workflows/{workflow_id}/cancel"), Some(&json!({}))).await?;
        Ok(())
    }

    /// Terminates the execution.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub async fn terminate(&self, workflow_id: &str) -> Result<()> {
        let body = json!({ "reason": "terminated on purpose" });
        self.call(Method::POST, &format!("workflows/{workflow_id}/terminate"), Some(&body)).await?;
        Ok(())
    }

    /// Returns the executions that match a visibility query.
    ///
    /// # Errors
    /// When the server does not respond, or its response is malformed.
    pub async fn executions(&self, query: &str) -> Result<Vec<Execution>> {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let request = self.http.get(format!("{}/workflows", self.base));
            let page = [("query", query), ("pageSize", PAGE), ("nextPageToken", &token)];
            let page = Self::answer(request.query(&page)).await?;
            for execution in page["executions"].as_array().map(Vec::as_slice).unwrap_or_default() {
                found.push(Execution::read(execution)?);
            }
            match page["nextPageToken"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => return Ok(found),
            }
        }
    }

    /// Returns the run's result; none if it did not complete.
    ///
    /// # Errors
    /// As [`Self::executions`].
    pub async fn result(&self, execution: &Execution) -> Result<Option<Value>> {
        let url = format!("{}/workflows/{}/history-reverse", self.base, execution.workflow_id);
        let query = [("execution.runId", execution.run_id.as_str()), ("maximumPageSize", "1")];
        let history = Self::answer(self.http.get(url).query(&query)).await?;
        let end = &history["history"]["events"][0]["workflowExecutionCompletedEventAttributes"];
        Ok(end["result"].as_array().and_then(|values| values.first()).cloned())
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}/{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        Self::answer(request).await
    }

    async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
        let answer = request.send().await.context("Temporal's HTTP API does not respond")?;
        let (status, body) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("Temporal responded {status}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }
}

impl Execution {
    fn read(value: &Value) -> Result<Self> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            workflow_id: text("/execution/workflowId").context("an execution without an id")?,
            run_id: text("/execution/runId").context("an execution without a run id")?,
            status: text("/status")
                .context("an execution without a status")?
                .trim_start_matches("WORKFLOW_EXECUTION_STATUS_")
                .to_owned(),
            order_status: value.pointer("/searchAttributes/indexedFields/WaybillStatus").and_then(keyword),
            started: text("/startTime").unwrap_or_default(),
        })
    }
}

/// A search attribute of the type `Keyword`: as JSON, or as a payload whose data is JSON in base64.
fn keyword(attribute: &Value) -> Option<String> {
    if let Some(text) = attribute.as_str() {
        return Some(text.to_owned());
    }
    let data = BASE64.decode(attribute["data"].as_str()?).ok()?;
    serde_json::from_slice(&data).ok()
}
