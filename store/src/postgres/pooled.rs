//! Pooled connections that a batcher reuses between its statements. A pool pings a connection when it is acquired and
//! again when it is released, and hands out the one with the longest idle time. For a statement that runs a thousand
//! times a second that adds two round trips each, on a server process with cold caches.

use crate::{OPERATION_TIMEOUT, PING_AFTER_IDLE, Result, timed_out};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// A batcher reuses at most one in this many of a pool's connections: the others are for all callers.
const CONNECTIONS_PER_BATCHER: usize = 8;

/// An operation on a connection. It leaves no transaction open.
pub(crate) type ConnectionFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'c>>;

/// A connection, and when it became idle.
type Idle = (PoolConnection<Postgres>, Instant);

/// The connections of a batcher. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct PooledConnections {
    pool: PgPool,
    /// The last one used is at the end, and is taken first.
    idle: Arc<Mutex<Vec<Idle>>>,
    idle_max: usize,
    /// The timeout of its operations.
    work_timeout: Duration,
}

impl PooledConnections {
    /// Creates the connections of a batcher with this many flushers; none are reused if the pool is too small for that.
    /// A closing pool waits for its connections, so they are released then. Call it within a runtime.
    pub(crate) fn new(pool: &PgPool, flushers: usize) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let max = if flushers * CONNECTIONS_PER_BATCHER <= connections { flushers } else { 0 };
        let pooled =
            Self { pool: pool.clone(), idle: Arc::default(), idle_max: max, work_timeout: OPERATION_TIMEOUT };
        let (closed, idle) = (pool.close_event(), Arc::downgrade(&pooled.idle));
        tokio::spawn(async move {
            closed.await;
            if let Some(idle) = idle.upgrade() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
        pooled
    }

    /// Sets another timeout than the default.
    pub(crate) fn with_timeout(self, work_max: Duration) -> Self {
        Self { work_timeout: work_max, ..self }
    }

    /// Runs an operation on a connection. If the operation fails, the connection returns to the pool, which handles it.
    /// If it times out, the connection is closed: the pool would first wait for the operation in progress.
    ///
    /// # Errors
    /// Those of the operation, and when there is no connection.
    pub(crate) async fn run<T>(
        &self,
        work: impl for<'c> FnOnce(&'c mut PgConnection) -> ConnectionFuture<'c, T>,
    ) -> Result<T> {
        // A connection that was idle too long is released before another is acquired: it may be the last one of the
        // pool.
        let pooled = self.idle().pop().filter(|(_, used)| used.elapsed() < PING_AFTER_IDLE);
        let mut connection = match pooled {
            Some((connection, _)) => connection,
            None => self.pool.acquire().await?,
        };
        let output = match timeout(self.work_timeout, work(&mut connection)).await {
            Ok(output) => output?,
            Err(_) => {
                connection.close_on_drop();
                return Err(timed_out().into());
            }
        };
        let mut idle = self.idle();
        if idle.len() < self.idle_max && !self.pool.is_closed() {
            idle.push((connection, Instant::now()));
        }
        Ok(output)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
