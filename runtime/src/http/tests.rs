#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use axum::routing::{get, post};
use std::net::SocketAddr;
use tokio::{task::JoinHandle, time::sleep};

/// A timeout that elapses in a test.
const SHORT: Duration = Duration::from_millis(300);
/// A timeout that does not elapse in a test.
const LONG: Duration = Duration::from_secs(300);
/// The limit on a test's waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

const LIMITS: ServerLimits = ServerLimits { connections_max: 100, header_wait_max: LONG, idle_max: LONG };
const REJECTION: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

struct TestServer {
    address: SocketAddr,
    registry: Registry,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl TestServer {
    async fn start(limits: ServerLimits) -> Self {
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/echo", post(|body: String| async { body }))
            .route(
                "/slow",
                get(|| async {
                    sleep(SHORT * 4).await;
                    "late"
                }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, registry, shutdown) =
            (listener.local_addr().unwrap(), Registry::new(), CancellationToken::new());
        let server = Server::new(router, limits, REJECTION, &registry).unwrap();
        let running = tokio::spawn(server.run(listener, shutdown.clone()));
        Self { address, registry, shutdown, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let metric = &families.iter().find(|family| family.name() == name).unwrap().get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    async fn wait_until_open(&self, connections: f64) {
        let reached = async {
            while self.metric("waybill_http_connections") != connections {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(WAIT_MAX, reached).await.unwrap();
    }
}

/// Sends a request and reads a response that ends in `end`.
async fn send_and_expect(client: &mut TcpStream, request: &[u8], end: &str) {
    client.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let byte = timeout(WAIT_MAX, client.read_u8()).await.unwrap();
        answer.push(byte.unwrap_or_else(|_| panic!("closed after {:?}", String::from_utf8_lossy(&answer))));
    }
}

/// Waits until the server closes the connection, and returns the data that it sent before.
async fn read_to_end(client: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    timeout(WAIT_MAX, client.read_to_end(&mut rest)).await.expect("the server closes the connection").ok();
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn unfinished_head_is_closed_after_its_timeout() {
    let served = TestServer::start(ServerLimits { header_wait_max: SHORT, ..LIMITS }).await;
    let mut idle_client = served.connect().await;
    let mut partial = served.connect().await;
    partial.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let mut second = served.connect().await;
    send_and_expect(&mut second, REQUEST, "here").await;
    second.write_all(b"G").await.unwrap();
    for client in [&mut idle_client, &mut partial, &mut second] {
        assert_eq!(read_to_end(client).await, "");
    }
    served.wait_until_open(0.0).await;
}

#[tokio::test]
async fn dripping_head_is_closed_after_its_timeout() {
    let served = TestServer::start(ServerLimits { header_wait_max: SHORT, ..LIMITS }).await;
    let mut client = served.connect().await;
    let drip = async {
        loop {
            if client.write_all(b"x").await.is_err() {
                return;
            }
            sleep(SHORT / 10).await;
        }
    };
    timeout(WAIT_MAX, drip).await.expect("the connection is closed");
}

#[tokio::test]
async fn idle_connection_is_closed_after_its_timeout() {
    let served = TestServer::start(ServerLimits { idle_max: SHORT, ..LIMITS }).await;
    let mut client = served.connect().await;
    send_and_expect(&mut client, REQUEST, "here").await;
    assert_eq!(read_to_end(&mut client).await, "");
}

#[tokio::test]
async fn idle_connection_outlives_the_head_timeout() {
    let served = TestServer::start(ServerLimits { header_wait_max: SHORT, ..LIMITS }).await;
    let mut client = served.connect().await;
    for _ in 0..2 {
        send_and_expect(&mut client, REQUEST, "here").await;
        sleep(SHORT * 2).await;
    }
    send_and_expect(&mut client, b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nback", "back")
        .await;
}

#[tokio::test]
async fn slow_handler_and_slow_body_are_not_timed_out() {
    let served = TestServer::start(ServerLimits { header_wait_max: SHORT, idle_max: SHORT, ..LIMITS }).await;
    let mut client = served.connect().await;
    send_and_expect(&mut client, b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n", "late").await;
    client.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na").await.unwrap();
    sleep(SHORT * 3).await;
    send_and_expect(&mut client, b"b", "ab").await;
}

#[tokio::test]
async fn connection_above_the_limit_is_answered_503() {
    let served = TestServer::start(ServerLimits { connections_max: 2, ..LIMITS }).await;
    let (mut first, mut second) = (served.connect().await, served.connect().await);
    send_and_expect(&mut first, REQUEST, "here").await;
    send_and_expect(&mut second, REQUEST, "here").await;
    assert_eq!(served.metric("waybill_http_connections"), 2.0);
    let mut third = served.connect().await;
    third.write_all(REQUEST).await.unwrap();
    assert_eq!(read_to_end(&mut third).await, REJECTION);
    assert_eq!(served.metric("waybill_http_connections_refused_total"), 1.0);
    send_and_expect(&mut first, REQUEST, "here").await;
    drop(second);
    served.wait_until_open(1.0).await;
    send_and_expect(&mut served.connect().await, REQUEST, "here").await;
}

#[tokio::test]
async fn shutdown_answers_requests_and_closes_idle_connections() {
    let served = TestServer::start(LIMITS).await;
    let (mut idle, mut fresh, mut busy) =
        (served.connect().await, served.connect().await, served.connect().await);
    send_and_expect(&mut idle, REQUEST, "here").await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    served.wait_until_open(3.0).await;
    sleep(SHORT).await;
    served.shutdown.cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert_eq!(read_to_end(&mut fresh).await, "");
    assert!(read_to_end(&mut busy).await.ends_with("late"));
    timeout(WAIT_MAX, served.running).await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}
