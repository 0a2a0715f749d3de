//! Injects faults for a limited time: kills and freezes processes, cuts connections, makes providers fail.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::plan::{Disturbance, FaultPlan, Part};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;
use waybill_stack::servers::Servers;
use waybill_stack::servers::link::Link;
use waybill_stack::supervise::Child;

/// Added latency of a slow provider.
const SLOW_MS: u64 = 1_500;
/// A killed server must be ready again before the run continues.
const BACK_MAX: Duration = Duration::from_secs(90);

/// Injects the faults of a run.
pub struct Disturber<'a> {
    servers: &'a mut Servers,
    stack: &'a mut Stack,
    link: &'a Link,
    /// Indexes of the active faults.
    active: BTreeSet<usize>,
    faults: &'a [FaultPlan],
}

impl<'a> Disturber<'a> {
    /// For a stack with private servers; `link` is its proxy to Temporal.
    pub fn new(
        servers: &'a mut Servers,
        stack: &'a mut Stack,
        link: &'a Link,
        faults: &'a [FaultPlan],
    ) -> Self {
        Self { servers, stack, link, active: BTreeSet::new(), faults }
    }

    /// Runs the faults from `start` on.
    ///
    /// # Errors
    /// When a process or server cannot be restarted.
    pub async fn run(&mut self, start: Instant) -> Result<()> {
        let mut edges: Vec<(Duration, usize, bool)> = (0..self.faults.len())
            .flat_map(|nth| {
                let fault = &self.faults[nth];
                [(fault.at, nth, true), (fault.at + fault.lasts, nth, false)]
            })
            .collect();
        edges.sort();
        for (at, nth, begins) in edges {
            tokio::time::sleep_until(start + at).await;
            if begins { self.begin(nth).await? } else { self.end(nth).await? }
        }
        Ok(())
    }

    /// Ends every fault and restarts the processes that are not running.
    ///
    /// # Errors
    /// When a process or server cannot be restarted.
    pub async fn heal(&mut self) -> Result<()> {
        while let Some(nth) = self.active.first().copied() {
            self.end(nth).await?;
        }
        self.set_rules();
        let stack = &mut *self.stack;
        for child in std::iter::once(&mut stack.api).chain(&mut stack.more_apis).chain(&mut stack.workers) {
            // A process exits if it cannot reach a server at its start.
            if !child.is_running() {
                child.restart().await?;
            }
        }
        Ok(())
    }

    /// Returns whether the component is already killed or frozen.
    fn is_busy(&self, part: Part) -> bool {
        let stops = |how| matches!(how, Disturbance::Kill | Disturbance::Freeze);
        self.active.iter().any(|nth| self.faults[*nth].part == part && stops(self.faults[*nth].how))
    }

    async fn begin(&mut self, nth: usize) -> Result<()> {
        let fault = self.faults[nth];
        match fault.how {
            Disturbance::Kill if !self.is_busy(fault.part) => self.child(fault.part)?.kill_hard().await?,
            Disturbance::Freeze if !self.is_busy(fault.part) => self.child(fault.part)?.suspend(true)?,
            Disturbance::Kill | Disturbance::Freeze => return Ok(()),
            Disturbance::CutConnections if fault.part == Part::Temporal => {
                self.link.cut();
                return Ok(());
            }
            Disturbance::CutConnections => {
                // Postgres may be down.
                let _ = cut_connections(&self.stack.database_url).await;
                return Ok(());
            }
            _ => {}
        }
        self.active.insert(nth);
        self.set_rules();
        Ok(())
    }

    async fn end(&mut self, nth: usize) -> Result<()> {
        if !self.active.remove(&nth) {
            return Ok(());
        }
        let fault = self.faults[nth];
        match (fault.how, fault.part) {
            (Disturbance::Freeze, part) => self.child(part)?.suspend(false)?,
            (Disturbance::Kill, Part::Temporal) => {
                tokio::time::timeout(BACK_MAX, self.servers.temporal.restart()).await??;
            }
            (Disturbance::Kill, Part::Postgres) => {
                tokio::time::timeout(BACK_MAX, self.servers.postgres.restart()).await??;
            }
            (Disturbance::Kill, part) => self.child(part)?.restart().await?,
            _ => {}
        }
        self.set_rules();
        Ok(())
    }

    fn child(&mut self, part: Part) -> Result<&mut Child> {
        let child = match part {
            Part::Worker(nth) => self.stack.workers.get_mut(nth),
            Part::Api(0) => Some(&mut self.stack.api),
            Part::Api(nth) => self.stack.more_apis.get_mut(nth - 1),
            Part::Temporal => Some(&mut self.servers.temporal.child),
            Part::Postgres => Some(&mut self.servers.postgres.child),
            Part::Payments | Part::Carrier => None,
        };
        child.ok_or_else(|| anyhow::anyhow!("{part:?} is not a process of this run"))
    }

    fn set_rules(&self) {
        let of = |part: Part| {
            let active =
                self.active.iter().map(|nth| self.faults[*nth]).filter(move |fault| fault.part == part);
            active.flat_map(|fault| rules(fault.how)).collect::<Vec<_>>()
        };
        self.stack.payments.set_faults(of(Part::Payments));
        self.stack.carrier.set_faults(of(Part::Carrier));
    }
}

fn rules(how: Disturbance) -> Vec<Rule> {
    let rule = |route, fault| Rule { route, fault, times: None, matching: None };
    match how {
        Disturbance::LoseAnswers => vec![rule(Route::Any, Fault::DropReply)],
        Disturbance::Fail => vec![rule(Route::Any, Fault::Status { status: 503 })],
        Disturbance::Slow => vec![rule(Route::Any, Fault::Latency { ms: SLOW_MS })],
        Disturbance::ScrambleEvents => {
            vec![rule(Route::Webhook, Fault::Duplicate), rule(Route::Webhook, Fault::Reorder)]
        }
        Disturbance::Refuse => vec![rule(Route::Cancel, Fault::Refuse)],
        Disturbance::Kill | Disturbance::Freeze | Disturbance::CutConnections => Vec::new(),
    }
}

async fn cut_connections(url: &str) -> Result<()> {
    let mut db = PgConnection::connect(url).await?;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&mut db).await?;
    Ok(())
}
