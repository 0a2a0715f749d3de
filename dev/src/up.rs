//! `cargo dev up`: starts, watches and stops the whole stack.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::cli::{OrderArgs, UpArgs};
use crate::follow;
use crate::orders;
use waybill_simulators::AutoProgress;
use waybill_stack::binaries::Binaries;
use waybill_stack::client::Client;
use waybill_stack::output::{self, Step};
use waybill_stack::ports::{PortBlock, Role};
use waybill_stack::processes::stop_leftovers;
use waybill_stack::servers::temporal::TemporalConfig;
use waybill_stack::servers::{Installations, Servers, postgres_data};
use waybill_stack::stack_dir::{StackDir, StackFile, workspace_root};
use waybill_stack::{Stack, StackPorts};

/// The processes of a stack in the order in which they are stopped.
pub const PROCESSES: [&str; 4] = ["api", "worker", "temporal", "postgres"];
/// Interval between checks of the processes.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Delay before the simulated carrier's hand-over, and then before the delivery.
const HAND_OVER_AFTER: Duration = Duration::from_secs(2);
const DELIVER_AFTER: Duration = Duration::from_secs(3);

/// The running parts, so that they are stopped in order even if the start is interrupted.
#[derive(Default)]
struct Running {
    stack: Option<Stack>,
    servers: Option<Servers>,
}

impl Running {
    fn check(&mut self) -> Result<()> {
        if let Some(stack) = &mut self.stack {
            stack.check()?;
        }
        self.servers.as_mut().map_or(Ok(()), Servers::check)
    }

    async fn stop(&mut self) {
        if let Some(stack) = self.stack.take() {
            stack.stop().await;
        }
        if let Some(mut servers) = self.servers.take() {
            servers.stop().await;
        }
    }
}

/// Opens the stack's directory: the given one, or else `.dev` in the workspace.
pub fn open(dir: Option<PathBuf>) -> Result<StackDir> {
    let dir = match dir {
        Some(dir) => dir,
        None => workspace_root()?.join(".dev"),
    };
    StackDir::open(&dir)
}

/// Starts the stack and runs it until a signal arrives or a process ends unexpectedly.
pub async fn up(dir: Option<PathBuf>, args: UpArgs) -> Result<()> {
    let home = open(dir)?;
    let Some(_lock) = home.lock()? else {
        let pid = home
            .read()?
            .and_then(|file| file.pid)
            .map_or_else(String::new, |pid| format!(" (process {pid})"));
        bail!("this stack is already up{pid}; see `cargo dev status`, stop it with `cargo dev down`");
    };
    let pids = home.processes()?.pids;
    for name in stop_leftovers(&pids, &PROCESSES).await? {
        output::line(format_args!("Stopped {name}, left running by an earlier run"));
    }

    let mut running = Running::default();
    let outcome = tokio::select! {
        outcome = session(&home, &args, &mut running) => outcome,
        signal = stop_signal() => signal,
    };
    if outcome.is_ok() {
        output::line("\nStopping");
    }
    running.stop().await;
    // Parts that were dropped during the start stop on their own; this waits for them.
    stop_leftovers(&pids, &PROCESSES).await?;
    if let Some(mut file) = home.read()? {
        file.pid = None;
        home.write(&file)?;
    }
    outcome
}

async fn session(home: &StackDir, args: &UpArgs, running: &mut Running) -> Result<()> {
    let (mut block, mut file) = take_ports(home, args)?;
    let installations = Installations::locate(&home.outside()).await?;
    if !args.servers_only {
        Binaries::get().await?;
    }
    file.pid = Some(std::process::id());
    file.temporal_bin = Some(installations.temporal.program.clone());
    file.postgres_bin_dir = Some(installations.postgres.bin_dir.clone());
    file.outside = home.outside().path().exists().then(|| home.outside().path().to_owned());
    home.write(&file)?;

    let servers = running.servers.insert(start_servers(home, installations, &mut block).await?);
    file.outside = home.outside().path().exists().then(|| home.outside().path().to_owned());
    home.write(&file)?;
    if args.servers_only {
        output::line(format_args!(
            "\nPostgres      {}\nTemporal      {}\nTemporal UI   http://127.0.0.1:{}\n\nCtrl-C stops them.",
            servers.postgres.url("postgres"),
            servers.temporal.address(),
            Role::TemporalUi.port(file.base_port)
        ));
        return watch(running).await;
    }

    let stack = running.stack.insert(start_stack(home, servers, &file, &mut block).await?);
    drop(block);
    file.api_key = Some(stack.key.clone());
    home.write(&file)?;
    let (client, key) = (stack.client.clone(), stack.key.clone());
    let demonstrate = async {
        // A stack whose first order fails stays up for investigation.
        if !args.no_order
            && let Err(err) = first_order(&client).await
        {
            output::error(&err);
        }
        print_welcome(home, &file, &key);
        std::future::pending().await
    };
    tokio::select! {
        died = watch(running) => died,
        () = demonstrate => Ok(()),
    }
}

async fn first_order(client: &Client) -> Result<()> {
    let args = OrderArgs { lines: 2, decline: false, shortage: None, review: false, no_follow: false };
    let id = follow::place(client, &orders::order(&args), &Uuid::now_v7().to_string()).await?;
    follow::follow(client, &id).await?;
    Ok(())
}

/// Takes the requested block, or else the one of the last run, or else the first free one.
fn take_ports(home: &StackDir, args: &UpArgs) -> Result<(PortBlock, StackFile)> {
    let known = home.read()?;
    let block = match args.ports.or(known.as_ref().map(|file| file.base_port)) {
        Some(base) => PortBlock::reserve(base)?,
        None => PortBlock::first_free()?,
    };
    let mut file = known.unwrap_or_else(|| StackFile::new(block.base()));
    file.base_port = block.base();
    Ok((block, file))
}

async fn start_servers(
    home: &StackDir,
    installations: Installations,
    block: &mut PortBlock,
) -> Result<Servers> {
    let dir = home.path();
    let step = Step::begin("Starting Postgres and Temporal");
    let data = postgres_data(&installations.postgres, dir, &home.outside())?;
    let (postgres, to) = (installations.postgres.clone(), data.clone());
    tokio::task::spawn_blocking(move || postgres.init(&to)).await??;
    let versions = (installations.postgres.version.clone(), installations.temporal.version.clone());
    let config = TemporalConfig {
        port: block.release(Role::Temporal),
        ui_port: Some(block.release(Role::TemporalUi)),
        http_port: Some(block.release(Role::TemporalHttp)),
        metrics_port: Some(block.release(Role::TemporalMetrics)),
        database: Some(home.temporal_database()),
        remove: Vec::new(),
    };
    let servers = Servers::start(installations, &data, block.release(Role::Postgres), &config, dir).await?;
    step.done(format!("PostgreSQL {} and Temporal {} are up", versions.0, versions.1));
    Ok(servers)
}

async fn start_stack(
    home: &StackDir,
    servers: &Servers,
    file: &StackFile,
    block: &mut PortBlock,
) -> Result<Stack> {
    let step = Step::begin("Starting the simulators, the API and a worker");
    let ports = StackPorts {
        api: block.release(Role::Api),
        worker: block.release(Role::Worker),
        payments: block.release(Role::Payments),
        carrier: block.release(Role::Carrier),
    };
    let stack = Stack::builder(servers)
        .persistent(home.path(), &file.secrets, file.api_key.as_deref())
        .ports(ports)
        .auto(AutoProgress { hand_over_after: HAND_OVER_AFTER, deliver_after: DELIVER_AFTER })
        .start()
        .await?;
    step.done("The API and a worker are up");
    Ok(stack)
}

/// Checks the processes; returns only with an error.
async fn watch(running: &mut Running) -> Result<()> {
    loop {
        running.check()?;
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

async fn stop_signal() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.context("cannot wait for Ctrl-C")?,
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

/// Prints the next steps for a new user.
fn print_welcome(home: &StackDir, file: &StackFile, key: &str) {
    let url = |role: Role| format!("http://127.0.0.1:{}", role.port(file.base_port));
    let row = |name: &str, value: String| output::line(format_args!("  {name:<22} {value}"));
    output::line(format_args!("\n{}", output::bold("Waybill is up.")));
    row("API", url(Role::Api));
    row("Temporal UI", url(Role::TemporalUi));
    row("Metrics", format!("{}/metrics  {}/metrics", url(Role::Api), url(Role::Worker)));
    row("Simulators", format!("{}  {}", url(Role::Payments), url(Role::Carrier)));
    row("Data and logs", display_path(home.path()));
    output::line("\nFor another terminal:");
    output::line(format_args!("  export WAYBILL_API={} WAYBILL_KEY={key}", url(Role::Api)));
    output::line(format_args!("  export TEMPORAL_ADDRESS=127.0.0.1:{}", Role::Temporal.port(file.base_port)));
    output::line("\nTry:");
    output::line("  curl -H \"Authorization: Bearer $WAYBILL_KEY\" \"$WAYBILL_API/v1/orders?limit=5\"");
    for (command, what) in [
        ("cargo dev order", "one more order (--review, --decline, --shortage)"),
        ("cargo dev temporal workflow list", "the orders' workflows"),
        ("cargo dev status", "the processes, and the orders by status"),
    ] {
        output::line(format_args!("  {command:<34} {}", output::dim(what)));
    }
    output::line(format_args!("\n{}", output::bold("Ctrl-C stops everything; the data stays.")));
}

/// Returns the shortest form of a path from the current directory.
fn display_path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    relative.unwrap_or(path).display().to_string()
}
