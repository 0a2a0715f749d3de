-- A count may find fewer items than orders have been promised. What is promised and not here is `short`: per stock row,
-- and per reservation of the newest orders. On hand stays `available + reserved`, and what orders hold is
-- `reserved + short`. Nothing is available while anything is short, so no other order gets what these are owed.
alter table stock
    add column short integer not null default 0,
    add constraint stock_short check (short >= 0 and (short = 0 or available = 0));

-- Of the held items, how many are not here. Of a sold reservation: how many were not here when the carrier took them, until
-- the order's timeline has it (then 0; `missing` keeps the number).
alter table reservations
    add column short integer not null default 0,
    add constraint reservations_short check (short between 0 and quantity and (short = 0 or state <> 'released'));

-- Both are small: they hold open shortfalls alone. Compared with each other to find orders whose attention is not up to
-- date.
create index reservations_short on reservations (order_id) where short > 0;
create index concerns_shortfall on concerns (order_id) where reason = 'stock_shortfall' and cleared_at is null;

-- The answer for a shipment that was replaced because it was short: given again when the step is repeated.
create table settled_shortfalls (
    shipment_id uuid primary key,
    order_id uuid not null,
    successors uuid[] not null,
    answer jsonb not null,
    settled_at timestamptz not null default now()
);
