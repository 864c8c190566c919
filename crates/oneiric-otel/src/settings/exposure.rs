//! Whether a file is a place for secrets.

use std::fs::Metadata;
use std::path::Path;

/// What anybody but the owner and the readers of the group may do with a secret: nothing.
#[cfg(unix)]
const FORBIDDEN: u32 = 0o027;

/// Why a file is no place for secrets, if it is none: others can read it, or anybody but its owner can change it. `about` is
/// of the file that is read, `path` is how to name it.
#[cfg(unix)]
pub fn exposure(about: &Metadata, path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;

    let mode = about.mode() & 0o777;
    (mode & FORBIDDEN != 0).then(|| {
        format!(
            "its mode is {mode:03o}, so others can read or change it; expected at most 640: run chmod 600 {}",
            path.display()
        )
    })
}

/// Nothing is known of who can read a file here.
#[cfg(not(unix))]
pub fn exposure(_about: &Metadata, _path: &Path) -> Option<String> {
    None
}
