//! `cargo dev sqlx`: writes the query metadata of sqlx's macros to `.sqlx/`, so that builds need no database. The same
//! as `cargo sqlx prepare`, without a tool to install.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sqlx::migrate::Migrator;

use waybill_stack::binaries::cargo;
use waybill_stack::output;
use waybill_stack::servers::Servers;
use waybill_stack::stack_dir::workspace_root;

/// Regenerates `.sqlx/`; with `check` only reports whether that would change it.
pub async fn prepare(check: bool) -> Result<()> {
    let root = workspace_root()?;
    let mut servers = Servers::private().await?;
    let made = generate(&root, &servers).await;
    let dir = servers.dir.clone();
    let result = made.and_then(|made| if check { compare(&root, &made) } else { replace(&root, &made) });
    servers.stop().await;
    // Already removed, unless files are left in it.
    let _ = fs::remove_dir_all(dir);
    result
}

/// Compiles the macros against a migrated database; returns the directory with their output.
async fn generate(root: &Path, servers: &Servers) -> Result<PathBuf> {
    let url = servers.postgres.create_database("prepare").await?;
    let pool = sqlx::PgPool::connect(&url).await?;
    Migrator::new(root.join("store/migrations")).await?.run(&pool).await?;
    pool.close().await;

    let out = servers.dir.join("sqlx");
    fs::create_dir(&out)?;
    // The macros run only when their crate is compiled.
    let source = root.join("store/src/lib.rs");
    fs::File::options().append(true).open(&source)?.set_modified(std::time::SystemTime::now())?;
    let status = cargo()
        .args(["check", "--quiet", "--workspace"])
        .current_dir(root)
        .env("DATABASE_URL", url)
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &out)
        .status()
        .await
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the workspace does not compile against the migrated database; see above");
    }
    Ok(out)
}

fn entries(dir: &Path) -> Result<BTreeMap<String, serde_json::Value>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            found.insert(name, serde_json::from_slice(&fs::read(&path)?)?);
        }
    }
    Ok(found)
}

fn compare(root: &Path, made: &Path) -> Result<()> {
    if entries(&root.join(".sqlx"))? == entries(made)? {
        output::line(format_args!("✓ .sqlx matches the queries and the migrations"));
        return Ok(());
    }
    bail!(".sqlx does not match the queries and the migrations; run `cargo dev sqlx` and commit the changes")
}

fn replace(root: &Path, made: &Path) -> Result<()> {
    let stored = root.join(".sqlx");
    fs::create_dir_all(&stored)?;
    for name in entries(&stored)?.keys() {
        fs::remove_file(stored.join(name))?;
    }
    for name in entries(made)?.keys() {
        fs::copy(made.join(name), stored.join(name))?;
    }
    output::line(format_args!("✓ .sqlx has {} queries", entries(&stored)?.len()));
    Ok(())
}
