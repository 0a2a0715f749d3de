//! Injects faults for a limited time: kills and freezes processes, cuts connections, makes providers fail.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::plan::{Component, FaultKind, FaultPlan};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::Stack;
use waybill_stack::child_process::Child;
use waybill_stack::servers::Servers;
use waybill_stack::servers::tcp_proxy::TcpProxy;

/// Added latency of a slow provider.
const SLOW_MS: u64 = 1_500;
/// A killed server must be ready again before the run continues.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);

/// Injects the faults of a run.
pub struct FaultInjector<'a> {
    servers: &'a mut Servers,
    stack: &'a mut Stack,
    link: &'a TcpProxy,
    /// Indexes of the active faults.
    active: BTreeSet<usize>,
    faults: &'a [FaultPlan],
}

impl<'a> FaultInjector<'a> {
    /// For a stack with private servers; `link` is its proxy to Temporal.
    pub fn new(
        servers: &'a mut Servers,
        stack: &'a mut Stack,
        link: &'a TcpProxy,
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
    pub async fn end_all(&mut self) -> Result<()> {
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
    fn is_down(&self, part: Component) -> bool {
        let stops = |how| matches!(how, FaultKind::Kill | FaultKind::Freeze);
        self.active.iter().any(|nth| self.faults[*nth].part == part && stops(self.faults[*nth].how))
    }

    async fn begin(&mut self, nth: usize) -> Result<()> {
        let fault = self.faults[nth];
        match fault.how {
            FaultKind::Kill if !self.is_down(fault.part) => self.child(fault.part)?.kill_hard().await?,
            FaultKind::Freeze if !self.is_down(fault.part) => self.child(fault.part)?.suspend(true)?,
            FaultKind::Kill | FaultKind::Freeze => return Ok(()),
            FaultKind::CutConnections if fault.part == Component::Temporal => {
                self.link.cut();
                return Ok(());
            }
            FaultKind::CutConnections => {
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
            (FaultKind::Freeze, part) => self.child(part)?.suspend(false)?,
            (FaultKind::Kill, Component::Temporal) => {
                tokio::time::timeout(RECOVERY_TIMEOUT, self.servers.temporal.restart()).await??;
            }
            (FaultKind::Kill, Component::Postgres) => {
                tokio::time::timeout(RECOVERY_TIMEOUT, self.servers.postgres.restart()).await??;
            }
            (FaultKind::Kill, part) => self.child(part)?.restart().await?,
            _ => {}
        }
        self.set_rules();
        Ok(())
    }

    fn child(&mut self, part: Component) -> Result<&mut Child> {
        let child = match part {
            Component::Worker(nth) => self.stack.workers.get_mut(nth),
            Component::Api(0) => Some(&mut self.stack.api),
            Component::Api(nth) => self.stack.more_apis.get_mut(nth - 1),
            Component::Temporal => Some(&mut self.servers.temporal.child),
            Component::Postgres => Some(&mut self.servers.postgres.child),
            Component::Payments | Component::Carrier => None,
        };
        child.ok_or_else(|| anyhow::anyhow!("{part:?} is not a process of this run"))
    }

    fn set_rules(&self) {
        let of = |part: Component| {
            let active =
                self.active.iter().map(|nth| self.faults[*nth]).filter(move |fault| fault.part == part);
            active.flat_map(|fault| rules(fault.how)).collect::<Vec<_>>()
        };
        self.stack.payments.set_faults(of(Component::Payments));
        self.stack.carrier.set_faults(of(Component::Carrier));
    }
}

fn rules(how: FaultKind) -> Vec<Rule> {
    let rule = |route, fault| Rule { route, fault, times: None, matching: None };
    match how {
        FaultKind::LoseAnswers => vec![rule(Route::Any, Fault::DropReply)],
        FaultKind::Fail => vec![rule(Route::Any, Fault::Status { status: 503 })],
        FaultKind::Slow => vec![rule(Route::Any, Fault::Latency { ms: SLOW_MS })],
        FaultKind::ScrambleEvents => {
            vec![rule(Route::Webhook, Fault::Duplicate), rule(Route::Webhook, Fault::Reorder)]
        }
        FaultKind::Refuse => vec![rule(Route::Cancel, Fault::Refuse)],
        FaultKind::Kill | FaultKind::Freeze | FaultKind::CutConnections => Vec::new(),
    }
}

async fn cut_connections(url: &str) -> Result<()> {
    let mut db = PgConnection::connect(url).await?;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&mut db).await?;
    Ok(())
}
