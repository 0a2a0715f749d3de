import re,pathlib
S=pathlib.Path('store/src')
l=S/'lib.rs'; t=l.read_text()
for m in 'acceptance belief concerns disputes drifts group held idempotency late notify operations projection reservations risk shortfalls starts'.split():
    t=t.replace(f'pub mod {m};\n','')
t=t.replace('mod kept;\n','').replace('pub mod payments;\n','pub mod payments;\npub mod postgres;\n')
l.write_text(t)
def add(f,old,new):
    p=S/f; t=p.read_text(); assert old in t,(f,old); p.write_text(t.replace(old,new,1))
add('orders/mod.rs','mod list;\n','pub mod acceptance;\npub mod concerns;\nmod list;\npub mod operations;\npub mod projection;\n')
add('orders/mod.rs','mod reader;\nmod row;\n','mod reader;\npub mod risk;\nmod row;\npub mod starts;\n')
add('payments/mod.rs','mod begin;\n','mod begin;\npub mod belief;\npub mod held;\n')
add('refunds/mod.rs','mod balance;\n','mod balance;\npub mod disputes;\n')
add('stock/mod.rs','mod change;\n','mod change;\npub mod reservations;\npub mod shortfalls;\n')
add('shipments/mod.rs','\nuse crate::','\npub mod late;\n\nuse crate::')
add('inbox/mod.rs','\nuse crate::','\npub mod idempotency;\n\nuse crate::')
add('housekeeping/mod.rs','\nuse crate::','\npub mod drifts;\n\nuse crate::')
(S/'postgres/mod.rs').write_text('''//! The connection to Postgres: pooled connections, batches of statements, `LISTEN` and `NOTIFY`. It owns no table, and
//! knows no aggregate.

pub mod group;
pub(crate) mod kept;
pub mod notify;
''')
