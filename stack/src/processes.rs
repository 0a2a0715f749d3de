//! Pid files, and the processes that a crash may have left running.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

/// How long a child may take to stop before it is killed.
pub const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// The pid file that a guard writes about itself and its child.
#[derive(Debug, Serialize, Deserialize)]
pub struct PidRecord {
    guard: u32,
    pid: u32,
    /// The kernel reuses pids: a process is ours only if it has this command line.
    command: Vec<String>,
}

impl PidRecord {
    /// A record of a guard and its child.
    pub fn new(guard: u32, pid: u32, command: &[OsString]) -> Self {
        let command = command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        Self { guard, pid, command }
    }

    /// Writes the record; a concurrent reader sees a complete file or none.
    pub fn write(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)
            .and_then(|()| std::fs::rename(&new, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn guard_runs(&self, path: &Path) -> bool {
        command_line(self.guard).is_some_and(|line| line.contains(path.to_string_lossy().as_ref()))
    }

    fn child_runs(&self) -> bool {
        command_line(self.pid).is_some_and(|line| line.trim_end() == self.command.join(" ").trim_end())
    }
}

/// Returns the pid in a guard's record if that process still runs.
pub fn running(pid_file: &Path) -> Option<u32> {
    let record = PidRecord::read(pid_file)?;
    (record.guard_runs(pid_file) || record.child_runs()).then_some(record.pid)
}

/// Stops the processes of an earlier run; returns the names of those that were running.
pub async fn stop_leftovers(pid_dir: &Path, order: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in order {
        let path = pid_dir.join(format!("{name}.pid"));
        let Some(record) = PidRecord::read(&path) else { continue };
        if record.guard_runs(&path) {
            found.push((*name).to_owned());
            send(record.guard, Signal::TERM)?;
            // Slightly longer than the guard's own limit for its child.
            let limit = STOP_WAIT_MAX + Duration::from_secs(5);
            if !until(limit, || !record.guard_runs(&path)).await {
                bail!("{name} (process {}) does not stop; end it with `kill -9 {}`", record.pid, record.pid);
            }
        }
        if record.child_runs() {
            found.push((*name).to_owned());
            send(record.pid, Signal::TERM)?;
            if !until(STOP_WAIT_MAX, || !record.child_runs()).await {
                send(record.pid, Signal::KILL)?;
                until(STOP_WAIT_MAX, || !record.child_runs()).await;
            }
        }
        std::fs::remove_file(&path).ok();
    }
    found.dedup();
    Ok(found)
}

/// Sends a signal; a process that has already ended is not an error.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let target = to_pid(pid)?;
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// Returns whether a process with that id exists.
pub fn exists(pid: u32) -> bool {
    to_pid(pid).is_ok_and(|pid| test_kill_process(pid).is_ok())
}

fn to_pid(pid: u32) -> Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is not a process id"))
}

/// Waits until a condition is true; returns false after `limit`.
pub async fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Returns a process's command line, its arguments joined by spaces; none when the process does not exist.
fn command_line(pid: u32) -> Option<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let text = String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " ");
        // A zombie has an empty command line.
        return (!text.is_empty()).then_some(text);
    }
    // No /proc: macOS and the BSDs.
    let out = Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).trim_end().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_pid_is_not_ours() {
        let record = PidRecord::new(u32::MAX >> 1, std::process::id(), &["another".into(), "command".into()]);
        assert!(!record.child_runs());
        assert!(!record.guard_runs(Path::new("/nowhere/x.pid")));
    }

    #[test]
    fn own_command_line_is_readable() {
        assert!(command_line(std::process::id()).is_some_and(|line| !line.is_empty()));
        assert!(exists(std::process::id()));
    }
}
