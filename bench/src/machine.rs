//! The machine and the versions of a measurement, without which a figure is meaningless.

use serde::Serialize;
use std::fs;
use waybill_stack::servers::Servers;

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Number of cores.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// Describes this machine.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|kib| kib.trim_end_matches("kB").trim().parse::<u64>().ok());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory_kib.map_or(0, |kib| kib.div_ceil(1_024 * 1_024)),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// The measured versions.
#[derive(Debug, Clone, Serialize)]
pub struct Versions {
    /// Waybill's.
    pub waybill: String,
    /// The commit, with `+` if there were uncommitted changes.
    pub commit: String,
    /// Whether it is an optimised build.
    pub optimized: bool,
    /// The Temporal CLI with its server.
    pub temporal: String,
    /// Postgres.
    pub postgres: String,
}

impl Versions {
    /// The versions of this build and these servers.
    pub fn of(servers: &Servers) -> Self {
        Self {
            waybill: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            optimized: !cfg!(debug_assertions),
            temporal: servers.temporal.installation.version.to_string(),
            postgres: servers.postgres.installation.version.to_string(),
        }
    }
}

fn commit() -> Option<String> {
    let root = waybill_stack::stack_dir::workspace_root().ok()?;
    let git = |args: &[&str]| {
        let out = std::process::Command::new("git").args(args).current_dir(&root).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // A benchmark's own output does not change the measured code.
    let changed = !git(&["status", "--porcelain", "--", ":!bench/results", ":!docs"])?.is_empty();
    Some(if changed { format!("{commit}+") } else { commit })
}
