-- What happens after an order's way: refunds, disputes, returns. Their own code writes them; its workflow may have ended.

-- The ledger has a capture before the order's workflow has shown it, and a refund may be done in between. That no
-- more is refunded than was captured is seen to where a refund is asked for, against the ledger.
alter table orders drop constraint orders_amounts_not_negative;
alter table orders add constraint orders_amounts_not_negative check (
    subtotal >= 0 and shipping_fee >= 0 and tax >= 0 and total >= 0
    and authorized >= 0 and captured >= 0 and refunded >= 0
);

create table refunds (
    id uuid primary key,
    order_id uuid not null,
    merchant_id uuid not null,
    amount bigint not null,
    reason text not null,
    state text not null,
    -- Why it failed, in the provider's word.
    code text,
    -- The provider's id of the refund, once it has said so.
    provider_ref text,
    -- The return it follows from.
    return_id uuid,
    -- The client's key: the same request once more, after a crash between this row and the answer, is this row.
    request_key text,
    -- Null while nobody knows whether the refund has a workflow: the row is its own outbox.
    workflow_started_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint refunds_request_unique unique (order_id, request_key),
    constraint refunds_state check (state in ('requested', 'pending', 'succeeded', 'failed')),
    constraint refunds_amount check (amount > 0)
);
create index refunds_by_order on refunds (order_id, id);
create index refunds_unstarted on refunds (created_at) where workflow_started_at is null;

-- What customers dispute with their banks, as the payment provider tells it.
create table disputes (
    -- The provider's.
    id text primary key,
    order_id uuid not null,
    amount bigint not null,
    reason text not null,
    -- The provider's word, such as needs_response, won, lost.
    status text not null,
    -- Until when it can be answered, if the provider says so.
    due_by timestamptz,
    opened_at timestamptz not null default now(),
    closed_at timestamptz,
    constraint disputes_amount check (amount >= 0)
);
create index disputes_by_order on disputes (order_id);

-- Goods that come back.
create table returns (
    id uuid primary key,
    order_id uuid not null,
    merchant_id uuid not null,
    reason text not null,
    state text not null,
    -- What the received pieces are worth, known once they are here.
    amount bigint,
    -- The clients' keys, as with refunds.
    request_key text,
    receipt_key text,
    workflow_started_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint returns_request_unique unique (order_id, request_key),
    constraint returns_state check (state in ('awaiting', 'received', 'restocked', 'closed'))
);
create index returns_by_order on returns (order_id);
create index returns_unstarted on returns (created_at) where workflow_started_at is null;

-- A row per shipment that the pieces had left with: that is where they are restocked.
create table return_lines (
    return_id uuid not null,
    shipment_id uuid not null,
    line integer not null,
    order_id uuid not null,
    quantity integer not null,
    restocked integer not null default 0,
    written_off integer not null default 0,
    primary key (return_id, shipment_id, line),
    constraint return_lines_quantity check (quantity > 0),
    constraint return_lines_received check (
        restocked >= 0 and written_off >= 0 and restocked + written_off <= quantity
    )
);
create index return_lines_by_order on return_lines (order_id);

-- Pieces by line that came back: an array in the order of the lines, null for none. The order's workflow knows nothing
-- of it, so it is not in line_states.
alter table orders add column returned jsonb;

-- Of the sold pieces, how many are on the shelf again.
alter table reservations
    add column returned integer not null default 0,
    add constraint reservations_returned check (returned between 0 and quantity);
