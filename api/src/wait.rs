//! `Prefer: wait=N` (RFC 7240): an answer as soon as the order's fate is known, or with what is known by then.

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

/// The longest wait: below what proxies and clients usually allow a request.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a change is waited for that was just recorded, where the client does not say: a workflow task or two. So the
/// answer usually has it.
pub(crate) const CHANGE_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long the client would wait, if it said so.
pub(crate) fn parse_prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|part| part.trim().strip_prefix("wait=")?.trim_matches('"').parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Waits until `enough` holds for the order or the time is over, and reads the order. `changes` was subscribed to
/// before what is waited for was set going, so nothing is missed.
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
                // Too much happened to be told of it all: look.
                Ok(Err(RecvError::Lagged(_))) => break false,
                Ok(Err(RecvError::Closed)) | Err(_) => break true,
            }
        };
    }
}

/// Whether somebody who waits for a new order has an answer.
pub(crate) fn ends_wait(state: &OrderState) -> bool {
    state.status.ends_wait() || state.attention.is_some() || state.payment_action
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preference_is_read_and_bounded() {
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
