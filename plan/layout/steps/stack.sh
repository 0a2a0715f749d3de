set -eu
mkdir -p stack/src
for m in binaries.rs client.rs guard.rs home.rs ports.rs processes.rs servers stack.rs supervise.rs term.rs invariants; do git mv dev/src/$m stack/src/$m; done
python3 plan/layout/steps/mk.py stack lib waybill-domain waybill-simulators waybill-store anyhow base64 clap futures hex indicatif reqwest rustix rustls serde serde_json sha2 sqlx tokio tokio-util uuid
sed -i 's/"simulators", "dev"/"simulators", "stack", "dev"/; s#^waybill-dev = .*#waybill-stack = { path = "stack" }\n&#' Cargo.toml
sed -i 's#^waybill-store.workspace = true#waybill-stack.workspace = true\n&#' dev/Cargo.toml bench/Cargo.toml
for m in binaries client guard home invariants ports processes servers stack supervise term; do sed -i "/^pub mod $m;\$/d" dev/src/lib.rs; done
printf '!stack\n' >> .dockerignore
cat > stack/src/lib.rs <<'R'
//! The local stack: real Temporal, real Postgres, simulated provider and carrier, Waybill's own binaries, all on one
//! machine. `cargo dev` has one of these; each test that wants the whole has one of its own.
//!
//! [`Servers`](servers::Servers) is Temporal and Postgres, [`Stack`] is Waybill on top of them, with a database,
//! simulators, an API and workers of its own, and [`invariants`] is what must be true of it whatever happens.
//!
//! Every process runs under a [guard], which stops it however its starter ends.

pub mod binaries;
pub mod client;
pub mod goods;
pub mod guard;
pub mod home;
pub mod invariants;
pub mod ports;
pub mod processes;
pub mod servers;
mod stack;
pub mod supervise;
pub mod term;

pub use stack::{Stack, StackBuilder, StackPorts};
R
python3 - <<'P'
import sys; sys.path.insert(0,'plan/layout/steps'); from edit import *
O='dev/src/orders.rs'
g=cut(O,'/// Goods with their price in cents.','/// How many of the scarce thing there are')
c=cut(O,'/// How many of the scarce thing there are','/// What to put on the shelves')
s=cut(O,'/// What to put on the shelves','/// An order as')
put('stack/src/goods.rs','''//! What the demo merchant has in stock.

use serde_json::{Value, json};

'''+g.replace('const ','pub const ')+'/// How many of the scarce thing there are.\npub const SCARCE_ON_HAND: i64 = 3;\n\n'+s.rstrip()+'\n')
sub(O,'use crate::cli::{OrderArgs, Shortage};\n','use waybill_stack::goods::{DEAR, GOODS, SCARCE};\n\nuse crate::cli::{OrderArgs, Shortage};\n\n/// How many of the scarce thing a short order asks for: more than there are.\nconst SCARCE_WANTED: i64 = 8;\n')
sub(O,'mod tests {\n    use super::*;\n','mod tests {\n    use super::*;\n    use waybill_stack::goods::SCARCE_ON_HAND;\n')
sub(O,"//! The demo merchant's shop: what it has in stock, and orders that take each of the ways an order can go.","//! The demo customer: orders that take each of the ways an order can go.")
sub('stack/src/stack.rs','use crate::orders;\n','use crate::goods;\n'); sub('stack/src/stack.rs','orders::stock()','goods::stock()')
sub('stack/src/binaries.rs','pub(crate) fn cargo()','pub fn cargo()')
P
cat > plan/layout/steps/stack.dev.map <<'M'
crate::binaries waybill_stack::binaries
crate::client waybill_stack::client
crate::guard waybill_stack::guard
crate::home waybill_stack::home
crate::invariants waybill_stack::invariants
crate::ports waybill_stack::ports
crate::processes waybill_stack::processes
crate::servers waybill_stack::servers
crate::stack waybill_stack
crate::supervise waybill_stack::supervise
crate::term waybill_stack::term
M
sed 's/crate::/waybill_dev::/' plan/layout/steps/stack.dev.map > plan/layout/steps/stack.map
python3 plan/layout/repath.py plan/layout/steps/stack.dev.map dev/src
python3 plan/layout/repath.py plan/layout/steps/stack.map dev bench
