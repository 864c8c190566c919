//! What counts as a usable PostgreSQL installation, and how one of the system's own is found.
//!
//! Runs `postgres --version` and `pg_config`, and changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::pip::{find_program, is_executable};

/// The versions of PostgreSQL that are supported.
pub(crate) const SUPPORTED_MAJORS: std::ops::RangeInclusive<u32> = 15..=18;
/// What an installation must have in `bin/`.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];
/// pgvector must be at least this: (major, minor).
const PGVECTOR_AT_LEAST: (u32, u32) = (0, 8);

/// Checks that `dir` has the programs in a supported version. The error says what is wrong and what is accepted.
pub(crate) fn check(dir: &Path) -> Result<u32, String> {
    for program in PROGRAMS {
        if !is_executable(&dir.join("bin").join(program)) {
            return Err(format!(
                "there is no executable bin/{program} in it; name the directory of a PostgreSQL 15 to 18 installation \
                 that contains bin/postgres, such as /usr/lib/postgresql/16"
            ));
        }
    }
    let major = major_version(dir)?;
    if !SUPPORTED_MAJORS.contains(&major) {
        return Err(format!("it is PostgreSQL {major}; versions 15 to 18 are supported"));
    }
    Ok(major)
}

/// The major version that `bin/postgres --version` states.
fn major_version(dir: &Path) -> Result<u32, String> {
    let program = dir.join("bin").join("postgres");
    let output = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} --version does not run: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text
        .split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok());
    major.ok_or_else(|| {
        let said = if text.trim().is_empty() { String::from_utf8_lossy(&output.stderr) } else { text };
        format!("{} --version does not state a version, but: {}", program.display(), said.trim())
    })
}

/// Whether pgvector 0.8 or newer lies where this installation looks for extensions.
pub(crate) fn has_pgvector(dir: &Path, major: u32) -> bool {
    let mut share_dirs = vec![
        dir.join("share/postgresql"),
        dir.join("share"),
        dir.join(format!("share/postgresql@{major}")),
        // Debian keeps binaries and shared files apart.
        PathBuf::from(format!("/usr/share/postgresql/{major}")),
    ];
    share_dirs.extend(ask_pg_config(&dir.join("bin/pg_config"), "--sharedir"));
    share_dirs.iter().any(|share| {
        fs::read_to_string(share.join("extension/vector.control")).is_ok_and(|control| is_recent_enough(&control))
    })
}

/// Reads `default_version = '0.8.5'` out of an extension's control file.
fn is_recent_enough(control: &str) -> bool {
    let Some(value) = control.lines().find_map(|line| line.trim().strip_prefix("default_version")) else {
        return false;
    };
    let mut numbers = value
        .trim_matches(|c: char| !c.is_ascii_digit())
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) >= PGVECTOR_AT_LEAST
}

/// What pg_config says, if it runs.
fn ask_pg_config(program: &Path, question: &str) -> Option<PathBuf> {
    let output = Command::new(program).arg(question).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    let answer = answer.trim();
    (output.status.success() && !answer.is_empty()).then(|| PathBuf::from(answer))
}

/// The newest supported PostgreSQL with pgvector that the system has: the one whose pg_config is in `search_path`,
/// or one in the usual places of distributions.
pub(crate) fn find_system(search_path: &OsStr) -> Option<PathBuf> {
    let mut candidates = Vec::new();
    if let Some(pg_config) = find_program(search_path, "pg_config")
        && let Some(bin) = ask_pg_config(&pg_config, "--bindir")
    {
        candidates.extend(bin.parent().map(Path::to_owned));
    }
    for major in SUPPORTED_MAJORS {
        candidates.push(PathBuf::from(format!("/usr/lib/postgresql/{major}")));
        candidates.push(PathBuf::from(format!("/usr/pgsql-{major}")));
        candidates.push(PathBuf::from(format!("/opt/homebrew/opt/postgresql@{major}")));
        candidates.push(PathBuf::from(format!("/usr/local/opt/postgresql@{major}")));
    }
    newest_with_pgvector(&candidates)
}

/// Of these directories the one with the newest supported PostgreSQL that has pgvector.
pub(crate) fn newest_with_pgvector(candidates: &[PathBuf]) -> Option<PathBuf> {
    let mut best: Option<(u32, &PathBuf)> = None;
    for dir in candidates {
        let Ok(major) = check(dir) else { continue };
        if has_pgvector(dir, major) && best.is_none_or(|(found, _)| found < major) {
            best = Some((major, dir));
        }
    }
    best.map(|(_, dir)| dir.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_pgvector_is_read_from_its_control_file() {
        let control =
            |version: &str| format!("comment = 'vectors'\ndefault_version = '{version}'\nrelocatable = true\n");
        for (version, accepted) in [("0.8.5", true), ("0.8.0", true), ("0.10.0", true), ("1.0", true), ("0.7.4", false)]
        {
            assert_eq!(is_recent_enough(&control(version)), accepted, "{version}");
        }
        assert!(!is_recent_enough("comment = 'no version'"));
    }
}
