//! Control routes: a test or an operator moves labels on instead of the carrier.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tokio::sync::watch;

use super::model::Step;
use super::{AutoProgress, Shared};
use crate::exchange::{Reply, commit};

type Pace = watch::Sender<Option<AutoProgress>>;

pub(super) fn routes(pace: Pace) -> Router<Shared> {
    Router::new()
        .route("/_sim/labels/{reference}/{step}", post(take))
        .route("/_sim/auto", put(set_auto).layer(Extension(pace)))
}

async fn take(State(core): State<Shared>, Path((reference, step)): Path<(String, Step)>) -> Reply {
    commit(&core, None, |labels| step.take(labels, &reference))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delays {
    hand_over_after_ms: u64,
    deliver_after_ms: u64,
}

/// `null` disables automatic progress.
async fn set_auto(Extension(pace): Extension<Pace>, Json(delays): Json<Option<Delays>>) -> StatusCode {
    pace.send_replace(delays.map(|delays| AutoProgress {
        hand_over_after: Duration::from_millis(delays.hand_over_after_ms),
        deliver_after: Duration::from_millis(delays.deliver_after_ms),
    }));
    StatusCode::NO_CONTENT
}
