//! Persistence in Postgres, and the only crate with SQL: one folder per aggregate. "Not found" is `Ok(None)`; row
//! counts are checked; a constraint violation that a caller can cause is a separate error, never a bare database error.

pub mod batched_writers;
pub mod housekeeping;
pub mod inbox;
pub mod keys;
pub mod orders;
pub mod payments;
pub mod postgres;
pub mod refunds;
pub mod returns;
pub mod shipments;
pub mod stock;

use sqlx::{
    Connection as _, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{future::Future, str::FromStr, time::Duration};
use tokio::time::timeout;

pub use sqlx::PgPool;

/// The maximum time that a caller waits for a pooled connection before the call fails because Postgres is busy: long
/// enough for a burst, short enough for an HTTP client.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// The pool pings a connection before use if it was idle for longer than this. A ping before every use would add a
/// round trip to every statement.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// If a connection does not respond to the ping within this time, the pool closes it and pings the next one: when
/// Postgres has disappeared without closing its connections, many may be left, and a caller waits no longer than
/// [`ACQUIRE_TIMEOUT`].
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// An operation that takes longer fails. Postgres cancels a statement before that ([`STATEMENT_TIMEOUT`]), and of
/// several statements only one waits long for locks. A server that has disappeared without closing the connection
/// cancels nothing.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// Postgres cancels a statement that takes longer: no statement here should take a tenth of it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Postgres rolls back a transaction that is idle for longer. Only round trips separate two statements here, so the
/// client is frozen or has disappeared, and other transactions wait for its locks.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is unavailable or busy, or rejected the statement.
    #[error("database query failed")]
    Database(#[from] sqlx::Error),
    /// This release cannot read a row.
    #[error("invalid {what} in the database")]
    Corrupt {
        /// The value.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The migrations could not be applied.
    #[error("database migration failed")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The whole batch failed, and with it each of its items.
    #[error(transparent)]
    BatchFailed(std::sync::Arc<StoreError>),
}

impl StoreError {
    fn corrupt(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Corrupt { what, source }
    }

    /// Returns whether a later retry may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(_) => true,
            Self::BatchFailed(error) => error.is_transient(),
            Self::Corrupt { .. } | Self::Migrate(_) => false,
        }
    }

    /// Returns whether the error is caused by the data written or read, and not by Postgres as a whole: the SQLSTATE
    /// classes 21 to 23 (cardinality, data, integrity), or a row that cannot be parsed.
    pub(crate) fn is_item_error(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database(error) => error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| ["21", "22", "23"].iter().any(|class| code.starts_with(class))),
            Self::BatchFailed(_) | Self::Migrate(_) => false,
        }
    }
}

/// The result of every function of this crate.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The error of an operation that timed out.
fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Runs one iteration of a loop that lasts as long as the process, with a timeout, so that one missing response does
/// not block the loop.
///
/// # Errors
/// Those of the work, and a timeout when it takes longer than Postgres allows for a statement.
pub async fn with_timeout<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(OPERATION_TIMEOUT, work).await.unwrap_or_else(|_| Err(timed_out().into()))
}

/// Converts a text or number from the database to a domain type.
fn parse<T, E>(what: &'static str, result: std::result::Result<T, E>) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.map_err(|e| StoreError::corrupt(what)(Box::new(e)))
}

/// Creates a pool of at most `connections_max` connections. It connects lazily, so the process starts while Postgres is
/// unavailable.
///
/// # Errors
/// When the URL is not a Postgres URL.
pub fn connect(url: &str, connections_max: u32) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?.application_name("waybill").options([
        ("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string()),
        // Every statement here uses an index. A plan that Postgres made when the tables were new and empty would scan
        // them sequentially, and Postgres would cache it until the next analyze.
        ("enable_seqscan", "off".to_owned()),
        // Lists read in index order and stop at the end of the page. A bitmap scan first reads all rows that could be
        // on any page: with millions of orders that takes seconds.
        ("enable_bitmapscan", "off".to_owned()),
        // No statement is worth parallel workers: starting them takes longer than reading a page, and the planner
        // underestimates their cost for an index that has more than the page in it.
        ("max_parallel_workers_per_gather", "0".to_owned()),
        // With these settings one plan fits all values. By default Postgres replans each time a list is passed, which
        // for short statements takes as long as running them.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        // No statement here is worth compiling, but with these settings the planner estimates some as expensive enough
        // for JIT.
        ("jit", "off".to_owned()),
    ]);
    Ok(PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                if metadata.idle_for >= PING_AFTER_IDLE {
                    timeout(PING_TIMEOUT, connection.ping()).await.map_err(|_| timed_out())??;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// Begins a transaction in a separate task, so that it is rolled back if the caller is cancelled in the meantime.
/// `PgPool::begin` would return the connection to the pool with its transaction open: the next user would write into
/// that transaction, and none of its writes would be committed (sqlx 0.9.0,
/// <https://github.com/transact-rs/sqlx/issues/4393>).
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>> {
    let pool = pool.clone();
    #[expect(clippy::disallowed_methods, reason = "a separate task is never cancelled")]
    let begun = tokio::spawn(async move { pool.begin().await }).await;
    Ok(begun.map_err(|_| sqlx::Error::WorkerCrashed)??)
}

/// Applies the migrations of this release. Several processes may call it concurrently: one migrates, the others wait.
///
/// # Errors
/// When Postgres is unavailable or a migration fails.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    // Building an index over millions of orders, or waiting for another process that does, has no time limit.
    let mut connection = pool.acquire().await?.detach();
    sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
    sqlx::migrate!().run(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Checks that Postgres responds.
///
/// # Errors
/// When it does not respond.
pub async fn ping(pool: &PgPool) -> Result<()> {
    sqlx::query!("select 1 as one").fetch_one(pool).await?;
    Ok(())
}
