//! Reads of intents, refunds and disputes.

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::form::Form;
use super::model::{Dispute, Intent, Payments, Refund};
use super::{Shared, bad_parameter, missing_body, subject_of};
use crate::exchange::{OperationOutcome, Reply, SimRequest, run};
use crate::faults::Route;

const PAGE_DEFAULT: i64 = 10;
const PAGE_MAX: i64 = 100;
const OP: &str = "lookup";

/// Runs a read; nothing is written.
async fn respond_to_lookup<F>(core: Shared, requested: SimRequest, subject: &str, read: F) -> Response
where
    F: FnOnce(&Payments) -> (u16, Value) + Send + 'static,
{
    let decide = move |records: &Payments, _: &_| {
        let (status, body) = read(records);
        OperationOutcome::new(OP, status, body).without_stored_reply()
    };
    run(core, requested, Route::Read, subject, decide).await
}

pub(super) async fn intent(
    State(core): State<Shared>,
    Path(id): Path<String>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let expand = Form::parse(requested.query.as_bytes(), &["expand"])?.expands("latest_charge");
    let subject = subject_of(&core, &id);
    let read = move |records: &Payments| match records.intents.get(&id) {
        Some(intent) => (200, intent.json(expand)),
        None => (404, missing_body("payment_intent", &id)),
    };
    Ok(respond_to_lookup(core, requested, &subject, read).await)
}

pub(super) async fn refund(
    State(core): State<Shared>,
    Path(id): Path<String>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let subject = id.clone();
    let read = move |records: &Payments| match records.refunds.get(&id) {
        Some(refund) => (200, refund.json()),
        None => (404, missing_body("refund", &id)),
    };
    Ok(respond_to_lookup(core, requested, &subject, read).await)
}

pub(super) async fn dispute(
    State(core): State<Shared>,
    Path(id): Path<String>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let subject = id.clone();
    let read = move |records: &Payments| match records.disputes.get(&id) {
        Some(dispute) => (200, dispute.json()),
        None => (404, missing_body("dispute", &id)),
    };
    Ok(respond_to_lookup(core, requested, &subject, read).await)
}

/// A page of a list, newest first.
struct Page {
    limit: usize,
    after: Option<String>,
}

impl Page {
    fn parse(form: &Form) -> Result<Self, Reply> {
        let limit = form.integer("limit")?.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            let message = format!("limit must be between 1 and {PAGE_MAX}");
            return Err(bad_parameter("parameter_invalid_integer", "limit", &message));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self { limit, after: form.get("starting_after").map(str::to_owned) })
    }

    /// `newest_first` yields each row's id and JSON.
    fn of<'a>(&self, url: &str, newest_first: impl Iterator<Item = (&'a String, Value)>) -> Value {
        let after = self.after.as_ref();
        let older = newest_first.skip_while(|(id, _)| after.is_some_and(|after| *id >= after));
        let mut data: Vec<_> = older.map(|(_, row)| row).take(self.limit + 1).collect();
        let has_more = data.len() > self.limit;
        data.truncate(self.limit);
        json!({ "object": "list", "url": url, "data": data, "has_more": has_more })
    }
}

pub(super) async fn list_intents(
    State(core): State<Shared>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let form = Form::parse(requested.query.as_bytes(), &["limit", "starting_after", "created", "expand"])?;
    let page = Page::parse(&form)?;
    let not_before = form.integer("created[gte]")?.unwrap_or(i64::MIN);
    let not_after = form.integer("created[lte]")?.unwrap_or(i64::MAX);
    let expand = form.expands("data.latest_charge");
    let read = move |records: &Payments| {
        let wanted = |intent: &&Intent| (not_before..=not_after).contains(&intent.created);
        let rows = records.intents.values().rev().filter(wanted);
        (200, page.of("/v1/payment_intents", rows.map(|intent| (&intent.id, intent.json(expand)))))
    };
    Ok(respond_to_lookup(core, requested, &form.subject(), read).await)
}

pub(super) async fn list_refunds(
    State(core): State<Shared>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let form =
        Form::parse(requested.query.as_bytes(), &["limit", "starting_after", "payment_intent", "created"])?;
    let page = Page::parse(&form)?;
    let intent = form.get("payment_intent").map(str::to_owned);
    let not_before = form.integer("created[gte]")?.unwrap_or(i64::MIN);
    let read = move |records: &Payments| {
        let wanted = |refund: &&Refund| {
            refund.created >= not_before
                && intent.as_ref().is_none_or(|intent| *intent == refund.payment_intent)
        };
        let rows = records.refunds.values().rev().filter(wanted);
        (200, page.of("/v1/refunds", rows.map(|refund| (&refund.id, refund.json()))))
    };
    Ok(respond_to_lookup(core, requested, &form.subject(), read).await)
}

pub(super) async fn list_disputes(
    State(core): State<Shared>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let form = Form::parse(requested.query.as_bytes(), &["limit", "starting_after", "payment_intent"])?;
    let page = Page::parse(&form)?;
    let intent = form.get("payment_intent").map(str::to_owned);
    let read = move |records: &Payments| {
        let wanted =
            |dispute: &&Dispute| intent.as_ref().is_none_or(|intent| *intent == dispute.payment_intent);
        let rows = records.disputes.values().rev().filter(wanted);
        (200, page.of("/v1/disputes", rows.map(|dispute| (&dispute.id, dispute.json()))))
    };
    Ok(respond_to_lookup(core, requested, &form.subject(), read).await)
}

/// Unlike Stripe's search, this one sees every change immediately.
pub(super) async fn search_intents(
    State(core): State<Shared>,
    requested: SimRequest,
) -> Result<Response, Reply> {
    let form = Form::parse(requested.query.as_bytes(), &["query", "limit", "expand"])?;
    let query = form.require("query")?;
    let conditions = query.split(" AND ").map(condition).collect::<Option<Vec<_>>>();
    let conditions = conditions.ok_or_else(|| {
        bad_parameter("parameter_invalid", "query", "Only field:'value' with AND between is supported.")
    })?;
    let page = Page::parse(&form)?;
    let expand = form.expands("data.latest_charge");
    let read = move |records: &Payments| {
        let wanted = |intent: &&Intent| conditions.iter().all(|condition| condition.holds(intent));
        let rows = records.intents.values().rev().filter(wanted);
        let rows = rows.map(|intent| (&intent.id, intent.json(expand)));
        let mut body = page.of("/v1/payment_intents/search", rows);
        body["object"] = json!("search_result");
        body["next_page"] = Value::Null;
        (200, body)
    };
    Ok(respond_to_lookup(core, requested, &form.subject(), read).await)
}

enum Condition {
    Metadata { key: String, value: String },
    Status(String),
}

impl Condition {
    fn holds(&self, intent: &Intent) -> bool {
        match self {
            Self::Metadata { key, value } => intent.metadata.get(key) == Some(value),
            Self::Status(status) => json!(intent.status) == json!(status),
        }
    }
}

/// `metadata['key']:'value'` or `status:'value'`.
fn condition(text: &str) -> Option<Condition> {
    let (field, value) = text.trim().split_once(':')?;
    let value = unquote(value.trim())?;
    if field == "status" {
        return Some(Condition::Status(value));
    }
    let key = unquote(field.strip_prefix("metadata[")?.strip_suffix(']')?)?;
    Some(Condition::Metadata { key, value })
}

fn unquote(text: &str) -> Option<String> {
    let inside = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"')).map(str::to_owned)
}
