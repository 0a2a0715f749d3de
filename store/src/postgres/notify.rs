//! Waking those who wait for an order, and those who remember how one was: Postgres' `LISTEN` and `NOTIFY`.
//!
//! `NOTIFY` takes a lock on the whole server at commit, so it is never part of a workflow's transaction: changes are
//! gathered for a moment and told in one notification. It is only ever a hint: who waits reads the order again, and
//! at its deadline reads it once more whether it was woken or not; who remembers does so for some seconds at most.

use crate::{ACQUIRE_TIMEOUT, Result, timed_out, with_timeout};
use sqlx::{PgConnection, PgPool, postgres::PgListener};
use std::time::Duration;
use tokio::{
    sync::{broadcast, mpsc},
    time::timeout,
};
use waybill_domain::ids::OrderId;

const CHANNEL: &str = "waybill_orders";
const KEYS_CHANNEL: &str = "waybill_keys";
/// A notification's payload may have 8,000 bytes (Postgres' manual, NOTIFY); an id takes 37.
const IDS_MAX: usize = 200;
/// How long changes are gathered before they are told, so that a busy worker's share a notification: short against what
/// the change itself took.
const LINGER: Duration = Duration::from_millis(10);
/// Changes that wait to be told. When it is full, further ones are dropped: waiters still have their deadlines.
const PENDING_CHANGES_MAX: usize = 10_000;
/// Waiters' queue: one that lags this far behind is told so, and reads its order again.
const SUBSCRIBER_QUEUE_MAX: usize = 4_096;
/// Pause before listening again after the connection was lost.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// When nothing was heard for so long, the connection is asked whether it is still there: who only listens would never
/// notice that the other side is gone without a word.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);

/// Tells others of changed orders.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<OrderId>);

impl Notifier {
    /// Starts the task that tells. It ends when the last clone is dropped.
    pub fn start(pool: PgPool) -> Self {
        let (sender, mut queue) = mpsc::channel(PENDING_CHANGES_MAX);
        tokio::spawn(async move {
            let mut ids = Vec::with_capacity(IDS_MAX);
            while queue.recv_many(&mut ids, IDS_MAX).await > 0 {
                tokio::time::sleep(LINGER).await;
                while ids.len() < IDS_MAX
                    && let Ok(id) = queue.try_recv()
                {
                    ids.push(id);
                }
                let payload = ids.drain(..).map(|id: OrderId| id.to_string()).collect::<Vec<_>>().join(" ");
                let told = sqlx::query!("select pg_notify($1, $2)", CHANNEL, payload).execute(&pool);
                if let Err(error) = with_timeout(async { Ok(told.await?) }).await {
                    tracing::warn!(%error, "changed orders could not be announced; waiters will read them late");
                }
            }
        });
        Self(sender)
    }

    /// An order changed. Never waits.
    pub fn notify_order(&self, order: OrderId) {
        // A full queue loses a hint, not a change.
        let _ = self.0.try_send(order);
    }
}

/// Tells that keys were revoked, when the transaction commits: keys are revoked rarely.
pub(crate) async fn notify_keys(tx: &mut PgConnection) -> Result<()> {
    sqlx::query!("select pg_notify($1, '')", KEYS_CHANNEL).execute(tx).await?;
    Ok(())
}

/// Tells that an order changed, when the transaction commits: for what is recorded of orders now and then, beside their
/// workflows.
pub(crate) async fn notify_order_in_tx(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, order.to_string()).execute(tx).await?;
    Ok(())
}

/// What is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeNotification {
    /// Something new is told of an order.
    Order(OrderId),
    /// An API key was revoked.
    Keys,
    /// Nobody listened for a while: anything may have changed.
    Unknown,
}

/// Hears of changes: one connection per process, however many wait.
#[derive(Debug, Clone)]
pub struct ChangeListener(broadcast::Sender<ChangeNotification>);

impl ChangeListener {
    /// Starts the task that listens. It connects again for as long as the process lives.
    pub fn listen(pool: PgPool) -> Self {
        let (sender, _) = broadcast::channel(SUBSCRIBER_QUEUE_MAX);
        let changes = Self(sender.clone());
        tokio::spawn(async move {
            loop {
                if let Err(error) = forward_notifications(&pool, &sender).await {
                    tracing::warn!(%error, "listening for changes was interrupted");
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        });
        changes
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<ChangeNotification> {
        self.0.subscribe()
    }
}

async fn forward_notifications(pool: &PgPool, sender: &broadcast::Sender<ChangeNotification>) -> Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    // It says that its connection was lost before it gets another one: what was missed has to be told.
    listener.eager_reconnect(false);
    with_timeout(async { Ok(listener.listen_all([CHANNEL, KEYS_CHANNEL]).await?) }).await?;
    // Nobody may be waiting just now.
    let _ = sender.send(ChangeNotification::Unknown);
    // It would connect again by itself, and say nothing of what was missed.
    loop {
        let notification = match timeout(KEEPALIVE_AFTER, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => notification,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let asked = sqlx::query!("select 1 as one").fetch_one(&mut listener);
                timeout(ACQUIRE_TIMEOUT, asked).await.map_err(|_| timed_out())??;
                continue;
            }
        };
        if notification.channel() == KEYS_CHANNEL {
            let _ = sender.send(ChangeNotification::Keys);
            continue;
        }
        for id in notification.payload().split(' ').filter_map(|id| id.parse().ok()) {
            let _ = sender.send(ChangeNotification::Order(id));
        }
    }
}
