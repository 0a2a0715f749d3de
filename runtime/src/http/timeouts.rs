//! The phase of a connection, and the timeout for a request's head that depends on it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// The connection has received nothing of the next request.
const IDLE: u8 = 0;
/// The connection is receiving a request's head.
const HEAD: u8 = 1;
/// A request is in progress.
const BUSY: u8 = 2;

/// The phase of a connection. Its stream and its service share it; they run in one task.
#[derive(Clone)]
pub(super) struct ConnectionPhase(Arc<AtomicU8>);

impl ConnectionPhase {
    /// The timeout for the first head starts immediately: a client connects in order to send it.
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(HEAD)))
    }

    /// Marks a request as in progress until the guard is dropped.
    pub(super) fn begin_request(&self) -> RequestGuard {
        self.set(BUSY);
        RequestGuard(self.clone())
    }

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// A request in progress.
pub(super) struct RequestGuard(ConnectionPhase);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.set(IDLE);
    }
}

/// A stream whose reads fail if a request's head takes too long.
pub(super) struct TimedStream<S> {
    stream: S,
    phase: ConnectionPhase,
    header_wait_max: Duration,
    deadline: Instant,
    /// Created only if a head does not arrive in one read: most do.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, phase: ConnectionPhase, header_wait_max: Duration) -> Self {
        Self { stream, phase, header_wait_max, deadline: Instant::now() + header_wait_max, sleep: None }
    }

    fn begin_head(&mut self) {
        self.phase.set(HEAD);
        self.deadline = Instant::now() + self.header_wait_max;
        self.sleep = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            if self.phase.is(IDLE) && buffer.filled().len() > before {
                self.begin_head();
            }
            return read;
        }
        if self.phase.is(HEAD) {
            let deadline = self.deadline;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
