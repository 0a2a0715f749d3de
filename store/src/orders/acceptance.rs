//! Accepts orders: many in one statement, each of them atomically.

use crate::{
    Result,
    inbox::idempotency::{self, KeyStatus, RequestKey},
    orders::OrderRecord,
    postgres::{
        batch::{BatchLimits, Batcher, Linger},
        pooled::PooledConnections,
    },
};
use sqlx::{PgConnection, PgPool, types::Json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;
use waybill_domain::order::{Address, OrderLine};

/// Orders per statement, and concurrent statements: see [`crate::postgres::batch`]. A statement costs Postgres as much
/// as ten of its orders, so one large statement at a time is better than several small ones.
const ACCEPT_LIMITS: BatchLimits =
    BatchLimits { items_max: 128, flushers: 1, linger: Linger::Adaptive(Duration::from_micros(200)) };

/// The time, in seconds, that a process has for starting the workflow of an order that it accepted. The outbox
/// dispatcher starts the remaining ones; two starts result in one workflow, but cost Temporal twice.
const START_GRACE_SECONDS: f64 = 5.0;

/// An order to be accepted, with the idempotency key of its request.
#[derive(Debug)]
pub struct AcceptRequest {
    /// The order, as a reader sees it immediately after.
    pub order: OrderRecord,
    /// The key that identifies the request.
    pub request: RequestKey,
    /// Whether the caller starts its workflow: then the outbox dispatcher skips it for some seconds.
    pub starts: bool,
    /// Whether the client waits for the outcome, so that its response is still to come.
    pub client_waits: bool,
}

/// Accepts orders.
#[derive(Debug, Clone)]
pub struct OrderAcceptor {
    pool: PgPool,
    batcher: Batcher<Arc<AcceptRequest>, Option<KeyStatus>>,
}

impl OrderAcceptor {
    /// Starts the tasks that write. If `batched`, orders share a statement; otherwise each has its own statement, and
    /// as many run concurrently as the pool has connections.
    pub fn start(pool: PgPool, batched: bool) -> Self {
        let flusher_count = pool.options().get_max_connections() as usize;
        let limits = if batched {
            ACCEPT_LIMITS
        } else {
            BatchLimits { items_max: 1, flushers: flusher_count, linger: Linger::None }
        };
        let key = |item: &Arc<AcceptRequest>| (item.request.merchant_id, item.request.key.clone());
        let pooled = PooledConnections::new(&pool, limits.flushers);
        let batcher = Batcher::spawn(limits, key, move |items| {
            let pooled = pooled.clone();
            async move { pooled.run(|db| Box::pin(async move { insert(db, &items).await })).await }
        });
        Self { pool, batcher }
    }

    /// Accepts an order: writes order, first event and idempotency key in one statement, and so atomically. Returns the
    /// previous status of the key; the order was written only if that is [`KeyStatus::New`].
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn accept(&self, new: Arc<AcceptRequest>) -> Result<KeyStatus> {
        match self.batcher.submit(new.clone()).await? {
            Some(known) => Ok(known),
            // A concurrent request with this key committed after the statement began, so the statement could not see
            // it.
            None => Ok(match idempotency::find(&self.pool, &new.request).await? {
                KeyStatus::New => KeyStatus::InProgress,
                known => known,
            }),
        }
    }
}

/// The statement's parameters, one list per column.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    merchants: Vec<Uuid>,
    keys: Vec<String>,
    fingerprints: Vec<Vec<u8>>,
    customers: Vec<String>,
    references: Vec<Option<String>>,
    currencies: Vec<String>,
    lines: Vec<Json<Vec<OrderLine>>>,
    subtotals: Vec<i64>,
    discounts: Vec<i64>,
    fees: Vec<i64>,
    taxes: Vec<i64>,
    totals: Vec<i64>,
    methods: Vec<String>,
    addresses: Vec<Json<Address>>,
    policies: Vec<String>,
    metadata: Vec<Json<BTreeMap<String, String>>>,
    /// Microseconds since the epoch.
    created: Vec<i64>,
    starts: Vec<bool>,
    client_waits: Vec<bool>,
}

impl Columns {
    fn add(&mut self, new: &AcceptRequest) {
        let (order, placed) = (&new.order, &new.order.placed);
        self.ids.push(order.id.0);
        self.merchants.push(new.request.merchant_id.0);
        self.keys.push(new.request.key.clone());
        self.fingerprints.push(new.request.fingerprint.to_vec());
        self.customers.push(placed.customer_id.as_str().to_owned());
        self.references.push(placed.reference.clone());
        self.currencies.push(placed.currency.code().to_owned());
        self.lines.push(Json(placed.lines.clone()));
        self.subtotals.push(order.subtotal.minor());
        self.discounts.push(placed.discount.minor());
        self.fees.push(placed.shipping_fee.minor());
        self.taxes.push(placed.tax.minor());
        self.totals.push(order.total.minor());
        self.methods.push(placed.payment_method.clone());
        self.addresses.push(Json(placed.shipping_address.clone()));
        self.policies.push(placed.shortage_policy.as_str().to_owned());
        self.metadata.push(Json(placed.metadata.clone()));
        self.created.push(order.created_at.as_microsecond());
        self.starts.push(new.starts);
        self.client_waits.push(new.client_waits);
    }
}

/// Returns the previous status of each order's key; `None` if a concurrent statement has used the key.
///
/// All statements insert keys in the same sequence, so that of two statements with the same keys one waits for the
/// other, without a deadlock.
async fn insert(db: &mut PgConnection, items: &[Arc<AcceptRequest>]) -> Result<Vec<Option<KeyStatus>>> {
    let mut columns = Columns::default();
    for item in items {
        columns.add(item);
    }
    let Some(route) = items.first().map(|item| item.request.route) else { return Ok(Vec::new()) };
    debug_assert!(items.iter().all(|item| item.request.route == route), "all items have the same route");
    let rows = insert_rows(db, route, &columns).await?;
    let mut rows: HashMap<Uuid, _> = rows.into_iter().map(|row| (row.id, row)).collect();
    let known = items.iter().map(|item| {
        let row = rows.remove(&item.order.id.0)?;
        if row.is_new {
            return Some(KeyStatus::New);
        }
        let row = idempotency::Row {
            fingerprint: row.fingerprint?,
            response_status: row.response_status,
            response_body: row.response_body,
            order_id: row.order_id,
            accepted_at: row.accepted_at,
        };
        Some(KeyStatus::from_row(&item.request, row))
    });
    Ok(known.collect())
}

/// One order of the statement: whether its key is new, or else what is stored for the key.
struct AcceptedRow {
    id: Uuid,
    is_new: bool,
    fingerprint: Option<Vec<u8>>,
    response_status: Option<i16>,
    response_body: Option<String>,
    order_id: Option<Uuid>,
    accepted_at: Option<jiff_sqlx::Timestamp>,
}

async fn insert_rows(db: &mut PgConnection, route: &str, columns: &Columns) -> Result<Vec<AcceptedRow>> {
    let rows = sqlx::query_as!(
        AcceptedRow,
        r#"with input as materialized (
             select * from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[],
               $9::jsonb[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[],
               $16::jsonb[], $17::text[], $18::jsonb[], $19::bigint[],
               $20::boolean[], $21::boolean[])
               as i (id, merchant_id, key, fingerprint, customer_id, reference, currency, lines, subtotal,
                 discount, shipping_fee, tax, total, payment_method, shipping_address, shortage_policy, metadata, created, starts, waits)
           ), key as (
             insert into idempotency_keys (merchant_id, route, key, fingerprint, response_status, order_id)
             select merchant_id, $1, key, fingerprint, case when not waits then 201 end, id from input order by merchant_id, key
             on conflict do nothing returning merchant_id, key
           ), new as materialized (
             select i.*, timestamptz 'epoch' + i.created * interval '1 microsecond' as created_at
             from input i join key k on k.merchant_id = i.merchant_id and k.key = i.key
           ), event as (
             insert into order_events (order_id, seq, type, status, data)
             select id, 1, 'order.received', 'received', '{}' from new
           ), accepted as (
             insert into orders (id, merchant_id, customer_id, reference, currency, lines, subtotal, shipping_fee, tax,
               total, payment_method, shipping_address, shortage_policy, metadata, status, payment_status, version,
               created_at, updated_at, discount, start_due_at)
             select id, merchant_id, customer_id, reference, currency, lines, subtotal, shipping_fee, tax, total,
               payment_method, shipping_address, shortage_policy, metadata, 'received', 'none', 1, created_at,
               created_at, discount, case when starts then now() + make_interval(secs => $22) end
             from new
           )
           select i.id as "id!", n.id is not null as "is_new!", k.fingerprint as "fingerprint?", k.response_status,
             k.response_body, k.order_id as "order_id?", k.accepted_at as "accepted_at?: jiff_sqlx::Timestamp"
           from input i left join new n on n.id = i.id
             left join lateral (
               select fingerprint, response_status, response_body, order_id, o.created_at as accepted_at
               from idempotency_keys k left join orders o on o.id = k.order_id
               where n.id is null and k.merchant_id = i.merchant_id and k.route = $1 and k.key = i.key limit 1
             ) as k on true"#,
        route,
        &columns.ids,
        &columns.merchants,
        &columns.keys,
        &columns.fingerprints,
        &columns.customers,
        &columns.references as &[Option<String>],
        &columns.currencies,
        &columns.lines as _,
        &columns.subtotals,
        &columns.discounts,
        &columns.fees,
        &columns.taxes,
        &columns.totals,
        &columns.methods,
        &columns.addresses as _,
        &columns.policies,
        &columns.metadata as _,
        &columns.created,
        &columns.starts,
        &columns.client_waits,
        START_GRACE_SECONDS,
    )
    .fetch_all(db)
    .await?;
    Ok(rows)
}
