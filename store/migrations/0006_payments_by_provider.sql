-- Disputes name a payment and nothing of ours: whose it is must not be looked for in all of the ledger.
create index payment_operations_by_payment on payment_operations (provider_ref) where kind = 'authorize';
