-- People who step in, and writers besides the order's workflow.

-- The timeline has several writers: the order's workflow, and whoever records what the workflow does not decide
-- (refunds, returns, disputes, drift, operators). A workflow tells its own entries apart by this, so that a repeated
-- projection recognizes what it told before, whatever was told in between.
alter table order_events add column writer text not null default 'order';

alter table orders
    -- Need[] of crate domain: everything that the order's workflow needs a person for; `attention` is the latest.
    add column needs jsonb,
    -- Whether the customer has to do something before the payment can go on.
    add column payment_action boolean not null default false,
    -- Off the lines' prices, the whole order.
    add column discount bigint not null default 0,
    -- The latest open reason in `concerns`.
    add column concern text;
create index orders_by_concern on orders (merchant_id, concern, id desc) where concern is not null;

-- Why somebody is needed, where it is not the order's workflow that says so: it may have ended long ago.
create table concerns (
    order_id uuid not null,
    reason text not null,
    -- What it is about: a refund, a return, a dispute, a drift.
    subject text not null,
    detail jsonb not null,
    raised_at timestamptz not null default now(),
    cleared_at timestamptz,
    primary key (order_id, reason, subject)
);
create index concerns_open on concerns (raised_at) where cleared_at is null;

-- What operators did, and who: the id of an API key, or `temporal` for whoever signals with Temporal's own tools.
create table operator_actions (
    id uuid primary key,
    order_id uuid not null,
    actor text not null,
    action text not null,
    attention text not null,
    -- The provider's or carrier's number of what was done by hand.
    reference text,
    reason text not null,
    at timestamptz not null default now(),
    constraint operator_actions_action check (action in ('retry', 'resolve', 'skip'))
);
create index operator_actions_by_order on operator_actions (order_id, at);

-- A payment may be authorized anew: of an order's authorizations the latest counts.
alter table payment_operations
    add column generation integer not null default 1,
    -- What the customer has to do, where the provider asks for it: a URL.
    add column next_action text,
    -- The hold may be captured in parts.
    add column multicapture boolean;
