//! `POST /v1/shipments/{id}/events`: the carrier's webhook, signed by Standard Webhooks.

use super::{accepted_response, deliver_if_new};
use crate::{
    extract::{JsonBody, PathParam, RawBody, header},
    json::DuplicateKeys,
    problem::{FieldError, Problem},
    state::App,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;
use standardwebhooks::Webhook;
use waybill_domain::ids::ShipmentId;
use waybill_store::inbox::{self, Message};
use waybill_workflows::payloads::{ShipmentEvent, ShipmentEventKind};

/// The signal that delivers the event to the order's workflow.
const SIGNAL: &str = "shipment_event";

/// The carrier's event. Carriers add fields; unknown ones are ignored.
#[derive(Debug, Deserialize)]
struct Body {
    #[serde(rename = "type")]
    kind: String,
    reference: ShipmentId,
}

pub(crate) async fn handler(
    State(app): State<App>,
    PathParam(id): PathParam<ShipmentId>,
    headers: HeaderMap,
    RawBody(bytes): RawBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let webhook = Webhook::new(app.carrier_webhook_secret.expose_secret()).map_err(|_| {
        tracing::error!("WAYBILL_CARRIER_WEBHOOK_SECRET is not a Standard Webhooks secret (whsec_…)");
        Problem::internal()
    })?;
    webhook.verify(&bytes, &headers).map_err(|_| {
        Problem::bad_signature(
            "sign with the shared secret (Standard Webhooks); the timestamp must be within 5 minutes",
        )
    })?;
    let body = JsonBody::<Body>::parse(&bytes, DuplicateKeys::LastWins)?.value;
    if body.reference != id {
        let detail = "must be the shipment in the path".to_owned();
        return Err(Problem::invalid(vec![FieldError { pointer: "/reference".into(), detail }]));
    }
    let Some(kind) = parse_kind(&body.kind) else { return Ok(accepted_response("ignored")) };
    let event_id = header(&headers, "webhook-id").unwrap_or_default().to_owned();
    let event = ShipmentEvent { shipment_id: id, kind, event_id: event_id.clone() };
    let payload = serde_json::to_value(&event).map_err(|_| Problem::internal())?;
    let stored = inbox::store_for_shipment(&app.pool, id, &event_id, SIGNAL, &payload)
        .await?
        .ok_or_else(|| Problem::not_found("shipment"))?;
    let message = Message {
        source: "carrier".into(),
        event_id,
        order_id: stored.order_id,
        signal: SIGNAL.into(),
        payload,
    };
    deliver_if_new(&app, message, stored.is_new).await
}

fn parse_kind(name: &str) -> Option<ShipmentEventKind> {
    Some(match name {
        "shipment.handed_over" => ShipmentEventKind::HandedOver,
        "shipment.delivered" => ShipmentEventKind::Delivered,
        "shipment.lost" => ShipmentEventKind::Lost,
        "shipment.cancelled" => ShipmentEventKind::Cancelled,
        "shipment.returned" => ShipmentEventKind::Returned,
        _ => return None,
    })
}
