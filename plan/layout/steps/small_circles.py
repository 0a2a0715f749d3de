import sys; sys.path[:0]=['plan/layout','plan/layout/steps']; from edit import *; from moveitems import move
# bench: drawing is asked for by whoever keeps the report
sub('bench/src/report.rs','    picture,\n',''); sub('bench/src/report.rs','''        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        picture::draw(self, &dir.join(&self.name))
''','''        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))
''')
sub('bench/src/report.rs','    /// Keeps it as `<name>.json`, `.svg` and `.png` in a directory.','    /// Keeps it as `<name>.json` in a directory.')
sub('bench/src/main.rs','report.keep(out)?;','report.keep(out)?;\n            picture::draw(&report, &out.join(&report.name))?;')
# worker: what all dispatchers share, below them
W='worker/src/'
move(W+'pump.rs',W+'metrics.rs',['START_AGE','BATCH_MAX','PumpMetrics','impl:PumpMetrics'],"//! What everything that the worker dispatches shares: its counters, and how much is taken at a time.")
t=pathlib.Path(W+'metrics.rs').read_text()
t=t[:t.index('use crate')]+'''use prometheus::{
    Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, register_gauge_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
    register_int_gauge_with_registry,
};
use std::time::Duration;

'''+t[t.index('/// The API starts refunds'):]
t=re.sub(r'(?m)^    (backlog|backlog_age|undelivered|orders|needing_attention): ',r'    pub(crate) \1: ',t); pathlib.Path(W+'metrics.rs').write_text(t)
p=pathlib.Path(W+'pump.rs'); t=p.read_text(); a=t.index('use prometheus::{'); b=t.index('use std::{'); t=t[:a]+t[b:]; t=t.replace('use crate::{after, shortfalls};','use crate::{\n    after,\n    metrics::{BATCH_MAX, PumpMetrics},\n    shortfalls,\n};'); p.write_text(t)
for f in ('after','shortfalls'):
    q=pathlib.Path(W+f+'.rs'); q.write_text(q.read_text().replace('crate::pump::','crate::metrics::'))
sub(W+'lib.rs','mod housekeeping;\n','mod housekeeping;\nmod metrics;\n'); sub(W+'lib.rs','pump::PumpMetrics::new','metrics::PumpMetrics::new')
sub(W+'lib.rs','let metrics = Metrics::start','let metrics = Metrics::start')
# worker: schedules are asked for with what they need of the hosting
H=W+'housekeeping.rs'
sub(H,'pub(crate) async fn ensure_schedules(engine: &Engine, hosting: &Hosting) -> anyhow::Result<()> {','pub(crate) async fn ensure_schedules(engine: &Engine, prefix: &str, every: &Intervals) -> anyhow::Result<()> {')
sub(H,'/// Makes sure that the schedules are there','''/// How often housekeeping runs.
pub(crate) struct Intervals {
    /// The sweeper.
    pub(crate) sweep: Duration,
    /// The reconciliation.
    pub(crate) reconcile: Duration,
}

/// Makes sure that the schedules are there''')
t=pathlib.Path(H).read_text(); t=t.replace('hosting.prefix','prefix').replace('hosting.sweep_every','every.sweep').replace('hosting.reconcile_every','every.reconcile'); t=re.sub(r'use crate::hosting::Hosting;\n','',t); pathlib.Path(H).write_text(t)
G=W+'hosting.rs'
sub(G,'''    /// How often the sweeper runs.
    pub(crate) sweep_every: Duration,
    /// How often the reconciliation runs.
    pub(crate) reconcile_every: Duration,
''','''    /// How often housekeeping runs.
    pub(crate) intervals: housekeeping::Intervals,
''')
sub(G,'housekeeping::ensure_schedules(engine, hosting)','housekeeping::ensure_schedules(engine, &hosting.prefix, &hosting.intervals)')
sub(W+'lib.rs','''        sweep_every: Duration::from_secs(args.sweep_seconds),
        reconcile_every: Duration::from_secs(args.reconcile_seconds),
''','''        intervals: housekeeping::Intervals {
            sweep: Duration::from_secs(args.sweep_seconds),
            reconcile: Duration::from_secs(args.reconcile_seconds),
        },
''')
# activities: what they need and how an attempt is run, below the steps; the activities by name, above them
A='activities/src/'
move(A+'order_steps.rs',A+'context.rs',['Waits','OrderSteps','impl:OrderSteps'],"//! What the activities need, and how one attempt is run.")
pathlib.Path(A+'lib.rs').write_text(pathlib.Path(A+'lib.rs').read_text().replace('pub mod chaos;\n','pub mod chaos;\nmod context;\n').replace('pub use order_steps::{OrderSteps, Waits};','pub use context::{OrderSteps, Waits};'))

t=pathlib.Path(A+'order_steps.rs').read_text(); a=t.index('use crate::'); b=t.index('#[activities]')
pathlib.Path(A+'order_steps.rs').write_text(t[:a]+"""use crate::{context::OrderSteps, retry::StepFailure, steps};
use std::sync::Arc;
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use waybill_domain::shortfall::Replacement;
use waybill_workflows::{activities as definitions, wire::*};

"""+t[b:])
t=pathlib.Path(A+'context.rs').read_text(); a=t.index('use crate::'); b=t.index('/// How long people may take.')
pathlib.Path(A+'context.rs').write_text(t[:a]+"""use crate::{carrier, chaos::Chaos, metrics::StepMetrics, payments, retry::StepFailure};
use serde::Serialize;
use std::{future::Future, sync::Arc, time::Instant};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tracing::Instrument;
use waybill_domain::ids::OrderId;
use waybill_store::{PgPool, postgres::notify::Notifier, writers::Writers};

"""+t[b:].replace('its error judged in [`retry`]','its error judged in [`crate::retry`]'))
