//! The stack's directory `.dev/`: its data, its logs, and the state stored between runs.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::child_process::ProcessDirs;
use crate::servers::external_dir::ExternalDir;

/// The layout of `stack.json`.
const VERSION: u32 = 1;

/// The state of a stack that is stored between runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StackFile {
    version: u32,
    /// The first port of its block.
    pub base_port: u16,
    /// The process that runs the stack, while it is up.
    pub pid: Option<u32>,
    /// The API key of the merchant `demo`.
    pub api_key: Option<String>,
    /// Shared with the simulators; generated once per stack.
    pub secrets: Secrets,
    /// The `temporal` CLI that was found.
    pub temporal_bin: Option<PathBuf>,
    /// The directory of the Postgres that was found.
    pub postgres_bin_dir: Option<PathBuf>,
    /// The stack's files outside its directory; removed together with it.
    pub outside: Option<PathBuf>,
}

/// The secrets that Waybill shares with its payment provider and carrier.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Secrets {
    /// The payment provider's API key.
    pub payments_key: String,
    /// Signs the payment provider's webhooks.
    pub payments_webhook: String,
    /// The carrier's API key.
    pub carrier_key: String,
    /// Signs the carrier's webhooks.
    pub carrier_webhook: String,
}

impl Secrets {
    /// Generates new secrets.
    pub fn generate() -> Self {
        Self {
            payments_key: format!("sk_test_{}", hex::encode(&random()[..16])),
            payments_webhook: format!("whsec_{}", STANDARD.encode(random())),
            carrier_key: format!("ck_test_{}", hex::encode(&random()[..16])),
            carrier_webhook: format!("whsec_{}", STANDARD.encode(random())),
        }
    }
}

/// Hashes two ids of 74 random bits each, enough for secrets that never leave the machine.
fn random() -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(Uuid::now_v7());
    hash.update(Uuid::now_v7());
    hash.finalize().into()
}

impl StackFile {
    /// A new stack on a block of ports.
    pub fn new(base_port: u16) -> Self {
        Self {
            version: VERSION,
            base_port,
            pid: None,
            api_key: None,
            secrets: Secrets::generate(),
            temporal_bin: None,
            postgres_bin_dir: None,
            outside: None,
        }
    }
}

/// The directory of one stack.
#[derive(Clone, Debug)]
pub struct StackDir {
    root: PathBuf,
}

/// Held while a stack is up; the kernel releases it when the holder exits.
#[derive(Debug)]
pub struct StackLock {
    _file: File,
}

impl StackDir {
    /// Opens the directory at `root`; creates it if it does not exist.
    pub fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(Self { root: root.canonicalize()? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The directories for logs and pid files.
    pub fn processes(&self) -> Result<ProcessDirs> {
        ProcessDirs::below(&self.root)
    }

    /// Temporal's database file.
    pub fn temporal_database(&self) -> PathBuf {
        self.root.join("temporal.db")
    }

    /// The payment simulator's ledger.
    pub fn payments_ledger(&self) -> PathBuf {
        self.root.join("payments.jsonl")
    }

    /// The carrier simulator's ledger.
    pub fn carrier_ledger(&self) -> PathBuf {
        self.root.join("carrier.jsonl")
    }

    /// The place for files outside the directory.
    pub fn outside(&self) -> ExternalDir {
        ExternalDir::of(&self.root)
    }

    /// Locks the stack for this process; none if another process has the lock.
    pub fn lock(&self) -> Result<Option<StackLock>> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StackLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(err)) => Err(err).context("cannot lock the stack's directory"),
        }
    }

    /// Reads the stored state; none before the first start.
    pub fn read(&self) -> Result<Option<StackFile>> {
        let path = self.file();
        let raw = match fs::read(&path) {
            Ok(raw) => raw,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err).with_context(|| format!("cannot read {}", path.display())),
        };
        let hint = || format!("{} cannot be used; `cargo dev reset` starts from scratch", path.display());
        let file: StackFile = serde_json::from_slice(&raw).with_context(hint)?;
        if file.version != VERSION {
            anyhow::bail!("{}", hint());
        }
        Ok(Some(file))
    }

    /// Stores the state; a concurrent reader sees either the old or the new file.
    pub fn write(&self, file: &StackFile) -> Result<()> {
        let (path, new) = (self.file(), self.root.join("stack.json.new"));
        let mut options = OpenOptions::new();
        // The file contains keys.
        let out = options.create(true).truncate(true).write(true).mode(0o600).open(&new);
        out.and_then(|mut out| std::io::Write::write_all(&mut out, &serde_json::to_vec_pretty(file)?))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Deletes the data and the stored state.
    pub fn remove(&self) -> Result<()> {
        self.outside().remove()?;
        fs::remove_dir_all(&self.root).with_context(|| format!("cannot remove {}", self.root.display()))
    }

    fn file(&self) -> PathBuf {
        self.root.join("stack.json")
    }
}

/// The workspace that this program was built from.
pub fn workspace_root() -> Result<PathBuf> {
    // Cargo sets the variable for `cargo run` and `cargo test`; the checkout may have moved since the build.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    let root = manifest.parent().context("the workspace has no root")?;
    Ok(root.to_owned())
}
