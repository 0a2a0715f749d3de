//! The user that runs Postgres, because Postgres does not start as root.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// A system user other than the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemUser {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
}

impl SystemUser {
    /// Returns the user for Postgres: as root `postgres` or else `nobody`, otherwise none (the current user).
    pub fn for_postgres() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        ["postgres", "nobody"].iter().find_map(|name| find(&users, name)).map(Some).context(
            "Postgres refuses to run as root, and there is neither a user `postgres` nor `nobody` to run it as; \
             create one (`useradd --system postgres`) or run `cargo dev` as another user than root",
        )
    }

    /// Returns whether this user may enter `path`; each directory of the path must allow it.
    pub fn can_access(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        path.ancestors().all(|dir| std::fs::metadata(dir).is_ok_and(|meta| self.passes(&meta)))
    }

    fn passes(&self, meta: &std::fs::Metadata) -> bool {
        let shift = match (meta.uid() == self.uid, meta.gid() == self.gid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        (meta.mode() >> shift) & 0o1 == 1
    }
}

/// Returns whether the current user is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as `account`, or as the current user.
pub fn command_as(program: &Path, account: Option<&SystemUser>) -> Command {
    let mut command = Command::new(program);
    if let Some(account) = account {
        // The user may not be allowed to enter the current directory.
        command.uid(account.uid).gid(account.gid).current_dir("/");
    }
    command
}

fn find(users: &str, name: &str) -> Option<SystemUser> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        found.then(|| SystemUser { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/usr/sbin/nologin\n";

    #[test]
    fn user_is_found_by_name() {
        let found = find(USERS, "nobody").unwrap();
        assert_eq!((found.uid, found.gid), (65534, 65533));
        assert_eq!(find(USERS, "postgres"), None);
    }

    #[test]
    fn unreadable_parent_directory_is_detected() {
        let dir = std::env::temp_dir().join(format!("waybill-reach-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("inner")).unwrap();
        let stranger = SystemUser { name: "stranger".into(), uid: 4_000_000, gid: 4_000_000 };
        let set = |mode| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o755);
        let open = stranger.can_access(&dir.join("inner"));
        set(0o700);
        let closed = stranger.can_access(&dir.join("inner"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!closed);
        // The temporary directory itself may be inaccessible, as on macOS.
        assert_eq!(open, stranger.can_access(&std::env::temp_dir()));
    }
}
