//! The subcommands for a stack that runs in another terminal.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::cli::{LogOf, OrderArgs};
use crate::follow;
use crate::orders;
use crate::up::{PROCESSES, open};
use waybill_load::LoadArgs;
use waybill_stack::client::Client;
use waybill_stack::output;
use waybill_stack::ports::Role;
use waybill_stack::processes::{running, send, stop_leftovers, until};
use waybill_stack::stack_dir::{StackDir, StackFile};

/// Up to ten seconds for each process, one after the other.
const DOWN_WAIT_MAX: Duration = Duration::from_secs(60);
/// Interval at which `logs -f` checks for new lines.
const LOG_POLL: Duration = Duration::from_millis(200);
/// The maximum of each log that is shown at first.
const LOG_BYTES_MAX: u64 = 16 * 1024;

/// Places an order and follows it.
pub async fn order(dir: Option<PathBuf>, args: OrderArgs) -> Result<()> {
    let (_, file) = up_and_running(dir)?;
    let client = client(&file)?;
    let id = follow::place(&client, &orders::order(&args), &Uuid::now_v7().to_string()).await?;
    if !args.no_follow {
        follow::follow(&client, &id).await?;
    }
    Ok(())
}

/// Runs a load on the running stack or on another API.
pub async fn load(dir: Option<PathBuf>, args: LoadArgs) -> Result<ExitCode> {
    let client = match (&args.url, &args.key) {
        (Some(url), Some(key)) => Client::new(url, key)?,
        _ => client(&up_and_running(dir)?.1)?,
    };
    waybill_load::load(client, args).await
}

/// Shows the processes; fails if one that should run does not.
pub async fn status(dir: Option<PathBuf>) -> Result<ExitCode> {
    let home = open(dir)?;
    let is_up = home.lock()?.is_none();
    let Some(file) = home.read()? else {
        output::line("Never started; `cargo dev` starts it.");
        return Ok(ExitCode::FAILURE);
    };
    let pids = home.processes()?.pids;
    let pid_of = |name: &str| running(&pids.join(format!("{name}.pid")));
    if !is_up {
        output::line("Down; `cargo dev` starts it.");
        for name in PROCESSES.iter().filter(|name| pid_of(name).is_some()) {
            output::line(format_args!("{name} was left running by a crash; `cargo dev down` stops it."));
        }
        return Ok(ExitCode::FAILURE);
    }

    let base = file.base_port;
    let client = Client::new(&format!("http://127.0.0.1:{}", Role::Api.port(base)), "")?;
    let mut well = true;
    for (name, role, path) in [
        ("api", Role::Api, Some("/readyz")),
        ("worker", Role::Worker, Some("/readyz")),
        ("temporal", Role::Temporal, None),
        ("postgres", Role::Postgres, None),
    ] {
        let pid = pid_of(name);
        let health = match (pid, path) {
            (None, _) => None,
            (Some(_), None) => Some("running".to_owned()),
            (Some(_), Some(path)) => {
                let url = format!("http://127.0.0.1:{}{path}", role.port(base));
                match client.probe(&url).await {
                    Some(status) if status.is_success() => Some("ready".to_owned()),
                    Some(status) => Some(format!("not ready ({status})")),
                    None => Some("does not respond".to_owned()),
                }
            }
        };
        well &= matches!(health.as_deref(), Some("ready" | "running"));
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let health = health.unwrap_or_else(|| "down".to_owned());
        output::line(format_args!("{name:<10} port {:<6} pid {pid:<8} {health}", role.port(base)));
    }
    output::line(format_args!("{:<10} http://127.0.0.1:{}", "web UI", Role::TemporalUi.port(base)));
    orders_by_status(&file).await;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints orders by status from the database, which works even if the API is unavailable.
async fn orders_by_status(file: &StackFile) {
    let counted: Result<Vec<(String, i64)>, sqlx::Error> = async {
        let mut connection = PgConnection::connect(&database_url(file)).await?;
        sqlx::query_as("SELECT status::text, count(*) FROM orders GROUP BY 1 ORDER BY 2 DESC")
            .fetch_all(&mut connection)
            .await
    }
    .await;
    match counted {
        Ok(counts) if counts.is_empty() => output::line("orders     none yet"),
        Ok(counts) => {
            let counts: Vec<String> =
                counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
            output::line(format_args!("orders     {}", counts.join(", ")));
        }
        Err(err) => output::line(format_args!("orders     cannot be counted: {err}")),
    }
}

/// Stops a running stack, or the processes that a crash left running.
pub async fn down(dir: Option<PathBuf>) -> Result<()> {
    let home = open(dir)?;
    let mut stopped = false;
    // The process in `stack.json` holds the lock: it writes its id while it holds it.
    if home.lock()?.is_none() {
        let pid = home.read()?.and_then(|file| file.pid);
        let pid = pid.context("the stack is starting; try again in a moment, or press Ctrl-C there")?;
        send(pid, Signal::TERM)?;
        let is_down = until(DOWN_WAIT_MAX, || matches!(home.lock(), Ok(Some(_)))).await;
        if !is_down {
            bail!(
                "process {pid} does not stop; end it with `kill -9 {pid}`, then run `cargo dev down` again"
            );
        }
        stopped = true;
    }
    let left = stop_leftovers(&home.processes()?.pids, &PROCESSES).await?;
    match (stopped, left.as_slice()) {
        (true, _) => output::line("Stopped; the data stays (`cargo dev reset` deletes it)."),
        (false, []) => output::line("Nothing was running."),
        (false, left) => {
            output::line(format_args!("Stopped processes left by a crash: {}.", left.join(", ")))
        }
    }
    Ok(())
}

/// Deletes the stack's data.
pub async fn reset(dir: Option<PathBuf>) -> Result<()> {
    let home = open(dir)?;
    let Some(_lock) = home.lock()? else {
        bail!("the stack is up; stop it first with `cargo dev down`");
    };
    stop_leftovers(&home.processes()?.pids, &PROCESSES).await?;
    home.remove()?;
    output::line("Deleted; `cargo dev` starts from scratch.");
    Ok(())
}

/// Replaces this process by psql, connected to the stack's database.
pub fn psql(dir: Option<PathBuf>, args: Vec<OsString>) -> Result<ExitCode> {
    let (_, file) = up_and_running(dir)?;
    let psql = file.postgres_bin_dir.as_ref().map(|dir| dir.join("psql")).filter(|psql| psql.exists());
    // Debian has a separate package for the client.
    let psql = psql.unwrap_or_else(|| "psql".into());
    let err = Command::new(&psql).arg(database_url(&file)).args(args).exec();
    Err(err).with_context(|| {
        format!(
            "this Postgres has no psql: install a PostgreSQL client, or connect to {}",
            database_url(&file)
        )
    })
}

/// Replaces this process by the Temporal CLI, configured for the stack.
pub fn temporal(dir: Option<PathBuf>, args: Vec<OsString>) -> Result<ExitCode> {
    let (_, file) = up_and_running(dir)?;
    let program = file.temporal_bin.context("the stack's state has no Temporal CLI; restart the stack")?;
    let address = format!("127.0.0.1:{}", Role::Temporal.port(file.base_port));
    let mut command = Command::new(&program);
    // The user's own Temporal settings are for other clusters.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TEMPORAL_")) {
        command.env_remove(name);
    }
    let err = command.arg("--disable-config-file").args(args).env("TEMPORAL_ADDRESS", address).exec();
    Err(err).with_context(|| format!("cannot run {}", program.display()))
}

/// Shows the end of the logs, and follows them on request.
pub async fn logs(dir: Option<PathBuf>, process: Option<LogOf>, follow: bool) -> Result<()> {
    let home = open(dir)?;
    let chosen = process.map_or_else(|| LogOf::ALL.to_vec(), |one| vec![one]);
    let several = chosen.len() > 1;
    let logs = home.processes()?.logs;
    let mut places: Vec<(&str, PathBuf, u64)> = Vec::new();
    for log in chosen {
        let path = logs.join(format!("{}.log", log.file()));
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        places.push((log.file(), path, length.saturating_sub(LOG_BYTES_MAX)));
    }
    if places.iter().all(|(_, path, _)| !path.exists()) {
        bail!("there are no logs in {}; start the stack with `cargo dev`", logs.display());
    }
    loop {
        for (name, path, from) in &mut places {
            let text = added(path, from).unwrap_or_default();
            for line in text.lines() {
                if several {
                    output::line(format_args!("{} {line}", output::dim(format_args!("{name:<9}"))));
                } else {
                    output::line(line);
                }
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(LOG_POLL).await;
    }
}

/// Returns the complete lines added to a file and advances `from` past them.
fn added(path: &Path, from: &mut u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    // A renamed log starts again from the beginning.
    if file.metadata()?.len() < *from {
        *from = 0;
    }
    file.seek(SeekFrom::Start(*from))?;
    let mut raw = Vec::new();
    file.read_to_end(&mut raw)?;
    let whole = raw.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    raw.truncate(whole);
    *from += whole as u64;
    Ok(String::from_utf8_lossy(&raw).into_owned())
}

fn up_and_running(dir: Option<PathBuf>) -> Result<(StackDir, StackFile)> {
    let home = open(dir)?;
    let is_up = home.lock()?.is_none();
    match home.read()? {
        Some(file) if is_up => Ok((home, file)),
        _ => bail!("the stack is not up; start it with `cargo dev` in another terminal"),
    }
}

fn client(file: &StackFile) -> Result<Client> {
    let key = file.api_key.as_deref().context("the stack is still starting; try again in a moment")?;
    Client::new(&format!("http://127.0.0.1:{}", Role::Api.port(file.base_port)), key)
}

fn database_url(file: &StackFile) -> String {
    format!("postgres://waybill@127.0.0.1:{}/waybill", Role::Postgres.port(file.base_port))
}
