//! The guard: a process between `cargo dev` and each of its children. Its stdin is a pipe from the parent: when the
//! parent ends (Ctrl-C, crash, `kill -9`), the kernel closes the pipe, and the guard stops the child. It has its own
//! process group: a Ctrl-C in the terminal reaches only `cargo dev`, which then stops everything in order.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::processes::{PidRecord, STOP_WAIT_MAX};

/// The signal for an orderly shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StopSignal {
    /// SIGTERM: Waybill's processes and Temporal.
    Term,
    /// SIGINT: Postgres's fast shutdown, which does not wait for clients to disconnect.
    Int,
}

/// Arguments of the hidden subcommand `guard`.
#[derive(Debug, clap::Args)]
pub struct GuardArgs {
    /// The file for the process ids, which `down` reads after a crash.
    #[arg(long)]
    pid_file: PathBuf,
    /// The file for the child's output.
    #[arg(long)]
    log: PathBuf,
    /// The signal that stops the child.
    #[arg(long, value_enum)]
    stop: StopSignal,
    /// The user to run as.
    #[arg(long)]
    uid: Option<u32>,
    /// The group to run as.
    #[arg(long)]
    gid: Option<u32>,
    /// Directories to remove at the end, unless the parent requested the stop.
    #[arg(long)]
    remove: Vec<PathBuf>,
    /// The command to run.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs a command until it ends, the parent exits or SIGTERM arrives; returns the exit code.
///
/// The first line on stdout is the child's pid or the error that prevented its start.
pub async fn run(args: GuardArgs) -> u8 {
    match watch(&args).await {
        Ok(status) => exit_code(status),
        Err(err) => {
            report_to_parent(format_args!("{err:#}"));
            1
        }
    }
}

async fn watch(args: &GuardArgs) -> Result<ExitStatus> {
    // From here on SIGTERM does not end the guard before its child.
    let mut requested = signal(SignalKind::terminate())?;
    let mut child = start(args)?;
    let pid = child.id().context("the process ended immediately")?;
    let record = PidRecord::new(std::process::id(), pid, &args.command);
    record.write(&args.pid_file)?;
    report_to_parent(pid);

    let (ended, abandoned) = tokio::select! {
        status = child.wait() => (Some(status?), false),
        abandoned = wait_for_parent_exit() => (None, abandoned),
        _ = requested.recv() => (None, false),
    };
    let status = match ended {
        Some(status) => status,
        None => stop(&mut child, pid, args.stop).await?,
    };
    // A leftover record has no effect: it names a process that no longer exists.
    let _ = std::fs::remove_file(&args.pid_file);
    for dir in args.remove.iter().filter(|_| abandoned) {
        let _ = std::fs::remove_dir_all(dir);
    }
    Ok(status)
}

/// Writes to the parent. An exited parent is handled by `wait_for_parent_exit`; it must not end the guard before the
/// child.
fn report_to_parent(what: impl Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{what}").and_then(|()| out.flush());
}

fn start(args: &GuardArgs) -> Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&args.log)
        .with_context(|| format!("cannot write {}", args.log.display()))?;
    let (program, rest) = args.command.split_first().ok_or_else(|| anyhow!("no command"))?;
    let mut command = std::process::Command::new(program);
    command.args(rest).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    if let Some(gid) = args.gid {
        command.gid(gid);
    }
    if let Some(uid) = args.uid {
        // The user may not be allowed to enter the current directory.
        command.uid(uid).current_dir("/");
    }
    Command::from(command).spawn().with_context(|| format!("cannot run {}", program.display()))
}

/// Ends when the parent requests a stop (any byte) or exits (end of file); returns true if the parent exited.
async fn wait_for_parent_exit() -> bool {
    let read = || std::io::stdin().read(&mut [0]);
    !matches!(tokio::task::spawn_blocking(read).await, Ok(Ok(1)))
}

async fn stop(child: &mut Child, pid: u32, how: StopSignal) -> Result<ExitStatus> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    let signal = match how {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
    };
    // The child may have just ended: then `wait` below returns immediately.
    let _ = kill_process(pid, signal);
    if let Ok(status) = tokio::time::timeout(STOP_WAIT_MAX, child.wait()).await {
        return Ok(status?);
    }
    let _ = kill_process_group(pid, Signal::KILL);
    Ok(child.wait().await?)
}

/// Follows the shell's convention: the exit code of a process killed by signal N is 128 + N.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}
