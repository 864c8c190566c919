//! Where requests wait between their acknowledgement and the database: one spool for each database, in one directory.

use std::fs;
use std::path::{Path, PathBuf};

use oneiric_otel_spool::{Spool, SpoolError, SpoolOptions};

use super::Backend;
use crate::otlp::Signal;

/// Characters of the name of a spool's directory.
const NAME_CHARACTERS: usize = 120;

/// Applications on one machine that store in one database through spools of one directory.
const MOST_APPLICATIONS: u32 = 256;

/// Where the spools of a data directory lie, one for each database.
pub fn spools(data_dir: &Path) -> PathBuf {
    data_dir.join("spool")
}

/// The spool for a database: what waits for one must not end in another.
pub fn spool_dir(data_dir: &Path, backend: &Backend) -> PathBuf {
    spools(data_dir).join(name_of(backend.target(), backend.is_embedded()))
}

/// All spools of a database that are there: that of a server, and those of applications. `target` is [`Backend::target`].
pub fn spools_of(data_dir: &Path, target: &str, is_embedded: bool) -> Vec<PathBuf> {
    let name = name_of(target, is_embedded);
    let mut found = of_applications(&spools(data_dir), &name);
    let own = spools(data_dir).join(name);
    found.splice(..0, own.is_dir().then_some(own));
    found
}

/// What is called after a database in the data directory. `target` is [`Backend::target`].
pub fn name_of(target: &str, is_embedded: bool) -> String {
    if is_embedded { "embedded".to_owned() } else { file_name(target) }
}

/// Opens the spool for a database. What an earlier process left in it comes first.
///
/// # Errors
/// When another process has it open, or its directory cannot be used.
pub fn open_spool(data_dir: &Path, backend: &Backend, max_bytes: u64) -> Result<Spool, SpoolError> {
    let dir = spool_dir(data_dir, backend);
    let (spool, recovered) = Spool::open(spool_options(&dir, max_bytes))?;
    if recovered.entries > 0 {
        tracing::info!(requests = recovered.entries, "requests of an earlier process wait in the spool");
    }
    warn_of_others(data_dir, &dir, &name_of(backend.target(), backend.is_embedded()));
    Ok(spool)
}

/// Opens a spool for a database that no other process uses: applications on one machine have one each. What a process
/// that is gone left in it comes first.
///
/// # Errors
/// When no directory can be used.
pub(crate) async fn open_free_spool(data_dir: &Path, backend: &Backend, max_bytes: u64) -> Result<Spool, SpoolError> {
    let name = name_of(backend.target(), backend.is_embedded());
    let dir = spools(data_dir);
    let open = move |dir: &Path| Spool::open(spool_options(dir, max_bytes));
    let (spool, recovered) =
        in_free_directory(dir, name, open, |error| matches!(error, SpoolError::InUse { .. })).await?;
    if recovered.entries > 0 {
        tracing::info!(requests = recovered.entries, "requests of an earlier process wait in the spool");
    }
    Ok(spool)
}

/// A spool of requests, with a lane for each signal.
pub(super) fn spool_options(dir: &Path, max_bytes: u64) -> SpoolOptions {
    SpoolOptions { max_bytes, ..SpoolOptions::new(dir, Signal::ALL.map(Signal::as_str)) }
}

/// The directories of applications, among those of [`in_free_directory`], in which requests wait. Somebody may be working on
/// them.
pub(crate) async fn left_behind(dir: PathBuf, name: String) -> Vec<PathBuf> {
    let found = tokio::task::spawn_blocking(move || {
        let mut found = of_applications(&dir, &name);
        found.retain(|dir| has_segments(dir));
        found
    });
    found.await.unwrap_or_default()
}

/// The directories of applications, in order.
fn of_applications(dir: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_one = |found: &fs::DirEntry| found.file_name().to_str().is_some_and(|found| is_of_application(found, name));
    let mut found: Vec<PathBuf> = entries.filter(is_one).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Whether a directory is one of `NAME-app-1` and so on.
fn is_of_application(found: &str, name: &str) -> bool {
    let number = found.strip_prefix(name).and_then(|rest| rest.strip_prefix("-app-"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Opens something in the first of `NAME-app-1`, `NAME-app-2` and so on that no other process uses.
pub(crate) async fn in_free_directory<T: Send + 'static, E: From<SpoolError> + Send + 'static>(
    dir: PathBuf,
    name: String,
    open: impl Fn(&Path) -> Result<T, E> + Send + 'static,
    is_in_use: fn(&E) -> bool,
) -> Result<T, E> {
    let opened = tokio::task::spawn_blocking(move || {
        let mut number = 1;
        loop {
            match open(&dir.join(format!("{name}-app-{number}"))) {
                Err(error) if number < MOST_APPLICATIONS && is_in_use(&error) => number += 1,
                opened => return opened,
            }
        }
    });
    opened.await.unwrap_or_else(|error| Err(SpoolError::Options { reason: error.to_string() }.into()))
}

/// What looks like a host, a URL or a database, as a plain name.
pub(crate) fn file_name(target: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    let name: String = target.chars().map(plain).take(NAME_CHARACTERS).collect();
    // Two that look alike are told apart.
    let hash: String = blake3::hash(target.as_bytes()).to_hex().chars().take(8).collect();
    format!("{name}-{hash}")
}

/// Requests that wait for a database which nobody serves would wait for ever unheard.
/// Those of applications on the same database are seen to elsewhere.
fn warn_of_others(data_dir: &Path, own: &Path, name: &str) {
    let Ok(others) = fs::read_dir(spools(data_dir)) else { return };
    for other in others.flatten() {
        let dir = other.path();
        let is_same_database = other.file_name().to_str().is_some_and(|found| is_of_application(found, name));
        if dir != own && !is_same_database && has_segments(&dir) {
            tracing::warn!(
                spool = %dir.display(),
                "requests wait there for another database; who opens that database stores them"
            );
        }
    }
}

/// A spool without entries has none.
fn has_segments(spool: &Path) -> bool {
    let lanes = Signal::ALL.iter().filter_map(|signal| fs::read_dir(spool.join(signal.as_str())).ok());
    lanes.flatten().flatten().any(|file| file.path().extension().is_some_and(|extension| extension == "seg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_spools_are_plain_and_told_apart() {
        // Not to be changed: what waits under a name would not be found under another.
        assert_eq!(file_name("db.example.com:5432/otel"), "db.example.com_5432_otel-d0564ea6");
        assert!(file_name("/run/pg:5432/otel").starts_with("_run_pg_5432_otel-"));
        assert_ne!(file_name("/run/pg:5432/otel"), file_name("/run_pg:5432/otel"));
        assert_eq!(file_name(&"ä".repeat(500)).len(), NAME_CHARACTERS + 9);
    }

    #[test]
    fn all_spools_of_a_database_are_found_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["embedded-app-2", "embedded", "embedded-app-x", "other-app-1", "embedded-app-1"] {
            fs::create_dir_all(spools(dir.path()).join(name)).unwrap();
        }
        let found = spools_of(dir.path(), "", true);
        let names: Vec<_> = found.iter().filter_map(|dir| dir.file_name()?.to_str()).collect();
        assert_eq!(names, ["embedded", "embedded-app-1", "embedded-app-2"]);
        assert_eq!(spools_of(&dir.path().join("none"), "", true), Vec::<PathBuf>::new());
    }

    #[test]
    fn directories_of_applications_are_told_from_others() {
        for (found, expected) in [
            ("embedded-app-1", true),
            ("embedded-app-256", true),
            ("embedded", false),
            ("embedded-app-", false),
            ("embedded-app-1x", false),
            ("other-app-1", false),
        ] {
            assert_eq!(is_of_application(found, "embedded"), expected, "{found}");
        }
    }
}
