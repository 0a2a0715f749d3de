//! What the handlers share.

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

/// Orders that this process has started and no worker is known to have taken up; what comes on top is left to the
/// worker's starter. Temporal would take many more, and keep them in a queue of its own, where they cost it the power that
/// it needs for those under way. At a tenth of a second each these are a thousand orders a second.
const UNPICKED_STARTS_MAX: usize = 128;
/// After this long a start is no longer waited for: word of the order was lost, or there are no workers.
const PICKUP_WAIT_MAX: Duration = Duration::from_secs(10);
/// Of the requests under way at most one in so many waits for an order's fate; further ones are answered with what is
/// known. While workers are away they wait for as long as they may, and the others have to get through.
const REQUESTS_PER_WAITER: usize = 2;
/// Keys that are remembered at a time.
const CACHED_KEYS_MAX: u64 = 10_000;
/// Memory for orders as they were answered, in bytes.
const ORDER_CACHE_BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// How long what never changes, or is compared before it is used, is remembered: who asks twice mostly does so soon.
const REVALIDATED_TTL: Duration = Duration::from_secs(600);
/// Memory for first answers, in bytes.
const FIRST_RESPONSE_BYTES_MAX: u64 = 32 * 1_024 * 1_024;
/// How often the backlog is measured.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) type App = Arc<AppState>;

pub(crate) struct AppState {
    pub(crate) pool: PgPool,
    pub(crate) engine: WorkflowClient,
    pub(crate) acceptance: OrderAcceptor,
    pub(crate) reader: OrderReader,
    pub(crate) changes: ChangeListener,
    /// Who holds a key, by its hash.
    pub(crate) key_cache: Cache<[u8; 32], Caller>,
    /// For how long at most what may have changed is taken for true without a look.
    pub(crate) cache_ttl: Duration,
    /// Orders as they were answered.
    pub(crate) order_cache: Cache<OrderId, CachedOrder>,
    /// First answers to `POST /v1/orders`. They never change, so they are never forgotten.
    pub(crate) first_response_cache: Cache<(MerchantId, String), FirstResponse>,
    pub(crate) carrier_webhook_secret: SecretString,
    pub(crate) payment_webhook_secret: SecretString,
    /// What has to end before the process does.
    pub(crate) tasks: TaskTracker,
    pub(crate) waiters: Semaphore,
    pub(crate) shutdown: CancellationToken,
    start_permits: Arc<Semaphore>,
    starting_orders: Mutex<HashMap<OrderId, StartingOrder>>,
    backlog_max: i64,
    overloaded: AtomicBool,
}

/// An order that was started; it makes room when it is taken up.
struct StartingOrder {
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

impl AppState {
    pub(crate) fn new(
        args: &ServeArgs,
        pool: PgPool,
        engine: WorkflowClient,
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
            engine,
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

    /// Whether more orders wait for a workflow than Temporal can soon catch up on.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Room to start one more order; none while too many are under way.
    pub(crate) fn try_acquire_start(&self) -> Option<OwnedSemaphorePermit> {
        self.start_permits.clone().try_acquire_owned().ok()
    }

    /// Starts an accepted order's workflow in the background. Whatever goes wrong, the starter does it again.
    pub(crate) fn spawn_start(self: &Arc<Self>, permit: OwnedSemaphorePermit, start: OrderStart) {
        let (app, order_id) = (self.clone(), start.order_id);
        app.lock_starting_orders().insert(order_id, StartingOrder { since: Instant::now(), _permit: permit });
        self.tasks.spawn(async move {
            if let Err(error) = app.engine.start(&start).await {
                tracing::warn!(%order_id, %error, "the workflow was not started; the starter will do it");
                app.lock_starting_orders().remove(&order_id);
            }
        });
    }

    /// A client has been told of this version of an order, and is not told of an older one after it.
    pub(crate) fn invalidate_older(&self, id: OrderId, version: i64) {
        if self.order_cache.get(&id).is_some_and(|answer| answer.version < version) {
            self.order_cache.invalidate(&id);
        }
    }

    fn lock_starting_orders(&self) -> MutexGuard<'_, HashMap<OrderId, StartingOrder>> {
        // Each change of it is whole.
        self.starting_orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a return's workflow in the background; whatever goes wrong, the worker's pump does it again.
    pub(crate) fn spawn_start_return(&self, id: ReturnId, order_id: OrderId, merchant: MerchantId) {
        let Some(permit) = self.try_acquire_start() else { return };
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.start_return(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "a return's workflow was not started; the pump will do it");
            }
            drop(permit);
        });
    }

    /// Starts a refund's workflow in the background; whatever goes wrong, the worker's pump does it again.
    pub(crate) fn spawn_start_refund(&self, id: RefundId, order_id: OrderId, merchant: MerchantId) {
        let Some(permit) = self.try_acquire_start() else { return };
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.start_refund(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "a refund's workflow was not started; the pump will do it");
            }
            drop(permit);
        });
    }
}

/// Forgets what has changed, for as long as the process lives.
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

/// Measures the backlog for as long as the process lives.
pub(crate) async fn watch_backlog(app: App) {
    loop {
        // While it can't be measured the last measure holds.
        if let Ok((waiting, _)) = waybill_store::with_timeout(outbox::backlog(&app.pool)).await {
            app.overloaded.store(waiting > app.backlog_max, Ordering::Relaxed);
        }
        app.lock_starting_orders().retain(|_, order| order.since.elapsed() < PICKUP_WAIT_MAX);
        tokio::time::sleep(BACKLOG_INTERVAL).await;
    }
}
