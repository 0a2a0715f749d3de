//! Connections that a group keeps between its statements.
//!
//! A pool asks a connection whether it is still there when it is taken and again when it is given back, and gives out the
//! one that rested longest. For a statement that is repeated a thousand times a second that is two more round trips each,
//! and a server process that has nothing of it in its caches.

use crate::{OPERATION_TIMEOUT, PING_AFTER_IDLE, Result, timed_out};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// At most one in so many of a pool's connections is pooled by one group: the others are for everybody.
const CONNECTIONS_PER_BATCHER: usize = 8;

/// What is done on a connection. It leaves no transaction open.
pub(crate) type ConnectionFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'c>>;

/// A connection, and since when it rests.
type Idle = (PoolConnection<Postgres>, Instant);

/// A group's connections. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct PooledConnections {
    pool: PgPool,
    /// The one that was used last comes last, and is taken first.
    idle: Arc<Mutex<Vec<Idle>>>,
    idle_max: usize,
    /// How long its work may take.
    work_timeout: Duration,
}

impl PooledConnections {
    /// For a group that has so many statements under way; none are pooled if the pool is too small for that. A pool that is
    /// closed waits for its connections, so they are given back then. Call it within a runtime.
    pub(crate) fn new(pool: &PgPool, lanes: usize) -> Self {
        let connections = pool.options().get_max_connections() as usize;
        let max = if lanes * CONNECTIONS_PER_BATCHER <= connections { lanes } else { 0 };
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

    /// With another limit to its work than what all have.
    pub(crate) fn with_timeout(self, work_max: Duration) -> Self {
        Self { work_timeout: work_max, ..self }
    }

    /// Does work on a connection. One that the work failed on is not pooled: the pool looks after it. One that it took too
    /// long on is closed: the pool would first wait for what is under way on it.
    ///
    /// # Errors
    /// Those of the work, and when there is no connection.
    pub(crate) async fn run<T>(
        &self,
        work: impl for<'c> FnOnce(&'c mut PgConnection) -> ConnectionFuture<'c, T>,
    ) -> Result<T> {
        // One that rested too long goes back before another is asked for: it may be the last that the pool has.
        let pooled = self.idle().pop().filter(|(_, used)| used.elapsed() < PING_AFTER_IDLE);
        let mut connection = match pooled {
            Some((connection, _)) => connection,
            None => self.pool.acquire().await?,
        };
        let done = match timeout(self.work_timeout, work(&mut connection)).await {
            Ok(done) => done?,
            Err(_) => {
                connection.close_on_drop();
                return Err(timed_out().into());
            }
        };
        let mut idle = self.idle();
        if idle.len() < self.idle_max && !self.pool.is_closed() {
            idle.push((connection, Instant::now()));
        }
        Ok(done)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
