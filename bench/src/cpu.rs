//! CPU and memory use of processes, from Linux's `/proc`; elsewhere there are no figures.

use std::{collections::BTreeMap, fs, time::Duration};

/// Clock ticks per second in `/proc/*/stat`: `USER_HZ`, 100 on every Linux that Rust runs on (`man 5 proc`).
const TICKS_PER_S: u64 = 100;

/// Processes by name. Their children are included, such as Postgres's process per connection.
#[derive(Debug, Clone, Default)]
pub struct Processes(Vec<(String, u32)>);

/// CPU time by process.
#[derive(Debug, Clone, Default)]
pub struct CpuUsage(pub BTreeMap<String, Duration>);

impl Processes {
    /// Adds a process.
    #[must_use]
    pub fn with(mut self, name: &str, pid: u32) -> Self {
        self.0.push((name.to_owned(), pid));
        self
    }

    /// Returns the CPU time used so far by the processes and their running children.
    pub fn used(&self) -> CpuUsage {
        let all = all();
        let used = |root: u32| {
            let of_it = all.iter().filter(|p| p.pid == root || p.parent == root);
            of_it.map(|p| p.cpu + if p.pid == root { p.ended_children } else { Duration::ZERO }).sum()
        };
        let mut by_name = BTreeMap::<String, Duration>::new();
        for (name, pid) in &self.0 {
            *by_name.entry(name.clone()).or_default() += used(*pid);
        }
        CpuUsage(by_name)
    }

    /// Returns the resident memory of a process without its children, in MiB; 0 if it does not exist.
    pub fn resident_mib(&self, name: &str) -> f64 {
        let of_it = self.0.iter().filter(|(known, _)| known == name);
        of_it.filter_map(|(_, pid)| resident_mib(*pid)).sum()
    }
}

impl CpuUsage {
    /// Returns the CPU time used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let spent = |name: &String, now: &Duration| {
            now.saturating_sub(earlier.0.get(name).copied().unwrap_or_default())
        };
        Self(self.0.iter().map(|(name, now)| (name.clone(), spent(name, now))).collect())
    }
}

struct Stat {
    pid: u32,
    parent: u32,
    cpu: Duration,
    ended_children: Duration,
}

fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

fn parse(pid: u32, stat: &str) -> Option<Stat> {
    // The name is in brackets and may contain any character.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    // Field numbers of `man 5 proc`, minus the three before: 4 ppid, 14 utime, 15 stime, 16 cutime, 17 cstime.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / TICKS_PER_S);
    Some(Stat {
        pid,
        parent: u32::try_from(number(4)?).ok()?,
        cpu: time(number(14)? + number(15)?),
        ended_children: time(number(16)? + number(17)?),
    })
}

fn resident_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bracketed_process_name_is_parsed() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 30 20 20 0 1 0 5 1 1 1";
        let stat = parse(42, line).unwrap();
        assert_eq!(
            (stat.parent, stat.cpu, stat.ended_children),
            (7, Duration::from_secs(3), Duration::from_millis(500))
        );
    }
}
