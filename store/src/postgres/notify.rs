//! Notifies waiting requests and caches of changed orders, with Postgres' `LISTEN` and `NOTIFY`. A notification is only
//! a hint: a waiting request reads the order again, and at its deadline reads it in any case; a cache entry expires
//! after some seconds anyway.

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
/// How long changes are collected before they are sent, so that those of a busy worker share a notification: short
/// compared with the change itself. `NOTIFY` takes a lock on the whole server at commit, so it is never part of a
/// workflow's transaction.
const LINGER: Duration = Duration::from_millis(10);
/// Changes that wait to be sent. When the queue is full, further ones are dropped: waiting requests still have their
/// deadlines.
const PENDING_CHANGES_MAX: usize = 10_000;
/// The queue of a subscriber: one that lags this far behind is notified of it, and reads its order again.
const SUBSCRIBER_QUEUE_MAX: usize = 4_096;
/// Delay before reconnecting after the connection was lost.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// If no notification arrives for this long, the listener pings its connection: a connection that only receives would
/// never detect that the server has disappeared without closing it.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);

/// Notifies other processes of changed orders.
#[derive(Debug, Clone)]
pub struct Notifier(mpsc::Sender<OrderId>);

impl Notifier {
    /// Starts the task that sends. It ends when the last clone is dropped.
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
                let notify = sqlx::query!("select pg_notify($1, $2)", CHANNEL, payload).execute(&pool);
                if let Err(error) = with_timeout(async { Ok(notify.await?) }).await {
                    tracing::warn!(%error, "failed to notify of order changes; long-polling requests will see them late");
                }
            }
        });
        Self(sender)
    }

    /// Queues the change of an order. Never waits.
    pub fn notify_order(&self, order: OrderId) {
        // A full queue loses a hint, not a change.
        let _ = self.0.try_send(order);
    }
}

/// Notifies of revoked keys when the transaction commits: keys are revoked rarely.
pub(crate) async fn notify_keys(tx: &mut PgConnection) -> Result<()> {
    sqlx::query!("select pg_notify($1, '')", KEYS_CHANNEL).execute(tx).await?;
    Ok(())
}

/// Notifies of a changed order when the transaction commits: for infrequent changes that are not made by the order's
/// workflow.
pub(crate) async fn notify_order_in_tx(tx: &mut PgConnection, order: OrderId) -> Result<()> {
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, order.to_string()).execute(tx).await?;
    Ok(())
}

/// A received notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeNotification {
    /// The order has new events.
    Order(OrderId),
    /// An API key was revoked.
    Keys,
    /// The connection was interrupted: anything may have changed.
    Unknown,
}

/// Receives changes: one connection per process, for any number of subscribers.
#[derive(Debug, Clone)]
pub struct ChangeListener(broadcast::Sender<ChangeNotification>);

impl ChangeListener {
    /// Starts the task that listens. It reconnects for as long as the process lives.
    pub fn listen(pool: PgPool) -> Self {
        let (sender, _) = broadcast::channel(SUBSCRIBER_QUEUE_MAX);
        let changes = Self(sender.clone());
        tokio::spawn(async move {
            loop {
                if let Err(error) = forward_notifications(&pool, &sender).await {
                    tracing::warn!(%error, "LISTEN connection lost; reconnecting");
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        });
        changes
    }

    /// Subscribes to changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<ChangeNotification> {
        self.0.subscribe()
    }
}

async fn forward_notifications(pool: &PgPool, sender: &broadcast::Sender<ChangeNotification>) -> Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    // Then the listener reports a lost connection before it reconnects, and the subscribers learn that they missed
    // changes.
    listener.eager_reconnect(false);
    with_timeout(async { Ok(listener.listen_all([CHANNEL, KEYS_CHANNEL]).await?) }).await?;
    // There may be no subscriber at the moment.
    let _ = sender.send(ChangeNotification::Unknown);
    // With `recv` the listener would reconnect without reporting the missed notifications.
    loop {
        let notification = match timeout(KEEPALIVE_AFTER, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => notification,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let ping = sqlx::query!("select 1 as one").fetch_one(&mut listener);
                timeout(ACQUIRE_TIMEOUT, ping).await.map_err(|_| timed_out())??;
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
