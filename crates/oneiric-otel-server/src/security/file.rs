//! Files that hold secrets.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use oneiric_otel::settings::exposure;

use crate::ServerError;

/// No certificate, key or list of tokens is as long as that.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a file. `what` says what it is for, in messages.
pub(super) fn read(what: &str, path: &Path) -> Result<Vec<u8>, ServerError> {
    read_from(what, path, open(what, path)?)
}

/// Reads a file that is useless if others know it.
///
/// # Errors
/// Also when others may read it, or anybody but its owner may change it.
pub(super) fn read_secret(what: &str, path: &Path) -> Result<Vec<u8>, ServerError> {
    let file = open(what, path)?;
    let about = file.metadata().map_err(|error| fail(what, path, error))?;
    match exposure(&about, path) {
        Some(reason) => Err(fail(what, path, reason)),
        None => read_from(what, path, file),
    }
}

fn open(what: &str, path: &Path) -> Result<File, ServerError> {
    File::open(path).map_err(|error| fail(what, path, format!("it cannot be opened: {error}")))
}

fn read_from(what: &str, path: &Path, file: File) -> Result<Vec<u8>, ServerError> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fail(what, path, error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(what, path, format!("it is longer than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// An error about a file.
pub(super) fn fail(what: &str, path: &Path, reason: impl std::fmt::Display) -> ServerError {
    ServerError::Security(format!("{what} {}: {reason}", path.display()))
}
