//! `Prefer: wait=N` (RFC 7240): a response as soon as the order's outcome is determined, or with the order's state
//! after N seconds.

use crate::{problem::Problem, state::App};
use axum::http::HeaderMap;
use std::time::Duration;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};
use waybill_domain::{ids::OrderId, state::OrderState};
use waybill_store::{
    orders::{self, OrderRecord},
    postgres::notify::ChangeNotification,
};

/// The longest wait: below the usual request timeouts of proxies and clients.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a handler waits for the effect of a request if the client does not specify it: one or two workflow tasks,
/// so the response usually includes the change.
pub(crate) const CHANGE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Returns how long the client is willing to wait, if it specifies that.
pub(crate) fn parse_prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|part| part.trim().strip_prefix("wait=")?.trim_matches('"').parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Waits until `condition` is true for the order or the time has elapsed, and reads the order. The caller subscribes to
/// `changes` before it starts the operation that it waits for, so no change is missed.
pub(crate) async fn wait_for_order(
    app: &App,
    id: OrderId,
    limit: Duration,
    mut changes: Receiver<ChangeNotification>,
    condition: impl Fn(&OrderState) -> bool,
) -> Result<OrderRecord, Problem> {
    let deadline = Instant::now() + limit;
    let permit = app.waiters.try_acquire();
    let mut is_over = permit.is_err();
    loop {
        let record = orders::get(&app.pool, id).await?.ok_or_else(|| Problem::not_found("order"))?;
        if is_over || condition(&record.state) {
            return Ok(record);
        }
        is_over = loop {
            let changed = tokio::select! {
                changed = timeout_at(deadline, changes.recv()) => changed,
                () = app.shutdown.cancelled() => break true,
            };
            match changed {
                Ok(Ok(ChangeNotification::Order(changed))) if changed == id => break false,
                Ok(Ok(ChangeNotification::Unknown)) => break false,
                Ok(Ok(_)) => {}
                // Notifications were dropped: read the order.
                Ok(Err(RecvError::Lagged(_))) => break false,
                Ok(Err(RecvError::Closed)) | Err(_) => break true,
            }
        };
    }
}

/// Returns whether the state ends a client's wait for a new order.
pub(crate) fn ends_wait(state: &OrderState) -> bool {
    state.status.ends_wait() || state.attention.is_some() || state.payment_action
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefer_wait_is_parsed_and_bounded() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            parse_prefer_wait(&headers)
        };
        assert_eq!(headers("respond-async, wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(headers("wait=9999"), Some(WAIT_MAX));
        assert_eq!(headers("wait=soon"), None);
    }
}
