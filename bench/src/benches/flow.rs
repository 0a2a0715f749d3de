//! Orders placed over HTTP and counted at their goal.

use crate::{
    baseline::{Baseline, Kind, Setup},
    cpu::Processes,
    environment::{self, Environment, order},
    http::{self, Connection},
    report::{Comparison, Report},
    sample::Sample,
};
use anyhow::{Context, Result, bail};
use hyper::body::Bytes;
use sqlx::PgPool;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;
use waybill_stack::Stack;

/// Concurrent orders or workflows, on both sides.
pub const IN_FLIGHT: usize = 128;
/// Connections that place orders.
const CLIENTS: usize = 16;
/// Interval at which orders at the goal are counted.
const COUNT_EVERY: Duration = Duration::from_millis(100);
/// The benchmark fails without progress for this long.
const STALL_MAX: Duration = Duration::from_secs(60);

/// The goal of an order.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Confirmed, with a label for each shipment.
    Booked,
    /// Delivered and captured.
    Completed,
}

/// A stack whose orders are counted.
pub struct Flow {
    /// The stack.
    pub stack: Stack,
    /// The measured processes.
    pub processes: Processes,
    pool: PgPool,
    placed: AtomicU64,
}

impl Flow {
    /// For a started stack; seeds its stock.
    pub async fn of(env: &Environment, stack: Stack) -> Result<Self> {
        environment::stock(&stack, environment::SKUS).await?;
        let (check, processes) = (environment::look(&stack).await?, env.processes(&stack));
        Ok(Self { stack, processes, pool: check, placed: AtomicU64::new(0) })
    }

    /// Places unmeasured orders that fill connections, caches and plans. Postgres plans for empty tables until they are
    /// analysed, which autovacuum does within a minute of the first orders.
    pub async fn warm_up(&self, count: u64, goal: Goal) -> Result<()> {
        self.run(count, goal).await?;
        sqlx::query("vacuum analyze").execute(&self.pool).await.context("the tables cannot be analysed")?;
        Ok(())
    }

    /// Places `count` orders, at most [`IN_FLIGHT`] concurrently, and waits until all have reached the goal.
    pub async fn run(&self, count: u64, goal: Goal) -> Result<Sample> {
        let connections = environment::connections(&http::address(&self.stack.client), CLIENTS).await?;
        let written = self.written().await?;
        let (since, before, start) = (Uuid::now_v7(), self.processes.used(), Instant::now());
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let first = self.placed.fetch_add(count, Ordering::Relaxed);
        let next = Arc::new(AtomicU64::new(first));
        let mut tasks = JoinSet::new();
        for connection in connections {
            let (room, next, client) = (room.clone(), next.clone(), self.stack.client.clone());
            tasks.spawn(place(client, connection, room, next, first + count));
        }
        let (mut arrived, mut moved) = (0, Instant::now());
        while arrived < count {
            tokio::time::sleep(COUNT_EVERY).await;
            while let Some(ended) = tasks.try_join_next() {
                ended??;
            }
            let now = self.arrived(since, goal).await?;
            if now > arrived {
                room.add_permits(usize::try_from(now - arrived)?);
                (arrived, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STALL_MAX {
                bail!(
                    "{arrived} of {count} orders have reached the goal, and none in the last {STALL_MAX:?}"
                );
            }
        }
        let took = start.elapsed();
        let cpu = self.processes.used().since(&before);
        let [wal, data] = self.written().await?;
        let each = |bytes: f64| bytes / count as f64;
        let extra = [("wal_bytes", each(wal - written[0])), ("data_bytes", each(data - written[1]))];
        Ok(Sample { done: count, took, cpu, extra: extra.into() })
    }

    /// Returns the bytes of Postgres's write-ahead log so far, and of the stack's database.
    async fn written(&self) -> Result<[f64; 2]> {
        let (wal, data): (f64, f64) = sqlx::query_as(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, pg_database_size(current_database())::float8",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok([wal, data])
    }

    /// Returns how many of the orders accepted since an id have reached the goal.
    pub async fn arrived(&self, since: Uuid, goal: Goal) -> Result<u64> {
        let statuses: &[&str] = match goal {
            Goal::Booked => &["fulfilling", "partially_shipped", "shipped", "completed"],
            Goal::Completed => &["completed"],
        };
        let counted: i64 =
            sqlx::query_scalar("select count(*) from orders where id > $1 and status = any($2)")
                .bind(since)
                .bind(statuses)
                .fetch_one(&self.pool)
                .await
                .context("the orders cannot be counted")?;
        Ok(u64::try_from(counted)?)
    }
}

/// Orders to a goal, against the SDK's own workflows.
pub struct AgainstTheSdk<'w> {
    /// The servers.
    pub world: &'w Environment,
    /// The benchmark.
    pub name: &'w str,
    /// The goal of the orders.
    pub goal: Goal,
    /// The baseline workflow.
    pub kind: Kind,
    /// Orders and workflows of one round.
    pub counts: (u64, u64),
    /// Descriptions of both.
    pub what: [&'w str; 2],
}

impl AgainstTheSdk<'_> {
    /// Compares with the SDK's defaults, and with the SDK configured as in Waybill.
    pub async fn run(&self, flow: Flow, settings: serde_json::Value) -> Result<Report> {
        flow.warm_up(self.counts.0 / 4, self.goal).await?;
        let [ours, theirs] = self.what;
        let rounds = self.rounds(self.name, &flow, Setup::Default).await?;
        let main = Comparison::of_rates([ours, theirs], &rounds);
        let mut report = self.world.report(self.name, main, settings);
        let rounds = self.rounds(&format!("{} tuned", self.name), &flow, Setup::AsWaybill).await?;
        let tuned = format!("{theirs}, with Waybill's pollers and transport");
        report.also.insert("tuned".to_owned(), Comparison::of_rates([ours, &tuned], &rounds));
        flow.stack.stop().await;
        Ok(report)
    }

    async fn rounds(&self, name: &str, flow: &Flow, setup: Setup) -> Result<Vec<(Sample, Sample)>> {
        let (orders, workflows) = self.counts;
        let baseline = Baseline::start(&self.world.servers.temporal.url(), setup).await?;
        baseline.run(self.kind, workflows / 4, IN_FLIGHT).await?;
        let plain = async |_| {
            let before = flow.processes.used();
            let took = baseline.run(self.kind, workflows, IN_FLIGHT).await?;
            let cpu = flow.processes.used().since(&before);
            Ok(Sample { done: workflows, took, cpu, extra: [].into() })
        };
        self.world.rounds(name, async |_| flow.run(orders, self.goal).await, plain).await
    }
}

async fn place(
    client: waybill_stack::client::Client,
    mut connection: Connection,
    room: Arc<Semaphore>,
    next: Arc<AtomicU64>,
    end: u64,
) -> Result<()> {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= end {
            return Ok(());
        }
        // The permit is released when an order reaches the goal.
        room.acquire().await?.forget();
        let body = Bytes::from(serde_json::to_vec(&order(n))?);
        let (status, reported) = connection.send(http::place(&client, &format!("bench-{n}"), body)?).await?;
        if status.as_u16() != 201 {
            bail!("the response was {status}: {}", String::from_utf8_lossy(&reported));
        }
    }
}
