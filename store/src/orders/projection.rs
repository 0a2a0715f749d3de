//! The read model of an accepted order. [`apply`] writes the decisions of the order's workflow, in one idempotent
//! transaction. Other writers (refunds, returns, disputes, drifts, operator actions) append their events to the
//! timeline in the transaction that records them ([`append`]).

use crate::{Result, StoreError, parse, postgres::notify};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use std::collections::BTreeMap;
use waybill_domain::{
    attention::AttentionItem,
    event::{OrderEvent, TimelineEntry},
    ids::OrderId,
    state::{LineState, OrderState, ShipmentState},
    status::OrderStatus,
};

/// The order's workflow, as the writer of an entry.
const WORKFLOW_WRITER: &str = "order";

/// The outcome of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProjectionOutcome {
    /// The entries, or the missing ones of them, were appended.
    Appended {
        /// The number of the last entry: the next projection builds on it.
        version: i64,
        /// The statuses that the order entered.
        entered: Vec<OrderStatus>,
    },
    /// The entries were already there, and nothing was written.
    AlreadyApplied {
        /// As in [`ProjectionOutcome::Appended`].
        version: i64,
    },
    /// The order's workflow has written other entries after `base_version`, and nothing was written: a workflow task
    /// that was lost after its projection took another path when it ran again. Readers may have seen the existing
    /// entries, so they stay; the workflow must resume from them.
    Conflict,
}

impl ProjectionOutcome {
    /// The version that the next projection builds on; none after a conflict.
    pub fn version(&self) -> Option<i64> {
        match self {
            Self::Appended { version, .. } | Self::AlreadyApplied { version } => Some(*version),
            Self::Conflict => None,
        }
    }
}

/// Appends entries and updates the state, once. `base_version` is the last version that the workflow has.
///
/// Skips entries of the workflow that already exist after `base_version`, so a retry writes nothing and returns the
/// same outcome. If the existing entries differ, nothing is written ([`ProjectionOutcome::Conflict`]): a status that a
/// reader may have seen is never rolled back, and no event is written twice.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn apply(
    pool: &PgPool,
    id: OrderId,
    base_version: i64,
    entries: &[TimelineEntry],
    state: &OrderState,
) -> Result<ProjectionOutcome> {
    let rows = rows(entries)?;
    let mut tx = crate::begin(pool).await?;
    let before = sqlx::query!("select version, status from orders where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    let written = if before.version > base_version {
        entries_after(&mut tx, id, base_version, rows.len()).await?
    } else {
        Vec::new()
    };
    let matching = written.iter().zip(&rows).take_while(|(there, row)| there.equals(row)).count();
    if matching == rows.len() {
        // Not the order's version: entries that a lost task wrote after this one must be found again after it.
        let version = matching.checked_sub(1).map_or(base_version, |last| written[last].seq);
        return Ok(ProjectionOutcome::AlreadyApplied { version });
    }
    if matching < written.len() {
        return Ok(ProjectionOutcome::Conflict);
    }
    let missing_entries =
        OrderChange { base_version: before.version, entries: &entries[matching..], id, state };
    if write_changes(&mut *tx, &[missing_entries]).await?.is_empty() {
        // Its row is locked and its version was just read, so the order has ended with another status.
        return Ok(ProjectionOutcome::Conflict);
    }
    tx.commit().await?;
    Ok(missing_entries.applied(&before.status))
}

/// One order's change.
#[derive(Debug, Clone, Copy)]
pub struct OrderChange<'a> {
    /// The order.
    pub id: OrderId,
    /// The version of the order that the entries follow.
    pub base_version: i64,
    /// The events.
    pub entries: &'a [TimelineEntry],
    /// The state of the order after them.
    pub state: &'a OrderState,
}

impl OrderChange<'_> {
    fn version(&self) -> i64 {
        self.base_version + to_i64(self.entries.len())
    }

    fn applied(&self, status_before: &str) -> ProjectionOutcome {
        let mut entered: Vec<OrderStatus> = self.entries.iter().map(|entry| entry.status).collect();
        entered.dedup();
        if entered.first().is_some_and(|first| first.as_str() == status_before) {
            entered.remove(0);
        }
        ProjectionOutcome::Appended { version: self.version(), entered }
    }
}

/// Does the same as [`apply`] in one statement, for each of these orders whose version is the base of its change, and
/// returns the outcomes in sequence. `None` means that nothing was written and [`apply`] must decide: the order was
/// written to in the meantime (possibly with this very change), there is no such order, or there are no entries. An
/// order must not occur twice.
///
/// # Errors
/// When Postgres fails; then nothing was written.
pub async fn apply_batch(
    db: impl PgExecutor<'_>,
    changes: &[OrderChange<'_>],
) -> Result<Vec<Option<ProjectionOutcome>>> {
    let to_report: Vec<OrderChange<'_>> = changes.iter().filter(|c| !c.entries.is_empty()).copied().collect();
    let written = write_changes(db, &to_report).await?;
    Ok(changes.iter().map(|c| written.get(&c.id).map(|status_before| c.applied(status_before))).collect())
}

/// Writes the changes whose base is their order's version, and returns those orders with their previous status. An
/// ended order keeps its status: a change with another status is not written.
///
/// The rows are locked one by one in id order, as in all statements that lock several orders, to avoid deadlocks. The
/// version of the locked row is compared. `offset 0` separates the lookup by key from the comparison: the planner then
/// expects few orders, and updates them by key too, while it has no statistics of the table.
async fn write_changes(
    executor: impl PgExecutor<'_>,
    changes: &[OrderChange<'_>],
) -> Result<BTreeMap<OrderId, String>> {
    let change_rows: Vec<ChangeRow<'_>> = changes.iter().map(ChangeRow::new).collect::<Result<_>>()?;
    let terminal: Vec<String> = OrderStatus::terminal().map(|status| status.as_str().to_owned()).collect();
    let written = sqlx::query!(
        r#"with change as (
             select * from jsonb_to_recordset($1) as c (id uuid, base_version bigint, version bigint, status text,
               outcome text, payment_status text, attention text, authorized bigint, captured bigint,
               line_states jsonb, shipments jsonb, needs jsonb, payment_action boolean, entries jsonb)
             order by id
           ), locked as (
             select c.*, o.status_before from change c cross join lateral (
               select status as status_before, version from orders where orders.id = c.id offset 0 for update
             ) o where o.version = c.base_version
               and (o.status_before = c.status or o.status_before <> all ($2))
           ), told as (
             insert into order_events (order_id, seq, type, status, data)
             select l.id, l.base_version + e.n, e.entry ->> 'kind', e.entry ->> 'status', e.entry -> 'data'
             from locked l cross join lateral jsonb_array_elements(l.entries) with ordinality as e (entry, n)
           ), shown as (
             update orders o set status = l.status, outcome = l.outcome, payment_status = l.payment_status,
               attention = l.attention, authorized = l.authorized, captured = l.captured,
               line_states = l.line_states, shipments = l.shipments, version = l.version, needs = l.needs,
               payment_action = l.payment_action,
               workflow_started_at = coalesce(o.workflow_started_at, now()), updated_at = now()
             from locked l where o.id = l.id
           )
           select id as "id!", status_before as "status_before!" from locked"#,
        Json(&change_rows) as _,
        &terminal
    )
    .fetch_all(executor)
    .await?;
    Ok(written.into_iter().map(|row| (OrderId(row.id), row.status_before)).collect())
}

/// Appends events that `writer` records about an order to its timeline, within the transaction that records them. The
/// order's row is locked until then, so that writers are serialized; take that lock before others. The status does not
/// change: the workflow owns it. Returns the order's new version.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn append(tx: &mut PgConnection, id: OrderId, writer: &str, events: &[OrderEvent]) -> Result<i64> {
    debug_assert_ne!(writer, WORKFLOW_WRITER, "`apply` writes the workflow's entries");
    let order = sqlx::query!("select version, status from orders where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    let status: OrderStatus = parse("order status", order.status.parse())?;
    let entries: Vec<TimelineEntry> =
        events.iter().map(|event| TimelineEntry { event: event.clone(), status }).collect();
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
    let version = order.version + to_i64(kinds.len());
    sqlx::query!("update orders set version = $2, updated_at = now() where id = $1", id.0, version)
        .execute(&mut *tx)
        .await?;
    notify::notify_order_in_tx(tx, id).await?;
    Ok(version)
}

/// Returns whether any writer has recorded this event of the order.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn is_recorded(tx: &mut PgConnection, id: OrderId, event: &OrderEvent) -> Result<bool> {
    let value = parse("event", serde_json::to_value(event))?;
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

#[derive(Serialize)]
struct Row {
    kind: String,
    status: String,
    data: serde_json::Value,
}

fn rows(entries: &[TimelineEntry]) -> Result<Vec<Row>> {
    entries
        .iter()
        .map(|entry| {
            let mut value = parse("event", serde_json::to_value(&entry.event))?;
            Ok(Row {
                kind: value["type"].as_str().unwrap_or_default().to_owned(),
                status: entry.status.as_str().to_owned(),
                data: value["data"].take(),
            })
        })
        .collect()
}

fn to_i64(entries: usize) -> i64 {
    i64::try_from(entries).unwrap_or(i64::MAX)
}

/// An existing entry of the order's workflow.
struct StoredEntry {
    seq: i64,
    kind: String,
    status: String,
    data: serde_json::Value,
}

impl StoredEntry {
    fn equals(&self, row: &Row) -> bool {
        self.kind == row.kind && self.status == row.status && self.data == row.data
    }
}

/// The first entries, up to `limit`, that the order's workflow wrote after `base_version`.
async fn entries_after(
    tx: &mut PgConnection,
    id: OrderId,
    base_version: i64,
    limit: usize,
) -> Result<Vec<StoredEntry>> {
    Ok(sqlx::query_as!(
        StoredEntry,
        "select seq, type as kind, status, data from order_events
         where order_id = $1 and seq > $2 and writer = $3 order by seq limit $4",
        id.0,
        base_version,
        WORKFLOW_WRITER,
        to_i64(limit)
    )
    .fetch_all(tx)
    .await?)
}

/// The events that the order's workflow has recorded so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedEvents {
    /// Whether any of them has a number after the base version.
    pub is_ahead: bool,
    /// The keys of events that can happen only once ([`OrderEvent::deduplication_key`]).
    pub keys: Vec<String>,
}

/// Returns the events that the order's workflow wrote to the timeline up to `version`, and whether any of them is after
/// `base_version`.
///
/// # Errors
/// When Postgres fails, or an entry cannot be parsed.
pub async fn find_reported_events(
    pool: &PgPool,
    id: OrderId,
    base_version: i64,
    version: i64,
) -> Result<ReportedEvents> {
    let written = entries_after(&mut *pool.acquire().await?, id, 0, usize::MAX).await?;
    let mut facts = ReportedEvents::default();
    for entry in written.into_iter().filter(|entry| entry.seq <= version) {
        facts.is_ahead |= entry.seq > base_version;
        let event = serde_json::json!({"type": entry.kind, "data": entry.data});
        let event: OrderEvent = parse("event", serde_json::from_value(event))?;
        facts.keys.extend(event.deduplication_key());
    }
    Ok(facts)
}

/// A change as the statement's input. Empty lists are null, as in the order's row.
#[derive(Serialize)]
struct ChangeRow<'a> {
    id: OrderId,
    base_version: i64,
    version: i64,
    status: &'static str,
    outcome: Option<&'static str>,
    payment_status: &'static str,
    attention: Option<&'static str>,
    authorized: i64,
    captured: i64,
    line_states: Option<&'a [LineState]>,
    shipments: &'a [ShipmentState],
    needs: Option<&'a [AttentionItem]>,
    payment_action: bool,
    entries: Vec<Row>,
}

impl<'a> ChangeRow<'a> {
    fn new(change: &OrderChange<'a>) -> Result<Self> {
        let state = change.state;
        Ok(Self {
            id: change.id,
            base_version: change.base_version,
            version: change.version(),
            status: state.status.as_str(),
            outcome: state.outcome.map(|o| o.as_str()),
            payment_status: state.payment_status.as_str(),
            attention: state.attention.map(|a| a.as_str()),
            authorized: state.authorized.minor(),
            captured: state.captured.minor(),
            line_states: (!state.lines.is_empty()).then_some(&state.lines),
            shipments: &state.shipments,
            needs: (!state.needs.is_empty()).then_some(&state.needs),
            payment_action: state.payment_action,
            entries: rows(change.entries)?,
        })
    }
}
