//! The HTTP server of both binaries: `axum::serve` with a timeout for request heads, a timeout for idle connections,
//! and a limit on connections.
//!
//! At the limit the server responds 503 to a new connection and closes it before reading from it. If it stopped
//! accepting instead, clients would wait in the kernel's queue until they time out: they cannot distinguish a full
//! process from a slow one, and a load balancer's health check would wait there, too, instead of moving the traffic.
//!
//! Deliberately absent: a timeout for responses. Most fit the kernel's buffer, and a handler limits its own work.

mod file_limit;
mod timeouts;

use axum::{Router, body::Body, serve::Listener};
use http_body_util::BodyExt;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_with_registry, register_int_gauge_with_registry,
};
use std::{io, pin::pin, sync::Arc, time::Duration};
use timeouts::{ConnectionPhase, TimedStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Timeout for a request's head from its first byte, and for the first one from the start of the connection: the same
/// as for a body. A head is a few hundred bytes; a client that takes longer has disappeared or holds the connection on
/// purpose.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request. Longer than the default idle timeout of load balancers, 60 s
/// (AWS's ALB, nginx towards its upstreams): the balancer closes the connection first, and so never sends a request
/// into one that is closing.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Limit on concurrent 503 responses to connections above the limit; the server closes further ones without a response,
/// which bounds the cost of rejections.
const REJECTIONS_MAX: usize = 64;
/// Timeout for the response to a connection above the limit.
const REJECTION_WAIT_MAX: Duration = Duration::from_secs(1);
/// Size of the buffer for the discarded request of a client above the limit, in bytes.
const DISCARDED_BYTES: usize = 1_024;

/// The server's limits.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// The maximum number of open connections.
    pub connections_max: usize,
    /// Timeout for a request's head.
    pub header_wait_max: Duration,
    /// How long a connection may wait for its next request.
    pub idle_max: Duration,
}

impl ServerLimits {
    /// Returns limits with this number of connections and production timeouts.
    pub fn connections(connections_max: usize) -> Self {
        Self { connections_max, header_wait_max: HEADER_TIMEOUT, idle_max: IDLE_MAX }
    }
}

/// A server of HTTP/1.1.
pub struct Server {
    router: Router,
    limits: ServerLimits,
    /// The whole response to a connection above the limit.
    rejection: Arc<[u8]>,
    permits: Arc<Semaphore>,
    rejection_permits: Arc<Semaphore>,
    open: IntGauge,
    rejected: IntCounter,
}

impl Server {
    /// Serves `router`; `rejection` is the whole response, head and body, to a connection above the limit.
    ///
    /// # Errors
    /// When the registry already has metrics of these names.
    pub fn new(
        router: Router,
        limits: ServerLimits,
        rejection: &str,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        file_limit::raise_file_limit(limits.connections_max);
        Ok(Self {
            router,
            limits,
            rejection: rejection.as_bytes().into(),
            permits: Arc::new(Semaphore::new(limits.connections_max)),
            rejection_permits: Arc::new(Semaphore::new(REJECTIONS_MAX)),
            open: register_int_gauge_with_registry!(
                "waybill_http_connections",
                "Open HTTP connections",
                registry
            )?,
            rejected: register_int_counter_with_registry!(
                "waybill_http_connections_refused_total",
                "HTTP connections rejected because the connection limit was reached",
                registry
            )?,
        })
    }

    /// Serves until `shutdown`; then it accepts no more connections, closes idle ones, and returns when the requests in
    /// flight are complete.
    pub async fn run(self, mut listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            // axum's `accept` logs a failure and retries: after a second if the process has no more files.
            let (stream, _) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = Listener::accept(&mut listener) => accepted,
            };
            match self.permits.clone().try_acquire_owned() {
                Ok(permit) => {
                    let connection = Connection { place: permit, open: OpenConnectionGauge::new(&self.open) };
                    let router = self.router.clone();
                    connections.spawn(connection.serve(stream, router, self.limits, shutdown.clone()));
                }
                Err(_) => self.reject(stream),
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    fn reject(&self, stream: TcpStream) {
        self.rejected.inc();
        let Ok(permit) = self.rejection_permits.clone().try_acquire_owned() else { return };
        let rejection = self.rejection.clone();
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(REJECTION_WAIT_MAX, answer_and_close(stream, &rejection)).await {
                tracing::debug!(%error, "failed to send 503 to a client over the connection limit");
            }
            drop(permit);
        });
    }
}

async fn answer_and_close(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    // If a connection is closed with unread data, the kernel resets it, and the client may lose the response.
    let mut discarded = [0; DISCARDED_BYTES];
    while stream.read(&mut discarded).await? > 0 {}
    Ok(())
}

/// Counts a connection while it is open.
struct OpenConnectionGauge(IntGauge);

impl OpenConnectionGauge {
    fn new(open: &IntGauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for OpenConnectionGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The resources that a connection holds while it is open.
struct Connection {
    place: OwnedSemaphorePermit,
    open: OpenConnectionGauge,
}

impl Connection {
    async fn serve(
        self,
        stream: TcpStream,
        router: Router,
        limits: ServerLimits,
        shutdown: CancellationToken,
    ) {
        let phase = ConnectionPhase::new();
        let stream = TokioIo::new(TimedStream::new(stream, phase.clone(), limits.header_wait_max));
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = phase.begin_request();
            let answered = hyper::service::Service::call(&router, request.map(Body::new));
            async move {
                let response = answered.await?;
                // The request is in progress until its response body has been sent or dropped.
                Ok::<_, std::convert::Infallible>(response.map(|body| {
                    body.map_frame(move |frame| {
                        let _held = &busy;
                        frame
                    })
                }))
            }
        });
        // hyper's own timeout starts when it waits for a request, so it serves as the one for idle connections;
        // `TimedStream` has the one for heads.
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle_max)
            .serve_connection(stream, service);
        let mut serving = pin!(serving);
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = shutdown.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection closed with an error");
        }
        drop(self.open);
        drop(self.place);
    }
}

#[cfg(test)]
mod tests;
