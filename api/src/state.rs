//! The state that the handlers share.

use crate::{
    answers::{CachedOrder, FirstResponse},
    cache::Cache,
    config::ServeArgs,
};
use secrecy::SecretString;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use waybill_domain::ids::{MerchantId, OrderId, RefundId, ReturnId};
use waybill_runtime::{
    args::Batching,
    temporal::{OrderStart, WorkflowClient},
};
use waybill_store::{
    PgPool,
    keys::Caller,
    orders::{OrderReader, acceptance::OrderAcceptor, outbox},
    postgres::notify::{ChangeListener, ChangeNotification},
};

/// The maximum number of orders that this process has started and that, as far as it knows, no worker has picked up; it
/// leaves further ones to the worker's outbox dispatcher. Temporal would accept and queue many more, but they would use
/// capacity that it needs for running workflows. At a tenth of a second each, this is a thousand orders a second.
const UNPICKED_STARTS_MAX: usize = 128;
/// After this time a start no longer holds its permit: the order's notification was lost, or there are no workers.
const PICKUP_WAIT_MAX: Duration = Duration::from_secs(10);
/// At most one in this many requests in flight waits for an order's outcome; the API responds to further ones with the
/// current state. While workers are unavailable, waiters stay until their timeout, and other requests must get through.
const REQUESTS_PER_WAITER: usize = 2;
/// The maximum number of cached API keys.
const CACHED_KEYS_MAX: u64 = 10_000;
/// Memory for cached orders, in bytes.
const ORDER_CACHE_BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// The lifetime of cached values that never change or are revalidated before use: most clients repeat a request soon.
const REVALIDATED_TTL: Duration = Duration::from_secs(600);
/// Memory for cached first responses, in bytes.
const FIRST_RESPONSE_BYTES_MAX: u64 = 32 * 1_024 * 1_024;
/// The interval between measurements of the backlog.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) type App = Arc<AppState>;

pub(crate) struct AppState {
    pub(crate) pool: PgPool,
    pub(crate) temporal: WorkflowClient,
    pub(crate) acceptance: OrderAcceptor,
    pub(crate) reader: OrderReader,
    pub(crate) changes: ChangeListener,
    /// Callers by the hash of their API key.
    pub(crate) key_cache: Cache<[u8; 32], Caller>,
    /// How long a cached value that may have changed is used without revalidation.
    pub(crate) cache_ttl: Duration,
    /// Orders as responses returned them.
    pub(crate) order_cache: Cache<OrderId, CachedOrder>,
    /// First responses to `POST /v1/orders`. They never change, so they are never invalidated.
    pub(crate) first_response_cache: Cache<(MerchantId, String), FirstResponse>,
    pub(crate) carrier_webhook_secret: SecretString,
    pub(crate) payment_webhook_secret: SecretString,
    /// Tasks that must complete before the process exits.
    pub(crate) tasks: TaskTracker,
    pub(crate) waiters: Semaphore,
    pub(crate) shutdown: CancellationToken,
    start_permits: Arc<Semaphore>,
    starting_orders: Mutex<HashMap<OrderId, StartingOrder>>,
    backlog_max: i64,
    overloaded: AtomicBool,
}

/// A started order; it holds a permit until a worker picks it up.
struct StartingOrder {
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

impl AppState {
    pub(crate) fn new(
        args: &ServeArgs,
        pool: PgPool,
        temporal: WorkflowClient,
        shutdown: CancellationToken,
    ) -> Self {
        let batched = args.common.grouping == Batching::On;
        let cache_ttl = Duration::from_secs(args.cache_seconds);
        let ttl = if cache_ttl.is_zero() { cache_ttl } else { REVALIDATED_TTL.max(cache_ttl) };
        Self {
            acceptance: OrderAcceptor::start(pool.clone(), batched),
            reader: OrderReader::start(pool.clone(), batched),
            changes: ChangeListener::listen(pool.clone()),
            key_cache: Cache::new(CACHED_KEYS_MAX, cache_ttl, |_, _| 1),
            order_cache: Cache::new(ORDER_CACHE_BYTES_MAX, ttl, |_, answer| answer.weight()),
            first_response_cache: Cache::new(FIRST_RESPONSE_BYTES_MAX, ttl, |_, first| first.weight()),
            cache_ttl,
            pool,
            temporal,
            carrier_webhook_secret: args.carrier_webhook_secret.clone(),
            payment_webhook_secret: args.payment_webhook_secret.clone(),
            tasks: TaskTracker::new(),
            waiters: Semaphore::new(args.in_flight_max / REQUESTS_PER_WAITER),
            shutdown,
            start_permits: Arc::new(Semaphore::new(UNPICKED_STARTS_MAX)),
            starting_orders: Mutex::default(),
            backlog_max: args.backlog_max,
            overloaded: AtomicBool::new(false),
        }
    }

    /// Returns whether more orders wait for a workflow than `backlog_max`, the backlog that Temporal can soon process.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Returns a permit to start one more order; none while too many starts have not been picked up.
    pub(crate) fn try_acquire_start(&self) -> Option<OwnedSemaphorePermit> {
        self.start_permits.clone().try_acquire_owned().ok()
    }

    /// Starts an accepted order's workflow in the background. If that fails, the outbox dispatcher retries it.
    pub(crate) fn spawn_start(self: &Arc<Self>, permit: OwnedSemaphorePermit, start: OrderStart) {
        let (app, order_id) = (self.clone(), start.order_id);
        app.lock_starting_orders().insert(order_id, StartingOrder { since: Instant::now(), _permit: permit });
        self.tasks.spawn(async move {
            if let Err(error) = app.temporal.start(&start).await {
                tracing::warn!(%order_id, %error, "failed to start the order workflow; the outbox dispatcher will retry");
                app.lock_starting_orders().remove(&order_id);
            }
        });
    }

    /// Invalidates a cached order older than `version`: a client that received `version` must not receive an older one.
    pub(crate) fn invalidate_older(&self, id: OrderId, version: i64) {
        if self.order_cache.get(&id).is_some_and(|answer| answer.version < version) {
            self.order_cache.invalidate(&id);
        }
    }

    fn lock_starting_orders(&self) -> MutexGuard<'_, HashMap<OrderId, StartingOrder>> {
        // Each update of the map is complete, so a poisoned lock is usable.
        self.starting_orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a return's workflow in the background. If that fails, the worker's outbox dispatcher retries it.
    pub(crate) fn spawn_start_return(&self, id: ReturnId, order_id: OrderId, merchant: MerchantId) {
        let Some(permit) = self.try_acquire_start() else { return };
        let workflow_client = self.temporal.clone();
        self.tasks.spawn(async move {
            if let Err(error) = workflow_client.start_return(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "failed to start the return workflow; the outbox dispatcher will retry");
            }
            drop(permit);
        });
    }

    /// Starts a refund's workflow in the background. If that fails, the worker's outbox dispatcher retries it.
    pub(crate) fn spawn_start_refund(&self, id: RefundId, order_id: OrderId, merchant: MerchantId) {
        let Some(permit) = self.try_acquire_start() else { return };
        let workflow_client = self.temporal.clone();
        self.tasks.spawn(async move {
            if let Err(error) = workflow_client.start_refund(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "failed to start the refund workflow; the outbox dispatcher will retry");
            }
            drop(permit);
        });
    }
}

/// Invalidates cached values that have changed, until the process ends.
pub(crate) async fn invalidate_on_changes(app: App) {
    let mut changes = app.changes.subscribe();
    loop {
        match changes.recv().await {
            Ok(ChangeNotification::Order(id)) => {
                app.order_cache.invalidate(&id);
                app.lock_starting_orders().remove(&id);
            }
            Ok(ChangeNotification::Keys) => app.key_cache.invalidate_all(),
            Ok(ChangeNotification::Unknown) | Err(RecvError::Lagged(_)) => {
                app.order_cache.invalidate_all();
                app.key_cache.invalidate_all();
                app.lock_starting_orders().clear();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Measures the backlog until the process ends.
pub(crate) async fn watch_backlog(app: App) {
    loop {
        // If a measurement fails, the last one remains in force.
        if let Ok((waiting, _)) = waybill_store::with_timeout(outbox::backlog(&app.pool)).await {
            app.overloaded.store(waiting > app.backlog_max, Ordering::Relaxed);
        }
        app.lock_starting_orders().retain(|_, order| order.since.elapsed() < PICKUP_WAIT_MAX);
        tokio::time::sleep(BACKLOG_INTERVAL).await;
    }
}
