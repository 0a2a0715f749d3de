//! The HTTP server of both binaries. It is `axum::serve` with three bounds on what a client can hold: a head that does
//! not come, a connection that nobody uses, and the number of connections.
//!
//! At the limit a new connection is answered 503 and closed, before anything of it is read. The other choice, to stop
//! accepting, leaves clients in the kernel's queue until they give up: they can't tell a full process from a slow one,
//! and a load balancer's health check waits there like them instead of moving the traffic elsewhere.
//!
//! Deliberately absent: a bound on how long a response takes. Most fit the kernel's buffer, and a handler bounds its own
//! work.

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

/// How long a request's head may take from its first byte, and the first one from the connection's beginning: as long as
/// a body may take. A head is a few hundred bytes; a client that needs longer is gone, or keeps the connection on purpose.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request. Longer than the 60 s that load balancers keep one by default
/// (AWS's ALB, nginx towards its upstreams): the balancer closes it first, and sends no request into one that is closing.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Connections above the limit that are answered at a time; further ones are closed without an answer, so that answering
/// them costs no more than this.
const REJECTIONS_MAX: usize = 64;
/// How long it may take to answer one above the limit.
const REJECTION_WAIT_MAX: Duration = Duration::from_secs(1);
/// How much is read at a time of what a client above the limit sends, in bytes. Nothing looks at it.
const DISCARDED_BYTES: usize = 1_024;

/// What a client can hold at most.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections that are open at a time.
    pub connections_max: usize,
    /// How long a request's head may take.
    pub header_wait_max: Duration,
    /// How long a connection may wait for its next request.
    pub idle_max: Duration,
}

impl ServerLimits {
    /// So many connections, and the times that a production server has.
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
    /// When the registry has metrics of that name.
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
                "HTTP connections that were refused because too many were open",
                registry
            )?,
        })
    }

    /// Serves until `shutdown`; then it accepts nothing more, closes idle connections, and returns when the requests
    /// under way are answered.
    pub async fn run(self, mut listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            // axum's `accept` logs a failure and tries again: after a second where the process has no more files.
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
                tracing::debug!(%error, "a client above the connection limit did not take its answer");
            }
            drop(permit);
        });
    }
}

async fn answer_and_close(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    // The kernel resets a connection that is closed before all that came is read, and the client may then lose the answer.
    let mut discarded = [0; DISCARDED_BYTES];
    while stream.read(&mut discarded).await? > 0 {}
    Ok(())
}

/// Counts a connection for as long as it is open.
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

/// What a connection holds for as long as it is open.
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
                // Busy until the body has been sent, or dropped.
                Ok::<_, std::convert::Infallible>(response.map(|body| {
                    body.map_frame(move |frame| {
                        let _held = &busy;
                        frame
                    })
                }))
            }
        });
        // hyper's own timeout runs from the moment at which it waits for a request, so it is the one for idle connections;
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
            tracing::debug!(%error, "a connection ended early");
        }
        drop(self.open);
        drop(self.place);
    }
}

#[cfg(test)]
mod tests;
