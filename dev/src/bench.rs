//! Builds and runs the benchmarks, which are a separate crate so that other commands do not build their dependencies.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use waybill_stack::binaries::cargo;
use waybill_stack::child_process::binary_dir;
use waybill_stack::output;
use waybill_stack::stack_dir::workspace_root;

/// Builds all measured binaries with optimisations and replaces this process by the benchmarks' program. At toy size
/// nothing is measured, so this program's own profile is used.
pub async fn exec(args: &[OsString]) -> Result<Infallible> {
    let own = binary_dir()?;
    let target = own.parent().context("this program has no directory")?;
    let toy = args.iter().any(|arg| arg == "--toy");
    let dir = if toy { own.clone() } else { target.join("release") };
    let mut command = cargo();
    command.current_dir(workspace_root()?).args(["build", "--locked"]);
    for binary in ["waybill-api", "waybill-worker", "waybill-dev", "waybill-bench"] {
        command.args(["--bin", binary]);
    }
    if dir.ends_with("release") {
        command.arg("--release");
        output::line("Building with optimisations; the first build takes some minutes");
    }
    command.arg("--target-dir").arg(target).stdin(Stdio::null()).kill_on_drop(true);
    if !command.status().await.context("cannot run cargo")?.success() {
        bail!("the benchmarks do not build");
    }
    let mut bench = std::process::Command::new(dir.join("waybill-bench"));
    // The binaries are built: the stacks must not build them again.
    let error = bench.args(args).env("WAYBILL_BIN_DIR", &dir).exec();
    Err(error).context("cannot run waybill-bench")
}
