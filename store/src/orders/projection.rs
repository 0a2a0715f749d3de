//! The read model of an order after it was accepted. What the order's workflow decides is written by [`apply`], in one
//! idempotent transaction. What it does not decide (refunds, returns, disputes, drift, an operator's word) is appended
//! to the timeline by whoever records it, in the transaction that records it ([`append`]).

use crate::{Result, StoreError, parse, postgres::notify};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use std::collections::BTreeMap;
use waybill_domain::{
    event::{OrderEvent, TimelineEntry},
    ids::OrderId,
    state::{AttentionItem, LineState, OrderState, ShipmentState},
    status::OrderStatus,
};

/// The order's workflow, as the writer of an entry.
const WORKFLOW_WRITER: &str = "order";

/// What a projection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProjectionOutcome {
    /// The entries, or those of them that were missing, were appended.
    Appended {
        /// The number of the last of the entries: the next projection builds on it.
        version: i64,
        /// The statuses that the order entered.
        entered: Vec<OrderStatus>,
    },
    /// The entries were there already, and nothing was written.
    AlreadyApplied {
        /// As in [`Applied::Appended`].
        version: i64,
    },
    /// The order's workflow wrote something else behind `base_version`, and nothing was written: a workflow task that
    /// was lost after its projection, and took another way when it ran again. What is there may have been seen, so it
    /// stays; the workflow has to go on from it.
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

/// Appends entries and takes over the state, once. `base_version` is the version that the workflow last knew.
///
/// Entries of the workflow that are already there behind `base_version` are skipped, so a repetition writes nothing and
/// gets the same answer. If the timeline goes on differently there, nothing is written ([`Applied::Conflict`]): a status
/// that a reader may have seen is never taken back, and no fact is written twice.
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
        // Not the order's version: what a lost task wrote after this has to be found again behind it.
        let version = matching.checked_sub(1).map_or(base_version, |last| written[last].seq);
        return Ok(ProjectionOutcome::AlreadyApplied { version });
    }
    if matching < written.len() {
        return Ok(ProjectionOutcome::Conflict);
    }
    let missing_entries =
        OrderChange { base_version: before.version, entries: &entries[matching..], id, state };
    if insert_audit(&mut *tx, &[missing_entries]).await?.is_empty() {
        // Its row is locked and its version was just read, so the order has ended, and otherwise.
        return Ok(ProjectionOutcome::Conflict);
    }
    tx.commit().await?;
    Ok(missing_entries.applied(&before.status))
}

/// What is told of one order.
#[derive(Debug, Clone, Copy)]
pub struct OrderChange<'a> {
    /// Which.
    pub id: OrderId,
    /// The order's version that the entries follow on.
    pub base_version: i64,
    /// What happened.
    pub entries: &'a [TimelineEntry],
    /// The order after it.
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

/// Does in one statement what [`apply`] does, for each of these orders whose version is the base of its change, and
/// answers each in their order. `None` is for [`apply`] to judge, and nothing of it was written: the order has been
/// written to since (as by this very change), there is no such order, or there is nothing to tell. No order may be
/// there twice.
///
/// # Errors
/// When Postgres fails; then nothing was written.
pub async fn apply_batch(
    db: impl PgExecutor<'_>,
    changes: &[OrderChange<'_>],
) -> Result<Vec<Option<ProjectionOutcome>>> {
    let to_tell: Vec<OrderChange<'_>> = changes.iter().filter(|c| !c.entries.is_empty()).copied().collect();
    let written = insert_audit(db, &to_tell).await?;
    Ok(changes.iter().map(|c| written.get(&c.id).map(|status_before| c.applied(status_before))).collect())
}

/// Writes the changes whose base is their order's version, and gives those orders with their status before. The status
/// of an order that has ended stays: a change that has another one is not written.
///
/// The rows are locked one by one in the order of their ids, as by all who take several, so that no two wait for each
/// other. What is compared is the version of the locked row. `offset 0` keeps the look-up by key apart from the
/// comparison: the planner then expects few orders, and updates them by key too, while it knows nothing of the table.
async fn insert_audit(
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

/// Appends what `writer` records about an order to its timeline, within the transaction that records it. The order's
/// row is locked until then, so writers take turns; take that lock before others. The status stays as it is: that is
/// the workflow's. Gives the order's version now.
///
/// # Errors
/// When Postgres fails, or there is no such order.
pub async fn append(tx: &mut PgConnection, id: OrderId, writer: &str, events: &[OrderEvent]) -> Result<i64> {
    debug_assert_ne!(writer, WORKFLOW_WRITER, "the workflow's entries are told by `apply`");
    let order = sqlx::query!("select version, status from orders where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
    let status: OrderStatus = parse("a status", order.status.parse())?;
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

/// Whether this was told of the order before, by anybody.
///
/// # Errors
/// When Postgres fails.
pub(crate) async fn is_recorded(tx: &mut PgConnection, id: OrderId, event: &OrderEvent) -> Result<bool> {
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
            let mut value = parse("an event", serde_json::to_value(&entry.event))?;
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

/// An entry of the order's workflow that is there.
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

/// The first entries, up to `limit`, that the order's workflow wrote behind `base_version`.
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

/// What the order's workflow has written so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportedEvents {
    /// Whether anything of it lies behind the version that was asked about.
    pub is_ahead: bool,
    /// The keys of what can happen once ([`OrderEvent::fact_key`]).
    pub keys: Vec<String>,
}

/// What the order's workflow has written to the timeline up to `version`, and whether any of it lies behind
/// `base_version`.
///
/// # Errors
/// When Postgres fails, or an entry can't be read.
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
        let event: OrderEvent = parse("an event", serde_json::from_value(event))?;
        facts.keys.extend(event.deduplication_key());
    }
    Ok(facts)
}

/// A change as the statement takes it. Empty lists are null, as they are in the order's row.
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
