-- Money that goes back to customers. Its own workflow asks the provider, also long after the order's has ended; what
-- is known is here. `orders.refunded` is the sum of those that succeeded, written in the same transaction.
create table refunds (
    id uuid primary key,
    order_id uuid not null,
    merchant_id uuid not null,
    amount bigint not null,
    reason text not null,
    -- A refund that is pending is not refunded: the provider has taken it on and not told the outcome.
    state text not null default 'requested',
    -- The provider's reason why it failed.
    code text,
    -- The provider's id of the refund.
    provider_ref text,
    -- Null while nobody knows whether it has a workflow.
    workflow_started_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint refunds_amount check (amount > 0),
    constraint refunds_state check (state in ('requested', 'pending', 'succeeded', 'failed'))
);
create index refunds_by_order on refunds (order_id);
create index refunds_unstarted on refunds (created_at) where workflow_started_at is null;
