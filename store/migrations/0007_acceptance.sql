-- The first answer to an order that was placed follows from the request, the order's id and its time: it is not kept a
-- second time beside the order, unless the client waited and was told more.
alter table idempotency_keys add column order_id uuid;

-- Until when whoever accepted an order starts its workflow itself; the starter leaves it alone so long.
alter table orders add column start_due_at timestamptz;
