//! Waybill's own binaries: builds them when needed, or finds them in a directory.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::child_process::binary_dir;
use crate::output;
use crate::stack_dir::workspace_root;

/// The two processes that Waybill consists of.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `waybill-api`
    pub api: PathBuf,
    /// `waybill-worker`
    pub worker: PathBuf,
}

impl Binaries {
    /// Returns the binaries in `WAYBILL_BIN_DIR`, or else builds those of this workspace once, in this program's
    /// profile.
    pub async fn get() -> Result<&'static Self> {
        static BUILT: OnceCell<Binaries> = OnceCell::const_new();
        BUILT.get_or_try_init(find_or_build).await
    }

    /// Returns the binaries in a directory.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let found = Self { api: dir.join("waybill-api"), worker: dir.join("waybill-worker") };
        for binary in [&found.api, &found.worker] {
            if !binary.exists() {
                bail!(
                    "{} does not exist; set WAYBILL_BIN_DIR to the directory of waybill-api and waybill-worker",
                    binary.display()
                );
            }
        }
        Ok(found)
    }
}

async fn find_or_build() -> Result<Binaries> {
    if let Some(dir) = std::env::var_os("WAYBILL_BIN_DIR") {
        return Binaries::in_dir(&std::path::absolute(dir)?);
    }
    build().await?;
    Binaries::in_dir(&binary_dir()?)
}

async fn build() -> Result<()> {
    let root = workspace_root()?;
    let dir = binary_dir()?;
    let mut command = cargo();
    command.args(["build", "--bin", "waybill-api", "--bin", "waybill-worker"]).current_dir(&root);
    if dir.file_name().is_some_and(|profile| profile == "release") {
        command.arg("--release");
    }
    // Build into the target directory that this program runs from.
    if let Some(target) = dir.parent() {
        command.arg("--target-dir").arg(target);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let built = if output::interactive() {
        // Cargo shows its own progress bar.
        command.stderr(Stdio::inherit()).status().await.map(|status| (status.success(), String::new()))
    } else {
        output::line("Building waybill-api and waybill-worker");
        let out = command.stderr(Stdio::piped()).output().await;
        out.map(|out| (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned()))
    };
    let (success, reported) = built.context(
        "cannot run cargo; set WAYBILL_BIN_DIR to the directory of waybill-api and waybill-worker",
    )?;
    if !success {
        bail!("waybill-api and waybill-worker do not build in {}\n{}", root.display(), reported.trim_end());
    }
    Ok(())
}

/// Returns a cargo command without the variables that an outer cargo sets for the current package. Build scripts that
/// watch them (ring's does) would otherwise see a change, and cargo would rebuild half of all dependencies.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
            "RUST_RECURSION_",
        ];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}
