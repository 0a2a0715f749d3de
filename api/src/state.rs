//! The state that the handlers share.

use crate::{
    answers::{Answer, FirstAnswer},
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
    args::Grouping,
    engine::{Engine, Start},
};
use waybill_store::{
    PgPool,
    keys::Caller,
    orders::{Reader, acceptance::Acceptance, starts},
    postgres::notify::{Change, Changes},
};

/// The maximum number of orders that this process has started and that, as far as it knows, no worker has picked up; it
/// leaves further ones to the worker's outbox dispatcher. Temporal would accept and queue many more, but they would use
/// capacity that it needs for running workflows. At a tenth of a second each, this is a thousand orders a second.
const STARTS_MAX: usize = 128;
/// After this time a start no longer holds its permit: the order's notification was lost, or there are no workers.
const TAKEN_UP_MAX: Duration = Duration::from_secs(10);
/// At most one in this many requests in flight waits for an order's outcome; the API responds to further ones with the
/// current state. While workers are unavailable, waiters stay until their timeout, and other requests must get through.
const WAITERS_SHARE: usize = 2;
/// The maximum number of cached API keys.
const CALLERS_MAX: u64 = 10_000;
/// Memory for cached orders, in bytes.
const ANSWERS_BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// The lifetime of cached values that never change or are revalidated before use: most clients repeat a request soon.
const REMEMBERED_MAX: Duration = Duration::from_secs(600);
/// Memory for cached first responses, in bytes.
const REPLAYS_BYTES_MAX: u64 = 32 * 1_024 * 1_024;
/// The interval between measurements of the backlog.
const BACKLOG_EVERY: Duration = Duration::from_secs(2);

pub(crate) type App = Arc<AppState>;

pub(crate) struct AppState {
    pub(crate) pool: PgPool,
    pub(crate) engine: Engine,
    pub(crate) acceptance: Acceptance,
    pub(crate) reader: Reader,
    pub(crate) changes: Changes,
    /// Callers by the hash of their API key.
    pub(crate) callers: Cache<[u8; 32], Caller>,
    /// How long a cached value that may have changed is used without revalidation.
    pub(crate) trusted_for: Duration,
    /// Orders as responses returned them.
    pub(crate) answers: Cache<OrderId, Answer>,
    /// First responses to `POST /v1/orders`. They never change, so they are never invalidated.
    pub(crate) replays: Cache<(MerchantId, String), FirstAnswer>,
    pub(crate) carrier_webhook_secret: SecretString,
    pub(crate) payment_webhook_secret: SecretString,
    /// Tasks that must complete before the process exits.
    pub(crate) tasks: TaskTracker,
    pub(crate) waiters: Semaphore,
    pub(crate) shutdown: CancellationToken,
    starts: Arc<Semaphore>,
    under_way: Mutex<HashMap<OrderId, UnderWay>>,
    backlog_max: i64,
    overloaded: AtomicBool,
}

/// A started order; it holds a permit until a worker picks it up.
struct UnderWay {
    since: Instant,
    _room: OwnedSemaphorePermit,
}

impl AppState {
    pub(crate) fn new(args: &ServeArgs, pool: PgPool, engine: Engine, shutdown: CancellationToken) -> Self {
        let grouped = args.common.grouping == Grouping::On;
        let trusted_for = Duration::from_secs(args.cache_seconds);
        let remembered = if trusted_for.is_zero() { trusted_for } else { REMEMBERED_MAX.max(trusted_for) };
        Self {
            acceptance: Acceptance::start(pool.clone(), grouped),
            reader: Reader::start(pool.clone(), grouped),
            changes: Changes::listen(pool.clone()),
            callers: Cache::new(CALLERS_MAX, trusted_for, |_, _| 1),
            answers: Cache::new(ANSWERS_BYTES_MAX, remembered, |_, answer| answer.weight()),
            replays: Cache::new(REPLAYS_BYTES_MAX, remembered, |_, first| first.weight()),
            trusted_for,
            pool,
            engine,
            carrier_webhook_secret: args.carrier_webhook_secret.clone(),
            payment_webhook_secret: args.payment_webhook_secret.clone(),
            tasks: TaskTracker::new(),
            waiters: Semaphore::new(args.in_flight_max / WAITERS_SHARE),
            shutdown,
            starts: Arc::new(Semaphore::new(STARTS_MAX)),
            under_way: Mutex::default(),
            backlog_max: args.backlog_max,
            overloaded: AtomicBool::new(false),
        }
    }

    /// Returns whether more orders wait for a workflow than `backlog_max`, the backlog that Temporal can soon process.
    pub(crate) fn overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Returns a permit to start one more order; none while too many starts have not been picked up.
    pub(crate) fn room_to_start(&self) -> Option<OwnedSemaphorePermit> {
        self.starts.clone().try_acquire_owned().ok()
    }

    /// Starts an accepted order's workflow in the background. If that fails, the outbox dispatcher retries it.
    pub(crate) fn start_soon(self: &Arc<Self>, room: OwnedSemaphorePermit, start: Start) {
        let (app, order_id) = (self.clone(), start.order_id);
        app.under_way().insert(order_id, UnderWay { since: Instant::now(), _room: room });
        self.tasks.spawn(async move {
            if let Err(error) = app.engine.start(&start).await {
                tracing::warn!(%order_id, %error, "failed to start the order workflow; the outbox dispatcher will retry");
                app.under_way().remove(&order_id);
            }
        });
    }

    /// Invalidates a cached order older than `version`: a client that received `version` must not receive an older one.
    pub(crate) fn seen(&self, id: OrderId, version: i64) {
        if self.answers.get(&id).is_some_and(|answer| answer.version < version) {
            self.answers.forget(&id);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<OrderId, UnderWay>> {
        // Each update of the map is complete, so a poisoned lock is usable.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a return's workflow in the background. If that fails, the worker's outbox dispatcher retries it.
    pub(crate) fn start_return_soon(&self, id: ReturnId, order_id: OrderId, merchant: MerchantId) {
        let Some(room) = self.room_to_start() else { return };
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.start_return(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "failed to start the return workflow; the outbox dispatcher will retry");
            }
            drop(room);
        });
    }

    /// Starts a refund's workflow in the background. If that fails, the worker's outbox dispatcher retries it.
    pub(crate) fn start_refund_soon(&self, id: RefundId, order_id: OrderId, merchant: MerchantId) {
        let Some(room) = self.room_to_start() else { return };
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.start_refund(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "failed to start the refund workflow; the outbox dispatcher will retry");
            }
            drop(room);
        });
    }
}

/// Invalidates cached values that have changed, until the process ends.
pub(crate) async fn forget_changed(app: App) {
    let mut changes = app.changes.subscribe();
    loop {
        match changes.recv().await {
            Ok(Change::Order(id)) => {
                app.answers.forget(&id);
                app.under_way().remove(&id);
            }
            Ok(Change::Keys) => app.callers.forget_all(),
            Ok(Change::Anything) | Err(RecvError::Lagged(_)) => {
                app.answers.forget_all();
                app.callers.forget_all();
                app.under_way().clear();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Measures the backlog until the process ends.
pub(crate) async fn watch_backlog(app: App) {
    loop {
        // If a measurement fails, the last one remains in force.
        if let Ok((waiting, _)) = waybill_store::in_time(starts::backlog(&app.pool)).await {
            app.overloaded.store(waiting > app.backlog_max, Ordering::Relaxed);
        }
        app.under_way().retain(|_, order| order.since.elapsed() < TAKEN_UP_MAX);
        tokio::time::sleep(BACKLOG_EVERY).await;
    }
}
