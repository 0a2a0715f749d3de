//! A directory outside the stack's, for files that another user must be able to read: as root, Postgres runs as another
//! user, who may have no access to root's home or to the checkout. Instead of changing their permissions, the stack
//! stores these files in `/var/tmp`.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The external directory of one stack directory; created on first use.
#[derive(Clone, Debug)]
pub struct ExternalDir {
    dir: PathBuf,
}

impl ExternalDir {
    /// Returns the directory that belongs to a stack directory: always the same one.
    pub fn of(stack_dir: &Path) -> Self {
        let hash = hex::encode(Sha256::digest(stack_dir.as_os_str().as_encoded_bytes()));
        Self { dir: Path::new("/var/tmp").join(format!("waybill-{}", &hash[..12])) }
    }

    /// Its path; the directory may not exist.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Creates the directory if it does not exist.
    pub fn make(&self) -> Result<&Path> {
        match DirBuilder::new().mode(0o755).create(&self.dir) {
            Err(err) if err.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(err).with_context(|| format!("cannot create {}", self.dir.display()));
            }
            _ => {}
        }
        // Any user may write to /var/tmp, so check that the directory belongs to the current user.
        let meta = fs::symlink_metadata(&self.dir)?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
            bail!("{} belongs to another user; remove it and run `cargo dev` again", self.dir.display());
        }
        Ok(&self.dir)
    }

    /// Copies a directory into it, once. Files are hard-linked where possible: they are large and never written to.
    pub fn copy(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let to = self.make()?.join(name);
        if to.exists() {
            return Ok(to);
        }
        let work = to.with_extension("part");
        let _ = fs::remove_dir_all(&work);
        copy_tree(from, &work)
            .with_context(|| format!("cannot copy {} to {}", from.display(), work.display()))?;
        fs::rename(&work, &to)?;
        Ok(to)
    }

    /// Deletes the directory.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                Err(err).with_context(|| format!("cannot remove {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o755).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if fs::hard_link(entry.path(), &target).is_err() {
            // Hard links fail across file systems, for example.
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_have_distinct_external_dirs() {
        let one = ExternalDir::of(Path::new("/somewhere/.dev"));
        assert_eq!(one.path(), ExternalDir::of(Path::new("/somewhere/.dev")).path());
        assert_ne!(one.path(), ExternalDir::of(Path::new("/elsewhere/.dev")).path());
    }
}
