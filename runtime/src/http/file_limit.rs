//! File descriptors: each connection is one, and a process may have fewer than it may accept.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Files that a process needs besides clients' connections: to Postgres and Temporal, listeners, the log, the runtime's.
const OTHER_FILES: u64 = 256;

/// Raises this process's limit of open files, as far as the system lets it, so that the limit on connections is reached
/// first: a process without files can't reach Postgres either. Shells often start with 1,024.
pub(super) fn raise_file_limit(connections_max: usize) {
    let wanted = u64::try_from(connections_max).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    let mut limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else { return };
    let allowed = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    limit.current = Some(allowed.max(current));
    let raised = setrlimit(Resource::Nofile, limit);
    if allowed < wanted || raised.is_err() {
        tracing::warn!(
            wanted,
            allowed,
            "fewer files may be open than the limit on connections needs (ulimit -n)"
        );
    }
}
