//! Black-box tests of the simulators: real servers, real requests.

mod carrier;
mod payments;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::{Router, routing};
use serde_json::Value;

use super::lock;

const KEY: &str = "sk_test_waybill";
const WAIT_MAX: Duration = Duration::from_secs(20);

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A unique ledger path, removed on drop.
struct LedgerFile(PathBuf);

impl LedgerFile {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("{}.jsonl", super::new_id("waybill-sim"))))
    }
}

impl Drop for LedgerFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn http() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().timeout(WAIT_MAX).build().unwrap()
}

/// Polls until `look` returns a value.
async fn poll_until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < WAIT_MAX, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Clone)]
struct Delivery {
    path: String,
    headers: HeaderMap,
    text: String,
}

impl Delivery {
    fn kind(&self) -> String {
        let body: Value = serde_json::from_str(&self.text).unwrap();
        body["type"].as_str().unwrap().to_owned()
    }

    /// The event's object.
    fn object(&self) -> Value {
        let body: Value = serde_json::from_str(&self.text).unwrap();
        body["data"]["object"].clone()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// Accepts events, after the given failures.
#[derive(Clone, Default)]
struct Receiver {
    taken: Arc<Mutex<Vec<Delivery>>>,
    /// Statuses to return before the first 200.
    failures: Arc<Mutex<Vec<u16>>>,
}

impl Receiver {
    async fn start(failures: &[u16]) -> (Self, String) {
        let receiver = Self::default();
        *lock(&receiver.failures) = failures.to_vec();
        let router = Router::new().fallback(routing::post(take)).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (receiver, url)
    }

    fn kinds(&self) -> Vec<String> {
        lock(&self.taken).iter().map(Delivery::kind).collect()
    }

    async fn wait_for(&self, count: usize) -> Vec<Delivery> {
        poll_until(&format!("{count} deliveries"), || {
            let claimed = lock(&self.taken);
            (claimed.len() >= count).then(|| claimed.clone())
        })
        .await
    }
}

async fn take(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, text: String) -> StatusCode {
    let failure = lock(&receiver.failures).pop();
    if let Some(status) = failure {
        return StatusCode::from_u16(status).unwrap();
    }
    lock(&receiver.taken).push(Delivery { path: uri.path().to_owned(), headers, text });
    StatusCode::OK
}
