//! Parses the versions that programs print.

use std::fmt;
use std::path::Path;
use std::process::Stdio;

use crate::servers::account::{SystemUser, command_as};

/// A version, compared by its numbers from left to right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub Vec<u32>);

impl Version {
    /// Finds the first version in a text.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|token| {
            // Suffixes as in `17rc1`, `15.18+deb12u1` or `1.9.1,` are ignored.
            let end = token.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(token.len());
            let numbers = token[..end].trim_end_matches('.').split('.').map(str::parse);
            numbers.collect::<Result<Vec<u32>, _>>().ok().map(Version)
        })
    }

    /// Returns the version that `program --version` prints, run as the user who will use it; none when it does not run
    /// or is not the program `name`.
    pub fn of(program: &Path, name: &str, account: Option<&SystemUser>) -> Option<Self> {
        let out = command_as(program, account).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout);
        (out.status.success() && text.contains(name)).then(|| Self::find(&text))?
    }

    /// The first number.
    pub fn major(&self) -> u32 {
        self.0.first().copied().unwrap_or(0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<String> {
        Version::find(text).map(|version| version.to_string())
    }

    #[test]
    fn version_is_parsed_from_program_output() {
        assert_eq!(found("temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)").as_deref(), Some("1.9.1"));
        assert_eq!(found("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)").as_deref(), Some("15.18"));
        assert_eq!(found("initdb (PostgreSQL) 17rc1").as_deref(), Some("17"));
        assert_eq!(found("pip 23.2.1 from /somewhere (python 3.11)").as_deref(), Some("23.2.1"));
        assert_eq!(found("no number here"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(Version(vec![1, 10]) > Version(vec![1, 9, 1]));
        assert!(Version(vec![1, 9, 1]) >= Version(vec![1, 9]));
    }
}
