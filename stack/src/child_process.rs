//! Child processes, each under a [guard](crate::child_guard), so that none outlives its parent.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;

use crate::child_guard::StopSignal;
use crate::processes;
use crate::servers::account::SystemUser;

/// Number of lines shown of the log of a process that has ended.
const TAIL_LINES: usize = 20;
/// The maximum that is read from a log's end for that.
const TAIL_BYTES_MAX: u64 = 64 * 1024;
/// A log larger than this is renamed when its process restarts.
const LOG_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Interval between readiness checks of a starting process.
const READY_POLL: Duration = Duration::from_millis(50);

/// The specification of a child process.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// The name in messages.
    pub name: String,
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment in addition to the inherited one.
    pub env: Vec<(String, String)>,
    /// The user to run as, if not the current one.
    pub account: Option<SystemUser>,
    /// The signal that stops it.
    pub stop: StopSignal,
    /// The file for its output (appended).
    pub log: PathBuf,
    /// The file for its pid while it runs.
    pub pid_file: PathBuf,
    /// Directories that the guard removes if this [`Child`] is dropped without a stop.
    pub remove: Vec<PathBuf>,
}

impl ChildSpec {
    /// A process that stops on SIGTERM, with its log and pid file in `dirs`.
    pub fn new(name: &str, program: impl Into<PathBuf>, dirs: &ProcessDirs) -> Self {
        let file = name.to_lowercase().replace(' ', "-");
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            account: None,
            stop: StopSignal::Term,
            log: dirs.logs.join(format!("{file}.log")),
            pid_file: dirs.pids.join(format!("{file}.pid")),
            remove: Vec::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
}

/// The directories for logs and pid files.
#[derive(Clone, Debug)]
pub struct ProcessDirs {
    /// Directory of `*.log`.
    pub logs: PathBuf,
    /// Directory of `*.pid`.
    pub pids: PathBuf,
}

impl ProcessDirs {
    /// `logs/` and `run/` in a directory; creates them if they do not exist.
    pub fn below(dir: &Path) -> Result<Self> {
        let dirs = Self { logs: dir.join("logs"), pids: dir.join("run") };
        for made in [&dirs.logs, &dirs.pids] {
            std::fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
        }
        Ok(dirs)
    }
}

/// A running process. Dropping it stops the process without waiting for its exit.
#[derive(Debug)]
pub struct Child {
    spec: ChildSpec,
    guard: Option<std::process::Child>,
    pid: u32,
    log_start: u64,
}

impl Child {
    /// Starts a process under a guard.
    pub fn spawn(spec: ChildSpec) -> Result<Self> {
        let log_start = begin_log(&spec.log)?;
        let mut command = Command::new(dev_binary()?);
        command.arg("guard").arg("--pid-file").arg(&spec.pid_file).arg("--log").arg(&spec.log);
        command.args(["--stop", if spec.stop == StopSignal::Int { "int" } else { "term" }]);
        if let Some(account) = &spec.account {
            command.arg("--uid").arg(account.uid.to_string());
            command.arg("--gid").arg(account.gid.to_string());
        }
        for dir in &spec.remove {
            command.arg("--remove").arg(dir);
        }
        command.arg("--").arg(&spec.program).args(&spec.args);
        // Logs are files.
        command.env("NO_COLOR", "1");
        command.envs(spec.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut guard = command.spawn().with_context(|| format!("cannot start {}", spec.name))?;

        let mut first = String::new();
        if let Some(out) = guard.stdout.take() {
            BufReader::new(out).read_line(&mut first)?;
        }
        let Ok(pid) = first.trim().parse() else {
            bail!("cannot start {}: {}", spec.name, first.trim());
        };
        Ok(Self { spec, guard: Some(guard), pid, log_start })
    }

    /// The name in messages.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The id of the process itself, not of its guard.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file for its output.
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// Returns whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        self.guard.as_mut().is_some_and(|guard| matches!(guard.try_wait(), Ok(None)))
    }

    /// Returns an error with the exit code and the end of the log if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let status = self.guard.as_mut().and_then(|guard| guard.try_wait().ok().flatten());
        let code = status.and_then(|status| status.code()).unwrap_or(-1);
        Err(anyhow!(
            "{} ended unexpectedly (exit code {code}). The end of {}:\n{}",
            self.spec.name,
            self.spec.log.display(),
            indent(&self.log_tail())
        ))
    }

    /// The last lines that it wrote since its start.
    pub fn log_tail(&self) -> String {
        tail(&self.spec.log, self.log_start).unwrap_or_default()
    }

    /// Requests a stop and waits until the process has ended.
    pub async fn stop(&mut self) {
        if let Some(mut pipe) = self.guard.as_mut().and_then(|guard| guard.stdin.take()) {
            // A failed write means that the guard has ended.
            let _ = pipe.write_all(b".");
        }
        self.ended().await;
    }

    /// Kills the process as a crash would; waits until it has ended.
    pub async fn kill_hard(&mut self) -> Result<()> {
        if self.is_running() {
            processes::send(self.pid, Signal::KILL)?;
        }
        self.ended().await;
        Ok(())
    }

    /// Suspends the process, like a machine that hangs, or resumes it.
    pub fn suspend(&self, suspended: bool) -> Result<()> {
        processes::send(self.pid, if suspended { Signal::STOP } else { Signal::CONT })
    }

    /// Stops the process if it runs, and starts it again with the same arguments.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        *self = Self::spawn(self.spec.clone())?;
        Ok(())
    }

    /// Waits until `probe` returns true; fails if the process ends or `limit` has elapsed.
    pub async fn ready<F>(&mut self, limit: Duration, mut probe: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = bool>,
    {
        let start = Instant::now();
        while !probe().await {
            self.check()?;
            if start.elapsed() > limit {
                let (name, log) = (&self.spec.name, self.spec.log.display());
                bail!("{name} is not ready after {limit:?}. The end of {log}:\n{}", indent(&self.log_tail()));
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Ok(())
    }

    async fn ended(&mut self) {
        while self.is_running() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.stdin.take());
        // Only avoids a zombie process: the guard stops the child independently.
        std::thread::spawn(move || guard.wait());
    }
}

/// Returns the path of `waybill-dev`: for a test, in the parent of the test binary's directory.
fn dev_binary() -> Result<PathBuf> {
    if let Some(set) = std::env::var_os("WAYBILL_DEV_BIN") {
        return Ok(set.into());
    }
    let own = std::env::current_exe().context("cannot determine this program's path")?;
    if own.file_stem().is_some_and(|stem| stem == "waybill-dev") {
        return Ok(own);
    }
    let guard_binary = binary_dir()?.join("waybill-dev");
    if !guard_binary.exists() {
        bail!("{} does not exist; run `cargo build --bin waybill-dev` first", guard_binary.display());
    }
    Ok(guard_binary)
}

/// Returns the directory of this build's binaries.
pub fn binary_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot determine this program's path")?;
    let dir = own.parent().context("this program has no directory")?;
    let in_deps = dir.file_name().is_some_and(|name| name == "deps");
    Ok(if in_deps { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// Renames a log that is too large; returns the offset where this run's part of the log begins.
fn begin_log(log: &Path) -> Result<u64> {
    let length = std::fs::metadata(log).map_or(0, |meta| meta.len());
    if length < LOG_BYTES_MAX {
        return Ok(length);
    }
    std::fs::rename(log, log.with_extension("log.old"))
        .with_context(|| format!("cannot rename {}", log.display()))?;
    Ok(0)
}

fn tail(log: &Path, from: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES_MAX))))?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw)?;
    let text = String::from_utf8_lossy(&raw);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

fn indent(text: &str) -> String {
    if text.is_empty() {
        return "  (it wrote nothing)".to_owned();
    }
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
