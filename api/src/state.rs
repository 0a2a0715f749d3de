//! What the handlers share.

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

/// Orders that this process has started and no worker is known to have taken up; what comes on top is left to the
/// worker's starter. Temporal would take many more, and keep them in a queue of its own, where they cost it the power that
/// it needs for those under way. At a tenth of a second each these are a thousand orders a second.
const STARTS_MAX: usize = 128;
/// After this long a start is no longer waited for: word of the order was lost, or there are no workers.
const TAKEN_UP_MAX: Duration = Duration::from_secs(10);
/// Of the requests under way at most one in so many waits for an order's fate; further ones are answered with what is
/// known. While workers are away they wait for as long as they may, and the others have to get through.
const WAITERS_SHARE: usize = 2;
/// Keys that are remembered at a time.
const CALLERS_MAX: u64 = 10_000;
/// Memory for orders as they were answered, in bytes.
const ANSWERS_BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// How long what never changes, or is compared before it is used, is remembered: who asks twice mostly does so soon.
const REMEMBERED_MAX: Duration = Duration::from_secs(600);
/// Memory for first answers, in bytes.
const REPLAYS_BYTES_MAX: u64 = 32 * 1_024 * 1_024;
/// How often the backlog is measured.
const BACKLOG_EVERY: Duration = Duration::from_secs(2);

pub(crate) type App = Arc<AppState>;

pub(crate) struct AppState {
    pub(crate) pool: PgPool,
    pub(crate) engine: Engine,
    pub(crate) acceptance: Acceptance,
    pub(crate) reader: Reader,
    pub(crate) changes: Changes,
    /// Who holds a key, by its hash.
    pub(crate) callers: Cache<[u8; 32], Caller>,
    /// For how long at most what may have changed is taken for true without a look.
    pub(crate) trusted_for: Duration,
    /// Orders as they were answered.
    pub(crate) answers: Cache<OrderId, Answer>,
    /// First answers to `POST /v1/orders`. They never change, so they are never forgotten.
    pub(crate) replays: Cache<(MerchantId, String), FirstAnswer>,
    pub(crate) carrier_webhook_secret: SecretString,
    pub(crate) payment_webhook_secret: SecretString,
    /// What has to end before the process does.
    pub(crate) tasks: TaskTracker,
    pub(crate) waiters: Semaphore,
    pub(crate) shutdown: CancellationToken,
    starts: Arc<Semaphore>,
    under_way: Mutex<HashMap<OrderId, UnderWay>>,
    backlog_max: i64,
    overloaded: AtomicBool,
}

/// An order that was started; it makes room when it is taken up.
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

    /// Whether more orders wait for a workflow than Temporal can soon catch up on.
    pub(crate) fn overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Room to start one more order; none while too many are under way.
    pub(crate) fn room_to_start(&self) -> Option<OwnedSemaphorePermit> {
        self.starts.clone().try_acquire_owned().ok()
    }

    /// Starts an accepted order's workflow in the background. Whatever goes wrong, the starter does it again.
    pub(crate) fn start_soon(self: &Arc<Self>, room: OwnedSemaphorePermit, start: Start) {
        let (app, order_id) = (self.clone(), start.order_id);
        app.under_way().insert(order_id, UnderWay { since: Instant::now(), _room: room });
        self.tasks.spawn(async move {
            if let Err(error) = app.engine.start(&start).await {
                tracing::warn!(%order_id, %error, "the workflow was not started; the starter will do it");
                app.under_way().remove(&order_id);
            }
        });
    }

    /// A client has been told of this version of an order, and is not told of an older one after it.
    pub(crate) fn seen(&self, id: OrderId, version: i64) {
        if self.answers.get(&id).is_some_and(|answer| answer.version < version) {
            self.answers.forget(&id);
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<OrderId, UnderWay>> {
        // Each change of it is whole.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a return's workflow in the background; whatever goes wrong, the worker's pump does it again.
    pub(crate) fn start_return_soon(&self, id: ReturnId, order_id: OrderId, merchant: MerchantId) {
        let Some(room) = self.room_to_start() else { return };
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.start_return(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "a return's workflow was not started; the pump will do it");
            }
            drop(room);
        });
    }

    /// Starts a refund's workflow in the background; whatever goes wrong, the worker's pump does it again.
    pub(crate) fn start_refund_soon(&self, id: RefundId, order_id: OrderId, merchant: MerchantId) {
        let Some(room) = self.room_to_start() else { return };
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            if let Err(error) = engine.start_refund(id, order_id, merchant).await {
                tracing::warn!(%order_id, %error, "a refund's workflow was not started; the pump will do it");
            }
            drop(room);
        });
    }
}

/// Forgets what has changed, for as long as the process lives.
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

/// Measures the backlog for as long as the process lives.
pub(crate) async fn watch_backlog(app: App) {
    loop {
        // While it can't be measured the last measure holds.
        if let Ok((waiting, _)) = waybill_store::in_time(starts::backlog(&app.pool)).await {
            app.overloaded.store(waiting > app.backlog_max, Ordering::Relaxed);
        }
        app.under_way().retain(|_, order| order.since.elapsed() < TAKEN_UP_MAX);
        tokio::time::sleep(BACKLOG_EVERY).await;
    }
}
