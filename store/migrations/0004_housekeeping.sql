-- What scheduled housekeeping looks for. These indexes hold open orders and held goods alone, so they stay as small as
-- the business of the day, however many orders there have been.

-- Orders that have not ended, in the order of their age.
create index orders_open on orders (id) where status not in ('completed', 'cancelled', 'rejected', 'expired');
-- Goods that are set aside, to find those whose order has ended.
create index reservations_held on reservations (order_id) where state = 'held';
-- The carrier's word on one order, read again by whoever takes the order over.
create index inbox_by_order on inbox (order_id, received_at);

-- Where two books say different things. One row per thing that differs, so that it is told once.
create table drifts (
    kind text not null,
    -- What it is about: a payment's id at the provider, or merchant, SKU and location.
    subject text not null,
    -- Null where it is no single order's.
    order_id uuid,
    detail jsonb not null,
    found_at timestamptz not null default now(),
    repaired_at timestamptz,
    repair text,
    primary key (kind, subject)
);
