-- Refunds that were made at the provider, as in its dashboard, count like our own. Their ids follow from the provider's.
alter table refunds
    add column source text not null default 'waybill',
    add constraint refunds_source check (source in ('waybill', 'provider'));
-- The reconciliation looks up those that are pending: nothing else follows them.
create index refunds_pending_at_provider on refunds (created_at) where source = 'provider' and state = 'pending';
