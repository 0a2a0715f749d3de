-- What the carrier says late: goods of a cancelled shipment that left after all.

-- Of the sold pieces, how many had been promised to other orders by the time it was known that they had left: they were
-- free, were reserved anew, and are not on the shelf. `stock` counts them where those orders have them, so they are not
-- in its `sold`; pieces that come back make up for them first.
alter table reservations
    add column missing integer not null default 0,
    add constraint reservations_missing check (missing between 0 and quantity);
