-- Orders that need somebody, whoever says so, newest first: two indexes, one for each who says so, give no such order,
-- and with millions of orders the list read a hundred thousand of them. Its condition is that of the query, word for word.
create index orders_needing_attention on orders (merchant_id, id desc) where attention is not null or concern is not null;
drop index orders_by_attention;
drop index orders_by_concern;
