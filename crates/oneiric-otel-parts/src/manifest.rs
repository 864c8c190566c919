//! The list of what an installed part consists of, written last and checked at every start.
//!
//! Checking compares kind, size and executability of each file and the hash of the wheel it came from. It does not
//! read the files: it must cost next to nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::PartsError;

/// Its presence says that the part is complete: the directory it lies in appears under its name by one rename.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// One unpacked file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the part's directory.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) executable: bool,
}

/// Writes the manifest of `entries` into `dir`.
pub(crate) fn write(dir: &Path, sha256: &str, entries: &[Entry]) -> Result<(), PartsError> {
    let files: Vec<Value> =
        entries.iter().map(|entry| json!([entry.path, entry.bytes, u8::from(entry.executable)])).collect();
    let path = dir.join(FILE_NAME);
    let text = json!({ "sha256": sha256, "files": files }).to_string();
    fs::write(&path, text).map_err(PartsError::io("write", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        .map_err(PartsError::io("set the permissions of", &path))
}

/// Whether `dir` holds a complete part made from the wheel with this hash; if not, why.
pub(crate) fn check(dir: &Path, sha256: &str) -> Result<(), String> {
    let text = fs::read(dir.join(FILE_NAME)).map_err(|error| format!("{FILE_NAME}: {error}"))?;
    let manifest: Value = serde_json::from_slice(&text).map_err(|error| format!("{FILE_NAME}: {error}"))?;
    if manifest.get("sha256").and_then(Value::as_str) != Some(sha256) {
        return Err("it was made from another wheel".to_owned());
    }
    let files = manifest.get("files").and_then(Value::as_array).ok_or("the manifest lists no files")?;
    if files.is_empty() {
        return Err("the manifest lists no files".to_owned());
    }
    for file in files {
        let (Some(path), Some(bytes), Some(executable)) = (
            file.get(0).and_then(Value::as_str),
            file.get(1).and_then(Value::as_u64),
            file.get(2).and_then(Value::as_u64),
        ) else {
            return Err(format!("{FILE_NAME}: odd entry {file}"));
        };
        let meta = fs::symlink_metadata(dir.join(path)).map_err(|error| format!("{path}: {error}"))?;
        if !meta.is_file() || meta.len() != bytes {
            return Err(format!("{path}: {} bytes, {bytes} expected", meta.len()));
        }
        if executable == 1 && meta.permissions().mode() & 0o100 == 0 {
            return Err(format!("{path}: not executable"));
        }
    }
    Ok(())
}
