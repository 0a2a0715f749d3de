//! The durable ledger: JSON lines, one per change, replayed at start. A line contains everything that one change did:
//! the new records, the reply stored for its idempotency key, and the events to deliver. It is written before the reply
//! is sent, so a crash leaves a complete change or none.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lock;

/// One simulator's records, and the shape of its errors on the wire.
pub(super) trait Records: Default + Send + 'static {
    /// A record in its new state, as stored in the ledger.
    type Item: Serialize + DeserializeOwned + Send + 'static;

    /// Applies a record's new state. The only way in which records change, live and at replay.
    fn apply(&mut self, item: Self::Item);

    /// The records for `/_sim/ledger`.
    fn to_json(&self) -> Value;

    /// An error body in the simulated service's format.
    fn problem(kind: &str, code: &str, message: &str) -> Value;
}

/// A line of the ledger: one change.
#[derive(Serialize, Deserialize)]
pub(super) struct Line<T> {
    pub at: Timestamp,
    pub op: Cow<'static, str>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<StoredReply>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queued: Vec<Event>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<DeliveredEvent>,
    /// Removes all idempotency keys so far.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgets_keys: bool,
}

impl<T> Line<T> {
    pub fn new(op: &'static str) -> Self {
        let (changes, queued) = (Vec::new(), Vec::new());
        let (at, op) = (Timestamp::now(), Cow::Borrowed(op));
        Self { at, op, changes, reply: None, queued, settled: None, forgets_keys: false }
    }
}

/// The first reply for an idempotency key.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredReply {
    pub key: String,
    /// SHA-256 of method, path and parameters, in hex.
    pub fingerprint: String,
    pub status: u16,
    pub body: Value,
}

/// A webhook event to deliver. Events of one reference are delivered in order.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Event {
    pub id: String,
    pub reference: String,
    pub body: Value,
}

/// An event that needs no more delivery: accepted, rejected permanently, or suppressed by a fault rule.
#[derive(Serialize, Deserialize)]
pub(super) struct DeliveredEvent {
    pub id: String,
    pub reference: String,
}

/// The state after all lines of the ledger.
pub(super) struct LedgerState<R> {
    pub records: R,
    pub replies: HashMap<String, StoredReply>,
    pub pending: HashMap<String, VecDeque<Event>>,
}

impl<R: Records> LedgerState<R> {
    fn apply(&mut self, line: Line<R::Item>) {
        for item in line.changes {
            self.records.apply(item);
        }
        if line.forgets_keys {
            self.replies.clear();
        }
        if let Some(reply) = line.reply {
            self.replies.insert(reply.key.clone(), reply);
        }
        for event in line.queued {
            self.pending.entry(event.reference.clone()).or_default().push_back(event);
        }
        if let Some(settled) = line.settled
            && let Some(events) = self.pending.get_mut(&settled.reference)
        {
            events.retain(|event| event.id != settled.id);
            if events.is_empty() {
                self.pending.remove(&settled.reference);
            }
        }
    }
}

/// The open ledger and its state.
pub(super) struct Ledger<R>(Mutex<Inner<R>>);

struct Inner<R> {
    /// None once closed: changes fail after a stop.
    file: Option<File>,
    length_bytes: u64,
    book: LedgerState<R>,
}

impl<R: Records> Ledger<R> {
    /// Opens or creates the file and replays it. An incomplete last line (a crash while writing) is cut off: no reply
    /// was sent for it. Any other malformed line is an error, and so is a file in use.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the ledger {}", path.display()))?;
        file.try_lock().with_context(|| format!("another simulator uses the ledger {}", path.display()))?;
        let mut book =
            LedgerState { records: R::default(), replies: HashMap::new(), pending: HashMap::new() };
        let length_bytes = replay(&file, &mut book).with_context(|| format!("in {}", path.display()))?;
        file.set_len(length_bytes)?;
        file.seek(SeekFrom::Start(length_bytes))?;
        Ok(Self(Mutex::new(Inner { file: Some(file), length_bytes, book })))
    }

    pub fn read<T>(&self, read: impl FnOnce(&LedgerState<R>) -> T) -> T {
        read(&lock(&self.0).book)
    }

    /// Decides and writes atomically, without a concurrent change in between. Without a line nothing changes.
    pub fn update<T>(
        &self,
        decide: impl FnOnce(&LedgerState<R>) -> (Option<Line<R::Item>>, T),
    ) -> io::Result<T> {
        let inner = &mut *lock(&self.0);
        let (line, result) = decide(&inner.book);
        if let Some(line) = line {
            inner.append(&line)?;
            inner.book.apply(line);
        }
        Ok(result)
    }

    /// Makes every later change fail and releases the file for the next simulator.
    pub fn close(&self) {
        lock(&self.0).file = None;
    }
}

impl<R: Records> Inner<R> {
    fn append(&mut self, line: &Line<R::Item>) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the ledger is closed"))?;
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if let Err(error) = file.write_all(&bytes) {
            // A partial line must not join with the next one.
            file.set_len(self.length_bytes)?;
            file.seek(SeekFrom::Start(self.length_bytes))?;
            return Err(error);
        }
        self.length_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Applies every complete line; returns the length of those lines in bytes.
fn replay<R: Records>(file: &File, book: &mut LedgerState<R>) -> anyhow::Result<u64> {
    let mut reader = BufReader::new(file);
    let mut length_bytes = 0;
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let read_bytes = reader.read_until(b'\n', &mut text)?;
        if text.last() != Some(&b'\n') {
            break;
        }
        book.apply(serde_json::from_slice(&text).with_context(|| format!("line {number} of the ledger"))?);
        length_bytes += read_bytes as u64;
    }
    Ok(length_bytes)
}
