//! A lean HTTP/1.1 client with one connection per simulated client, so that the server and not the client is measured.

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinSet};
use waybill_stack::client::Client;

/// A prepared request.
pub type PreparedRequest = Request<Full<Bytes>>;

/// The result of a closed loop.
#[derive(Debug)]
pub struct LoopResult {
    /// Number of responses.
    pub done: u64,
    /// Time from the first request to the last response.
    pub took: Duration,
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
}

/// One client's connection.
pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Opens the connection.
    pub async fn open(address: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("{address} does not respond"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a request and reads the complete response.
    pub async fn send(&mut self, request: PreparedRequest) -> Result<(StatusCode, Bytes)> {
        self.0.ready().await?;
        let response: Response<Incoming> = self.0.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// Connections for concurrent requests, opened on demand.
#[derive(Clone)]
pub struct Pool {
    client: Client,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Pool {
    /// A pool for a client's API.
    pub fn of(client: &Client) -> Self {
        Self { client: client.clone(), idle: Arc::default() }
    }

    /// The client of the API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a request on an idle connection, or on a new one.
    pub async fn send(&self, request: PreparedRequest) -> Result<(StatusCode, Bytes)> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&address(&self.client)).await?,
        };
        let answer = connection.send(request).await?;
        // A failed connection is not reused.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(answer)
    }
}

/// A `GET`.
pub fn get(client: &Client, path: &str) -> Result<PreparedRequest> {
    Ok(request(client, "GET", path).body(Full::default())?)
}

/// `POST /v1/orders`.
pub fn place(client: &Client, key: &str, body: Bytes) -> Result<PreparedRequest> {
    let request = request(client, "POST", "/v1/orders").header("idempotency-key", key);
    Ok(request.header("content-type", "application/json").body(Full::new(body))?)
}

fn request(client: &Client, method: &str, path: &str) -> hyper::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", address(client))
        .header("authorization", format!("Bearer {}", client.key()))
}

/// `host:port` of a client's API.
pub fn address(client: &Client) -> String {
    client.base().trim_start_matches("http://").to_owned()
}

/// Runs `clients` that each send the next request after the previous response, for the given time.
///
/// # Errors
/// When a response is not a success: a rate must not contain rejections.
pub async fn closed_loop(
    address: &str,
    clients: usize,
    limit: Duration,
    make: impl Fn(u64) -> Result<PreparedRequest> + Clone + Send + 'static,
) -> Result<LoopResult> {
    let next = Arc::new(AtomicU64::new(0));
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Connection::open(address).await?);
    }
    let (start, mut tasks) = (Instant::now(), JoinSet::new());
    for mut connection in connections {
        let (make, next) = (make.clone(), next.clone());
        tasks.spawn(async move {
            let mut latency = histogram()?;
            while start.elapsed() < limit {
                let request = make(next.fetch_add(1, Ordering::Relaxed))?;
                let sent = Instant::now();
                let (status, body) = connection.send(request).await?;
                if !status.is_success() {
                    bail!("the response was {status}: {}", String::from_utf8_lossy(&body));
                }
                latency.saturating_record(u64::try_from(sent.elapsed().as_micros())?);
            }
            Ok(latency)
        });
    }
    let mut latency = histogram()?;
    while let Some(ended) = tasks.join_next().await {
        latency.add(ended??)?;
    }
    Ok(LoopResult { done: latency.len(), took: start.elapsed(), latency })
}

/// A histogram for microseconds with three significant digits.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

/// Returns the usual percentiles, in milliseconds.
pub fn percentiles(latency: &Histogram<u64>) -> BTreeMap<&'static str, f64> {
    let at = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    [("p50_ms", at(0.5)), ("p99_ms", at(0.99))].into()
}
