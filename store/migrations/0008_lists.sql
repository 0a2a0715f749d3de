-- Lists go backwards through these, from a row of their last columns: that takes one direction of all columns.
drop index orders_by_merchant;
drop index orders_by_status;
drop index orders_by_customer;
drop index orders_by_reference;
create index orders_by_merchant on orders (merchant_id, id);
create index orders_by_status on orders (merchant_id, status, id);
create index orders_by_customer on orders (merchant_id, customer_id, id);
create index orders_by_reference on orders (merchant_id, reference, id) where reference is not null;

-- Orders that need somebody, whoever says so: two indexes, one for each who says so, give no such order, and with millions
-- of orders the list read a hundred thousand of them. Its condition is that of the query, word for word.
create index orders_needing_attention on orders (merchant_id, id) where attention is not null or concern is not null;
drop index orders_by_attention;
drop index orders_by_concern;
