//! Control routes: a test or an operator plays the customers, the banks and the passing of time.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use super::captures::{AUTOMATIC, canceled};
use super::disputes::DisputeRequest;
use super::intents::{approved, declined, unexpected};
use super::model::{Decline, DisputeStatus, Intent, Item, Status};
use super::refunds::DashboardRefund;
use super::{AuthorizationLifetime, Shared, disputes, missing_body, refunds};
use crate::exchange::{OperationOutcome, Reply, commit};

pub(super) fn routes(hold: AuthorizationLifetime) -> Router<Shared> {
    Router::new()
        .route("/_sim/payment_intents/{id}/authenticate", post(authenticate))
        .route("/_sim/payment_intents/{id}/expire", post(expire))
        .route("/_sim/payment_intents/{id}/dispute", post(dispute))
        .route("/_sim/payment_intents/{id}/refund", post(refund))
        .route("/_sim/disputes/{id}/close", post(close_dispute))
        .route("/_sim/refunds/{id}/settle", post(settle_refund))
        .route("/_sim/refunds/{id}/fail", post(fail))
        .route("/_sim/hold", put(set_hold))
        .layer(Extension(hold))
}

fn change_intent(core: &Shared, id: &str, decide: impl FnOnce(Intent) -> OperationOutcome<Item>) -> Reply {
    commit(core, None, |records| match records.intents.get(id) {
        Some(intent) => decide(intent.clone()),
        None => OperationOutcome::new("control", 404, missing_body("payment_intent", id)),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Authentication {
    success: bool,
}

/// The customer passes or fails authentication. After a failure the intent requires another payment method.
async fn authenticate(
    Extension(hold): Extension<AuthorizationLifetime>,
    State(core): State<Shared>,
    Path(id): Path<String>,
    Json(authentication): Json<Authentication>,
) -> Reply {
    change_intent(&core, &id, |mut intent| {
        if intent.status != Status::RequiresAction {
            return unexpected("authenticate", &intent);
        }
        if authentication.success {
            intent.approve(hold.seconds());
            return approved("authenticate", intent, false);
        }
        let decline = Decline::authentication();
        intent.decline(decline.clone());
        let reply = Reply::new(200, intent.json(false));
        OperationOutcome { reply, ..declined("authenticate", intent, &decline) }
    })
}

/// The authorization expires.
async fn expire(State(core): State<Shared>, Path(id): Path<String>) -> Reply {
    change_intent(&core, &id, |intent| match intent.status {
        Status::RequiresCapture => canceled("expire", intent, Some(AUTOMATIC.to_owned()), false),
        _ => unexpected("expire", &intent),
    })
}

/// The customer disputes the charge.
async fn dispute(
    State(core): State<Shared>,
    Path(id): Path<String>,
    complaint: Option<Json<Option<DisputeRequest>>>,
) -> Reply {
    let complaint = complaint.and_then(|Json(complaint)| complaint).unwrap_or_default();
    commit(&core, None, |records| disputes::open(records, &id, complaint))
}

/// The merchant refunds in the provider's dashboard.
async fn refund(
    State(core): State<Shared>,
    Path(id): Path<String>,
    requested: Option<Json<Option<DashboardRefund>>>,
) -> Reply {
    let requested = requested.and_then(|Json(requested)| requested).unwrap_or_default();
    commit(&core, None, |records| refunds::from_dashboard(records, &id, &requested))
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Won,
    Lost,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisputeResolution {
    status: Verdict,
}

/// The bank decides a dispute.
async fn close_dispute(
    State(core): State<Shared>,
    Path(id): Path<String>,
    Json(closing): Json<DisputeResolution>,
) -> Reply {
    let status = match closing.status {
        Verdict::Won => DisputeStatus::Won,
        Verdict::Lost => DisputeStatus::Lost,
    };
    commit(&core, None, |records| disputes::close(records, &id, status))
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Succeeded,
    Failed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settlement {
    status: Outcome,
}

/// A pending refund succeeds or fails.
async fn settle_refund(
    State(core): State<Shared>,
    Path(id): Path<String>,
    Json(settlement): Json<Settlement>,
) -> Reply {
    let succeeded = matches!(settlement.status, Outcome::Succeeded);
    commit(&core, None, |records| refunds::settle_refund(records, &id, succeeded))
}

/// A refund fails, even after it had succeeded.
async fn fail(State(core): State<Shared>, Path(id): Path<String>) -> Reply {
    commit(&core, None, |records| refunds::fail(records, &id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldTime {
    seconds: i64,
}

async fn set_hold(
    Extension(hold): Extension<AuthorizationLifetime>,
    Json(time): Json<HoldTime>,
) -> StatusCode {
    hold.set(time.seconds);
    StatusCode::NO_CONTENT
}
