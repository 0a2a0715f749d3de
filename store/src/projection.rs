//! The read model of an order after it was accepted. What the order's workflow decides is written by [`apply`], in one
//! idempotent transaction. What it does not decide (refunds, returns, disputes, drift, an operator's word) is appended
//! to the timeline by whoever records it, in the transaction that records it ([`append`]).

use crate::{Result, StoreError, notify, parse};
use sqlx::{PgConnection, PgPool, types::Json};
use waybill_domain::{
    event::{Entry, OrderEvent},
    ids::OrderId,
    state::OrderState,
    status::OrderStatus,
};

/// The order's workflow, as the writer of an entry.
const WORKFLOW: &str = "order";

/// What a projection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The number of the last of the entries: what the next ones are told behind.
    pub version: i64,
    /// The statuses that the order entered; none at all if it was a repetition, and nothing was written.
    pub entered: Option<Vec<OrderStatus>>,
}

/// Appends entries and takes over the state, once. `base_version` is what the workflow last knew.
///
/// What was told before is not told again: entries behind `base_version` that are already there are skipped, so a
/// repetition writes nothing and answers as before. They can also be the beginning of another story: a workflow task
/// that was lost after its projection, and took another way when it was run again. Then the rest is appended behind
/// what is there: the workflow is the only writer, so what it says last is right, and nothing that a reader may have
/// seen is taken back.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn apply(
    pool: &PgPool,
    id: OrderId,
    base_version: i64,
    entries: &[Entry],
    state: &OrderState,
) -> Result<Applied> {
    let rows = rows(entries)?;
    let mut tx = pool.begin().await?;
    let before = sqlx::query!("select version, status from orders where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    let (version, status_before) = (before.version, before.status);
    let (told, last) = if version > base_version {
        told(&mut tx, id, base_version, &rows).await?
    } else {
        (0, base_version)
    };
    if told == rows.len() {
        // Not the order's version: what a lost task told after this has to be found again behind it.
        return Ok(Applied { version: last, entered: None });
    }
    let mut entered: Vec<OrderStatus> = entries.iter().skip(told).map(|entry| entry.status).collect();
    entered.dedup();
    if entered.first().is_some_and(|first| first.as_str() == status_before) {
        entered.remove(0);
    }
    let (mut kinds, mut statuses, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows.into_iter().skip(told) {
        kinds.push(row.kind);
        statuses.push(row.status);
        data.push(row.data);
    }
    sqlx::query!(
        "insert into order_events (order_id, seq, type, status, data)
         select $1, $2 + n, kind, status, data
         from unnest($3::text[], $4::text[], $5::jsonb[]) with ordinality as e (kind, status, data, n)",
        id.0,
        version,
        &kinds,
        &statuses,
        &data
    )
    .execute(&mut *tx)
    .await?;
    let version = version + length(kinds.len());
    update(&mut tx, id, version, state).await?;
    tx.commit().await?;
    Ok(Applied { version, entered: Some(entered) })
}

/// Appends what `writer` records about an order to its timeline, within the transaction that records it. The order's
/// row is locked until then, so writers take turns; take that lock before others. The status stays as it is: that is
/// the workflow's. Gives the order's version now.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn append(tx: &mut PgConnection, id: OrderId, writer: &str, events: &[OrderEvent]) -> Result<i64> {
    debug_assert_ne!(writer, WORKFLOW, "the workflow's entries are told by `apply`");
    let order = sqlx::query!("select version, status from orders where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    let status: OrderStatus = parse("a status", order.status.parse())?;
    let entries: Vec<Entry> = events.iter().map(|event| Entry { event: event.clone(), status }).collect();
    let (mut kinds, mut data) = (Vec::new(), Vec::new());
    for row in rows(&entries)? {
        kinds.push(row.kind);
        data.push(row.data);
    }
    sqlx::query!(
        "insert into order_events (order_id, seq, type, status, data, writer)
         select $1, $2 + n, kind, $3, data, $4
         from unnest($5::text[], $6::jsonb[]) with ordinality as e (kind, data, n)",
        id.0,
        order.version,
        order.status,
        writer,
        &kinds,
        &data
    )
    .execute(&mut *tx)
    .await?;
    let version = order.version + length(kinds.len());
    sqlx::query!("update orders set version = $2, updated_at = now() where id = $1", id.0, version)
        .execute(&mut *tx)
        .await?;
    notify::order_changed(tx, id).await?;
    Ok(version)
}

/// Whether this was told of the order before, by anybody.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn is_told(tx: &mut PgConnection, id: OrderId, event: &OrderEvent) -> Result<bool> {
    let value = parse("an event", serde_json::to_value(event))?;
    Ok(sqlx::query_scalar!(
        r#"select exists (select from order_events
             where order_id = $1 and type = $2 and data = $3) as "told!""#,
        id.0,
        value["type"].as_str(),
        value["data"]
    )
    .fetch_one(tx)
    .await?)
}

struct Row {
    kind: String,
    status: String,
    data: serde_json::Value,
}

fn rows(entries: &[Entry]) -> Result<Vec<Row>> {
    entries
        .iter()
        .map(|entry| {
            let mut value = parse("an event", serde_json::to_value(&entry.event))?;
            Ok(Row {
                kind: value["type"].as_str().unwrap_or_default().to_owned(),
                status: entry.status.as_str().to_owned(),
                data: value["data"].take(),
            })
        })
        .collect()
}

fn length(entries: usize) -> i64 {
    i64::try_from(entries).unwrap_or(i64::MAX)
}

/// How many of the entries, from the first on, are there already, and the number of the last of them.
async fn told(tx: &mut PgConnection, id: OrderId, base_version: i64, rows: &[Row]) -> Result<(usize, i64)> {
    let there = sqlx::query!(
        "select seq, type as kind, data from order_events where order_id = $1 and seq > $2 and writer = $3
         order by seq limit $4",
        id.0,
        base_version,
        WORKFLOW,
        length(rows.len())
    )
    .fetch_all(tx)
    .await?;
    let same =
        there.iter().zip(rows).take_while(|(there, row)| there.kind == row.kind && there.data == row.data);
    let told = same.count();
    Ok((told, told.checked_sub(1).map_or(base_version, |last| there[last].seq)))
}

async fn update(tx: &mut PgConnection, id: OrderId, version: i64, state: &OrderState) -> Result<()> {
    sqlx::query!(
        "update orders set status = $2, outcome = $3, payment_status = $4, attention = $5, authorized = $6,
           captured = $7, line_states = $8, shipments = $9, version = $10, needs = $11, payment_action = $12,
           workflow_started_at = coalesce(workflow_started_at, now()), updated_at = now()
         where id = $1",
        id.0,
        state.status.as_str(),
        state.outcome.map(|o| o.as_str()),
        state.payment_status.as_str(),
        state.attention.map(|a| a.as_str()),
        state.authorized.minor(),
        state.captured.minor(),
        (!state.lines.is_empty()).then_some(Json(&state.lines)) as _,
        Json(&state.shipments) as _,
        version,
        (!state.needs.is_empty()).then_some(Json(&state.needs)) as _,
        state.payment_action
    )
    .execute(tx)
    .await?;
    Ok(())
}
