//! Where the shared test data lies: real telemetry that is not part of this repository.
//!
//! Tests that need it say plainly that they skip where it is absent.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder that `ONEIRIC_OTEL_TEST_DATA` names, else `../shared/data` beside the workspace. None if it is not
/// there, or if the variable is set but empty.
///
/// # Panics
/// If the variable names something that is not a directory: whoever sets it wants the tests to run.
pub fn shared_data() -> Option<PathBuf> {
    if let Some(named) = env::var_os("ONEIRIC_OTEL_TEST_DATA") {
        if named.is_empty() {
            return None;
        }
        let named = PathBuf::from(named);
        assert!(named.is_dir(), "ONEIRIC_OTEL_TEST_DATA={}: it must be a directory, or be empty", named.display());
        return Some(named);
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    beside.canonicalize().ok().filter(|path| path.is_dir())
}

/// A file or folder in the shared data, or None after saying on stderr that `test` skips.
///
/// # Panics
/// If the shared data is there but lacks `path`.
pub fn shared_data_for(test: &str, path: &str) -> Option<PathBuf> {
    let Some(data) = shared_data() else {
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("SKIPPED {test}: no shared test data; set ONEIRIC_OTEL_TEST_DATA to its folder");
        }
        return None;
    };
    let found = data.join(path);
    assert!(found.exists(), "the shared test data in {} lacks {path}", data.display());
    Some(found)
}

/// The files in a folder and in what is below it, in the order of their paths.
///
/// # Panics
/// If a folder cannot be read.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the shared data") {
        let path = entry.expect("a file of the shared data").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
