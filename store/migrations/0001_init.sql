-- The service's own state. Temporal keeps its state elsewhere.
--
-- No foreign keys on the tables that every order writes: their rows are written together in one statement and are
-- never deleted, so the keys would cost a look-up per row and forbid nothing that happens.

create table merchants (
    id uuid primary key,
    name text not null,
    created_at timestamptz not null default now(),
    constraint merchants_name_unique unique (name)
);

create table api_keys (
    id uuid primary key,
    merchant_id uuid not null references merchants (id),
    name text not null,
    -- SHA-256 of the key; the key itself is shown once and kept nowhere.
    key_hash bytea not null,
    scopes text[] not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    constraint api_keys_hash_unique unique (key_hash)
);

-- The read model and, until its workflow has started, the outbox. Written by the API once, when the order is
-- accepted, and from then on by the order's workflow alone (see order version).
create table orders (
    id uuid primary key,
    merchant_id uuid not null,
    customer_id text not null,
    reference text,
    currency text not null,
    lines jsonb not null,
    subtotal bigint not null,
    shipping_fee bigint not null,
    tax bigint not null,
    total bigint not null,
    payment_method text not null,
    -- Personal data: stays here, never in a workflow's history.
    shipping_address jsonb not null,
    shortage_policy text not null,
    metadata jsonb not null,
    status text not null,
    outcome text,
    payment_status text not null,
    attention text,
    authorized bigint not null default 0,
    captured bigint not null default 0,
    refunded bigint not null default 0,
    -- LineState[] and ShipmentState[] of crate domain; null until the workflow has written once.
    line_states jsonb,
    shipments jsonb,
    -- The number of the order's last event.
    version bigint not null,
    -- Null while nobody knows whether the order has a workflow.
    workflow_started_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint orders_amounts_not_negative check (
        subtotal >= 0 and shipping_fee >= 0 and tax >= 0 and total >= 0
        and authorized >= 0 and captured >= 0 and refunded >= 0 and refunded <= captured
    )
);
-- Ids are UUIDv7, so an id's order is the order of time: keyset pagination needs no other column.
create index orders_by_merchant on orders (merchant_id, id desc);
create index orders_by_status on orders (merchant_id, status, id desc);
create index orders_by_customer on orders (merchant_id, customer_id, id desc);
create index orders_by_reference on orders (merchant_id, reference, id desc) where reference is not null;
create index orders_by_attention on orders (merchant_id, attention, id desc) where attention is not null;
-- What the starter looks at: empty when all is well.
create index orders_unstarted on orders (created_at) where workflow_started_at is null;

create table order_events (
    order_id uuid not null,
    seq bigint not null,
    type text not null,
    status text not null,
    data jsonb not null,
    at timestamptz not null default now(),
    primary key (order_id, seq)
);

create table idempotency_keys (
    merchant_id uuid not null,
    route text not null,
    key text not null,
    -- SHA-256 of the request's body: the same key with another body is refused.
    fingerprint bytea not null,
    -- Null while the first request is under way.
    response_status smallint,
    response_body text,
    created_at timestamptz not null default now(),
    primary key (merchant_id, route, key)
);

-- available + reserved + sold changes only by a delivery or an adjustment.
create table stock (
    merchant_id uuid not null,
    sku text not null,
    location text not null,
    available integer not null,
    reserved integer not null default 0,
    sold integer not null default 0,
    updated_at timestamptz not null default now(),
    primary key (merchant_id, sku, location),
    constraint stock_not_oversold check (available >= 0 and reserved >= 0 and sold >= 0)
);

create table stock_adjustments (
    merchant_id uuid not null,
    idempotency_key text not null,
    sku text not null,
    location text not null,
    delta integer not null,
    reason text not null,
    at timestamptz not null default now(),
    primary key (merchant_id, idempotency_key)
);

-- One row per order that ever asked for stock: its answer is given again when the step is repeated, and a released
-- order can't be reserved for by a late repetition.
create table stock_holds (
    order_id uuid primary key,
    state text not null,
    allocation jsonb not null,
    expires_at timestamptz not null,
    constraint stock_holds_state check (state in ('held', 'released'))
);

create table shipments (
    id uuid primary key,
    order_id uuid not null,
    merchant_id uuid not null,
    location text not null,
    amount bigint not null,
    label_id text,
    tracking_number text,
    created_at timestamptz not null default now()
);
create index shipments_by_order on shipments (order_id);

create table reservations (
    order_id uuid not null,
    shipment_id uuid not null,
    line integer not null,
    merchant_id uuid not null,
    sku text not null,
    location text not null,
    quantity integer not null,
    state text not null,
    primary key (order_id, shipment_id, line),
    constraint reservations_state check (state in ('held', 'released', 'sold')),
    constraint reservations_quantity check (quantity > 0)
);

-- The ledger of what was asked of the payment provider. The key is the provider's idempotency key too.
create table payment_operations (
    key text primary key,
    order_id uuid not null,
    kind text not null,
    shipment_id uuid,
    amount bigint not null,
    state text not null,
    provider_ref text,
    code text,
    capture_before timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint payment_operations_kind check (kind in ('authorize', 'capture', 'void', 'refund')),
    constraint payment_operations_state check (state in ('pending', 'succeeded', 'declined')),
    constraint payment_operations_amount check (amount >= 0)
);
create index payment_operations_by_order on payment_operations (order_id);

create table risk_decisions (
    order_id uuid primary key,
    verdict text not null,
    reasons jsonb not null,
    at timestamptz not null default now()
);

-- Webhooks that were verified: each counts once, and waits here until the order's workflow has it.
create table inbox (
    source text not null,
    event_id text not null,
    order_id uuid not null,
    signal text not null,
    payload jsonb not null,
    received_at timestamptz not null default now(),
    -- When the workflow had it, or when it was found that no workflow will.
    settled_at timestamptz,
    settled_as text,
    primary key (source, event_id)
);
create index inbox_unsettled on inbox (received_at) where settled_at is null;
