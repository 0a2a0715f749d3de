//! Everything that is kept in Postgres, and the only place with SQL: one module per aggregate.
//!
//! "Not found" is `Ok(None)`; row counts are checked; a violated constraint that a caller can cause is an error of
//! its own, never a bare database error.

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

/// How long a caller waits for a free connection before it is told that Postgres is busy: long enough for a burst,
/// short enough for an HTTP client.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that rested longer is asked whether it is still there before it is used. Asking each time would be a round
/// trip more for every statement.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// A connection that does not answer that within this time is closed, and the next one asked: of a Postgres that is gone
/// without a word many may be left, and a caller waits no longer than [`ACQUIRE_WAIT_MAX`].
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// Work that takes longer is given up. Postgres ends a statement before that ([`STATEMENT_MAX`]), and of several only one
/// waits for locks for long. A server that is gone without a word ends nothing.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);
/// A statement that takes longer is ended by Postgres: nothing here is meant to take a tenth of it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// A transaction whose next statement does not come for so long is rolled back by Postgres. Only round trips lie between
/// two statements here: whoever began it is frozen or gone without a word, and others wait for its locks.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong with Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres is away, busy or refused the statement.
    #[error("the database could not do it")]
    Database(#[from] sqlx::Error),
    /// A row that this release can't read.
    #[error("{what} in the database can't be read")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The migrations could not be applied.
    #[error("the database could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// What befell a whole group befell each of its items.
    #[error(transparent)]
    BatchFailed(std::sync::Arc<StoreError>),
}

impl StoreError {
    fn corrupt(what: &'static str) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Corrupt { what, source }
    }

    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(_) => true,
            Self::BatchFailed(error) => error.is_transient(),
            Self::Corrupt { .. } | Self::Migrate(_) => false,
        }
    }

    /// Whether it is about what was to be written or read, and not about Postgres as a whole: the SQLSTATE classes 21
    /// to 23 (cardinality, data, integrity), or a row that can't be read.
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

/// What every function here returns.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Postgres did not do it in time.
fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Does work that goes on for as long as the process lives, again and again: it is not stopped by one answer that never
/// comes.
///
/// # Errors
/// Those of the work, and when it takes longer than Postgres may take for a statement.
pub async fn with_timeout<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(OPERATION_TIMEOUT, work).await.unwrap_or_else(|_| Err(timed_out().into()))
}

/// Turns a text or number of the database into a domain type.
fn parse<T, E>(what: &'static str, result: std::result::Result<T, E>) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.map_err(|e| StoreError::corrupt(what)(Box::new(e)))
}

/// A pool of at most `connections_max` connections. Connects lazily: the process starts with Postgres away.
///
/// # Errors
/// When the URL is not one of Postgres.
pub fn connect(url: &str, connections_max: u32) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?.application_name("waybill").options([
        ("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string()),
        // Everything here goes by key. A plan that was made when the tables were new and empty would read them whole,
        // and be kept until Postgres next analyses them.
        ("enable_seqscan", "off".to_owned()),
        // Lists are read in the order of an index and end with their page. A bitmap reads all that could be on any page
        // first: with millions of orders that is seconds.
        ("enable_bitmapscan", "off".to_owned()),
        // Nor is any worth several processes: to start them takes longer than a page, and they look cheap for an index that
        // has more than the page in it.
        ("max_parallel_workers_per_gather", "0".to_owned()),
        // So one plan does for whatever values. Left alone Postgres plans anew each time a list is given, which for
        // short statements costs as much as to run them.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        // No statement here is worth compiling, and with the above they look dear enough to.
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

/// Begins a transaction, also if the caller gives up meanwhile: it is rolled back then. `PgPool::begin` would give the
/// connection back with its transaction open, and whoever gets it next would write into that and see nothing of it kept
/// (sqlx 0.9.0, <https://github.com/transact-rs/sqlx/issues/4393>).
async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>> {
    let pool = pool.clone();
    #[expect(clippy::disallowed_methods, reason = "in a task of its own it is never given up")]
    let begun = tokio::spawn(async move { pool.begin().await }).await;
    Ok(begun.map_err(|_| sqlx::Error::WorkerCrashed)??)
}

/// Brings the schema up to this release. Safe to run from several processes at once: one does it, the others wait.
///
/// # Errors
/// When Postgres is away or a migration fails.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    // To build an index over millions of orders, or to wait for another process that does, takes as long as it takes.
    let mut connection = pool.acquire().await?.detach();
    sqlx::query("set statement_timeout = 0").execute(&mut connection).await?;
    sqlx::migrate!().run(&mut connection).await?;
    Ok(connection.close().await?)
}

/// Asks Postgres for a sign of life.
///
/// # Errors
/// When there is none.
pub async fn ping(pool: &PgPool) -> Result<()> {
    sqlx::query!("select 1 as one").fetch_one(pool).await?;
    Ok(())
}
