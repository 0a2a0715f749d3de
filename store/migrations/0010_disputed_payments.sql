-- A dispute blocks refunds of the payment that it is about, and of no other.
alter table disputes add column payment text;
-- So far only the order was recorded: of one with several payments, the largest capture.
update disputes d set payment = (
    select p.provider_ref from payment_operations p
    where p.order_id = d.order_id and p.kind = 'capture' and p.state = 'succeeded' and p.provider_ref is not null
    order by p.amount desc, p.key limit 1
);
