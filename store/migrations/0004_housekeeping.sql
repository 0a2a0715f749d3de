-- What scheduled housekeeping looks for. These indexes hold open orders and held goods alone, so they stay as small as
-- the business of the day, however many orders there have been.

-- Orders that have not ended, in the order of their age.
create index orders_open on orders (id) where status not in ('completed', 'cancelled', 'rejected', 'expired');
-- Goods that are set aside, to find those whose order has ended.
create index reservations_held on reservations (order_id) where state = 'held';
-- The carrier's word on one order, read again by whoever takes the order over.
create index inbox_by_order on inbox (order_id, received_at);
