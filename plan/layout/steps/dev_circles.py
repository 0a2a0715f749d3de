import sys; sys.path.insert(0,'plan/layout/steps'); from edit import *
D='dev/src/'
# 1. guard <-> processes
c=cut(D+'guard.rs','/// How long a child may take to stop by itself','/// The signal that asks a process')
sub(D+'guard.rs','use crate::processes::PidRecord;','use crate::processes::{PidRecord, STOP_WAIT_MAX};')
sub(D+'guard.rs','use std::time::Duration;\n','')
sub(D+'processes.rs','use crate::guard::STOP_WAIT_MAX;\n\n',c)
# 2. cli <-> chaos::plan, and load -> cli: options stand beside what they are for, as SimulateArgs and GuardArgs do
la=cut(D+'cli.rs','/// Options of `load`.','/// Options of `chaos`.')
ca=cut(D+'cli.rs','/// Options of `chaos`.','/// The highest rate that is taken')
pa=cut(D+'cli.rs','/// The highest rate that is taken','/// What an order wants when')
put(D+'load/args.rs',"""//! Options of `cargo dev load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::mix::Mix;
use super::open_loop::Arrivals;

"""+la+pa.replace('fn duration(','pub(crate) fn duration(').rstrip()+'\n')
o=cut(D+'chaos/plan.rs','/// Orders per second unless something else is asked for','/// The latest message about an order')
put(D+'chaos/args.rs',"""//! Options of `cargo dev chaos`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::load::args::duration;

"""+o+'\n'+ca.rstrip()+'\n')
sub(D+'load/mod.rs','pub mod books;','pub mod args;\npub mod books;')
sub(D+'load/mod.rs','use crate::cli::LoadArgs;\n','')
sub(D+'load/mod.rs','use self::live::Board;','pub use self::args::LoadArgs;\nuse self::live::Board;')
sub(D+'chaos/mod.rs','mod customers;','pub mod args;\nmod customers;')
sub(D+'chaos/mod.rs','use crate::cli::ChaosArgs;\n','')
sub(D+'chaos/mod.rs','use crate::client::Client;','pub use self::args::{ChaosArgs, Scenario};\nuse crate::client::Client;')
sub(D+'chaos/plan.rs','use crate::cli::{ChaosArgs, Scenario};','use super::args::{ChaosArgs, Scenario};')
sub(D+'chaos/report.rs','use crate::cli::ChaosArgs;\n','')
sub(D+'chaos/report.rs','use super::plan::Plan;','use super::args::ChaosArgs;\nuse super::plan::Plan;')
sub(D+'cli.rs','use crate::chaos::plan::ORDERS_PER_SECOND;\n','use crate::chaos::ChaosArgs;\n')
sub(D+'cli.rs','use crate::load::{mix::Mix, open_loop::Arrivals};','use crate::load::LoadArgs;')
sub(D+'cli.rs','use std::time::Duration;\n','')
sub(D+'verbs.rs','use crate::cli::{LoadArgs, LogOf, OrderArgs};','use crate::cli::{LogOf, OrderArgs};')
sub(D+'verbs.rs','use crate::home::{StackDir, StackFile};','use crate::home::{StackDir, StackFile};\nuse crate::load::LoadArgs;')
# 3. stack <-> invariants: the checker is given what it reads
I=D+'invariants/mod.rs'
sub(I,'use crate::stack::Stack;\n','use crate::sim::PaymentsSim;\n')
sub(I,"    stack: &'a Stack,\n","    payments: &'a PaymentsSim,\n    queue_prefix: &'a str,\n")
sub(I,"""    /// Of a stack that is up.
    ///
    /// # Errors
    /// When its database can't be connected to.
    pub fn of(stack: &'a Stack) -> Result<Self> {
        let pool = waybill_store::connect(&stack.database_url, CONNECTIONS)?;
        Ok(Self { pool, temporal: stack.temporal.clone(), stack })
    }
""","""    /// A stack's database, Temporal, payment provider, and what the names of its task queues begin with.
    ///
    /// # Errors
    /// When the database can't be connected to.
    pub fn new(
        database_url: &str,
        temporal: TemporalHttp,
        payments: &'a PaymentsSim,
        queue_prefix: &'a str,
    ) -> Result<Self> {
        let pool = waybill_store::connect(database_url, CONNECTIONS)?;
        Ok(Self { pool, temporal, payments, queue_prefix })
    }
""")
sub(I,'self.stack.queue_prefix()\n','self.queue_prefix\n')
sub(I,'&self.stack.payments.snapshot()','&self.payments.snapshot()')
sub(I,'self.stack.queue_prefix()','self.queue_prefix')
sub(D+'stack.rs',"""    /// What the names of its task queues begin with.
""","""    /// What the invariants are checked on.
    ///
    /// # Errors
    /// When the database can't be connected to.
    pub fn sources(&self) -> Result<Sources<'_>> {
        Sources::new(&self.database_url, self.temporal.clone(), &self.payments, &self.queue_prefix)
    }

    /// What the names of its task queues begin with.
""")
sub(D+'stack.rs','Sources::of(self)?.check','self.sources()?.check')
sub(D+'chaos/mod.rs','Sources::of(&stack)?','stack.sources()?')
sub(D+'chaos/mod.rs','Sources::of(stack)?','stack.sources()?')
sub(D+'chaos/mod.rs','use crate::invariants::{Moment, Sources, Violation};','use crate::invariants::{Moment, Violation};')
# 4. simulators: the inside (core) and the sender (courier) know neither requests nor deliveries
S=D+'sim/'
co=cut(S+'server.rs',"/// A simulator's inside.",'/// A simulator that is up.')
inf=cut(S+'exchange.rs','/// The idempotency keys whose first request','/// The right to work under a key')
put(S+'simulator.rs',"""//! A simulator's inside: its ledger, its fault switches, and what is under way.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::courier::Courier;
use super::faults::Faults;
use super::ledger::{Ledger, Line, Records};

"""+co.replace('    api_key: String,\n}\n','    pub api_key: String,\n}\n',1)+inf.replace('InFlight(Mutex','InFlight(pub Mutex').rstrip()+'\n')
st=cut(S+'webhooks.rs','/// How an event is addressed and signed.','/// Makes sure that a task is at work')
li=cut(S+'webhooks.rs','/// A receiver that takes longer has failed.','/// An event to be swapped waits')
put(S+'courier.rs',"""//! The sending side of webhooks: one signed attempt at a time. What is to be sent, and when, is in [`super::webhooks`].

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{RequestBuilder, StatusCode};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};

use super::ledger::Event;

"""+li+'\n'+st.replace('    active: Mutex<','    pub active: Mutex<').replace('    async fn attempt(','    pub async fn attempt(').rstrip()+'\n')
h=pathlib.Path(S+'webhooks.rs'); t=h.read_text()
a=t.index('use std::collections'); b=t.index('const RETRY_WAIT_MIN')
h.write_text(t[:a]+"""use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

use super::simulator::Core;
use super::faults::{Injected, Route};
use super::ledger::{Event, Line, Records, Settled};
use super::lock;

"""+t[b:])
sub(S+'exchange.rs','use super::server::Core;\n','')
sub(S+'exchange.rs','use super::faults::{self,','use super::simulator::Core;\nuse super::faults::{self,')
sub(S+'exchange.rs','use std::sync::{Arc, Mutex};','use std::sync::Arc;')
sv=S+'server.rs'
for old,new in [('use std::io;\n',''),('use std::path::Path;\n',''),('use super::exchange::{InFlight, Reply};','use super::simulator::Core;\nuse super::exchange::Reply;'),
 ('use super::faults::{Faults, Rule};','use super::faults::Rule;'),('use super::ledger::{Ledger, Line, Records};','use super::ledger::Records;'),
 ('use super::webhooks::{self, Courier};','use super::webhooks;'),('use tokio_util::sync::CancellationToken;\nuse tokio_util::task::TaskTracker;\n',''),
 ('use serde_json::{Value, json};','use serde_json::Value;')]: sub(sv,old,new)
for m in ('carrier','payments'):
    f=S+m+'/mod.rs'
    sub(f,'use super::server::{Core, Running};\nuse super::webhooks::{Courier, Style};','use super::server::Running;')
    sub(f,'use super::exchange::Reply;' if m=='payments' else 'use super::faults::Rule;','use super::simulator::Core;\nuse super::courier::{Courier, Style};\n'+('use super::exchange::Reply;' if m=='payments' else 'use super::faults::Rule;'))
sub(S+'mod.rs','mod carrier;\nmod exchange;','mod carrier;\nmod courier;\nmod exchange;'); sub(S+'mod.rs','mod server;','mod server;\nmod simulator;')
# 5. simulated payments: what is recorded (model) knows nothing of the requests that change it
M=S+'payments/'
r=cut(M+'refunds.rs','#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]\n#[serde(rename_all = "snake_case")]\npub(in crate::sim) enum RefundStatus','pub(super) async fn create')
d=cut(M+'disputes.rs',"/// A merchant has seven days or more",'const REASON_DEFAULT')
d2=cut(M+'disputes.rs','#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]','/// What is disputed, and why.')
put(M+'model/refund.rs',"""//! A refund as it is recorded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

"""+r.rstrip()+'\n')
put(M+'model/dispute.rs',"""//! A dispute as it is recorded.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

"""+d+'\n'+d2.rstrip()+'\n')
sub(M+'model.rs','use super::disputes::{Dispute, DisputeStatus};\nuse super::refunds::Refund;\n','')
sub(M+'model.rs','use std::collections::BTreeMap;','mod dispute;\nmod refund;\n\nuse std::collections::BTreeMap;')
sub(M+'model.rs','use crate::sim::new_id;\n','use crate::sim::new_id;\n\npub(in crate::sim) use dispute::{Dispute, DisputeStatus};\npub(in crate::sim) use refund::{Refund, RefundStatus};\n')
sub(M+'refunds.rs','use super::model::{Decline, Intent, Item, Payments};','use super::model::{Decline, Intent, Item, Payments, Refund, RefundStatus};')
sub(M+'refunds.rs','use serde::{Deserialize, Serialize};\nuse serde_json::{Value, json};','use serde::Deserialize;\nuse serde_json::json;')
sub(M+'disputes.rs','use super::model::{Item, Payments};','use super::model::{Dispute, DisputeStatus, Item, Payments};')
sub(M+'disputes.rs','use serde::{Deserialize, Serialize};\nuse serde_json::{Value, json};\n','use serde::Deserialize;\n')
sub(M+'lookup.rs','use super::disputes::Dispute;\n','')
sub(M+'lookup.rs','use super::refunds::Refund;\n','')
t=pathlib.Path(M+'lookup.rs').read_text(); m=re.search(r'use super::model::(\{[^}]*\}|\w+);',t); names=m.group(1).strip('{}').split(', ')
sub(M+'lookup.rs',m.group(0),'use super::model::{'+', '.join(sorted(names+['Dispute','Refund']))+'};')
sub(M+'control.rs','use super::disputes::{Complaint, DisputeStatus};','use super::disputes::Complaint;')
t=pathlib.Path(M+'control.rs').read_text(); m=re.search(r'use super::model::(\{[^}]*\}|\w+);',t); names=m.group(1).strip('{}').split(', ')
sub(M+'control.rs',m.group(0),'use super::model::{'+', '.join(sorted(names+['DisputeStatus']))+'};')
sub(D+'chaos/plan.rs','mod tests {\n    use super::*;\n','mod tests {\n    use super::super::args::ORDERS_PER_SECOND;\n    use super::*;\n')
