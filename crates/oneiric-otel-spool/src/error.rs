//! What can go wrong with the spool, in words that say what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Why the spool could not be opened or something on its disk not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The options contradict themselves.
    #[error("the spool's options cannot be used: {reason}")]
    Options {
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// Something else is where the spool's directory should be.
    #[error("{path} is not a directory; nothing was changed: move it away or use another --data-dir")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error(
        "the spool {dir} belongs to user id {owner}, but this process runs as user id {user}; nothing was changed: run \
         as user id {owner}, give the directory away with `chown -R {user} {dir}`, or use another --data-dir"
    )]
    Owner {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// The process may not write here.
    #[error(
        "no permission for {path} ({source}); nothing was changed: allow this user to read and write it, or use another \
         --data-dir"
    )]
    Denied {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file system cannot be written.
    #[error("the spool cannot write to {path}: its file system is read-only; remount it, or use another --data-dir")]
    ReadOnly {
        /// The file or directory.
        path: PathBuf,
    },
    /// There is no space left.
    #[error(
        "the spool cannot write to {path}: no space is left ({source}); what it holds is untouched: free space, or use \
         another --data-dir"
    )]
    DiskFull {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A later version of this program made it.
    #[error(
        "{path} has spool format {found}, but this program knows formats up to {known}; nothing was changed: use the \
         newer program, or another --data-dir"
    )]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version this build reads.
        known: u32,
    },
    /// The format file is not one.
    #[error(
        "{path} should say the spool's format, as in `oneiric-otel-spool 1`, but says {found:?}; nothing was changed: \
         restore it, or use another --data-dir"
    )]
    UnknownFormat {
        /// The format file.
        path: PathBuf,
        /// The start of what it says.
        found: String,
    },
    /// Another process has it.
    #[error(
        "the spool {dir} is in use by {}; stop that process, or use another --data-dir",
        process(*.pid)
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other process, where it could be told.
        pid: Option<u32>,
    },
    /// No such thing in the quarantine.
    #[error("the quarantine of {dir} has no {name:?}")]
    NotInQuarantine {
        /// The spool's directory.
        dir: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The entry was released before.
    #[error("{id} was released before")]
    Released {
        /// The entry.
        id: crate::EntryId,
    },
    /// Any other trouble with a file.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl SpoolError {
    /// Sorts a system error; `action` completes "cannot ... PATH".
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            io::ErrorKind::PermissionDenied => Self::Denied { path, source },
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { action, path, source },
        }
    }
}

/// Why an entry was not taken. Nothing of it will be read back, unless a crash comes first.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendError {
    /// The bound on bytes is reached; room comes when entries are released.
    #[error("the spool is full: {used} of {max_bytes} bytes are in use, {quarantine} of them in quarantine")]
    Full {
        /// Bytes on disk or about to be.
        used: u64,
        /// Bytes of that which are in quarantine.
        quarantine: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The entry could not be taken by an empty spool either.
    #[error("an entry of {length} bytes is too large for this spool, which takes up to {limit}")]
    TooLarge {
        /// Length of the body.
        length: u64,
        /// Longest body taken.
        limit: u64,
    },
    /// Writing failed a moment ago; whether it works again is being tried.
    #[error("the spool does not accept: {reason}")]
    NotAccepting {
        /// When it stopped.
        since: SystemTime,
        /// What failed.
        reason: String,
    },
    /// Writing this entry failed.
    #[error("the spool could not write: {reason}")]
    Io {
        /// What failed.
        reason: String,
    },
    /// The lane was not named in the options.
    #[error("the spool has no lane {lane}")]
    NoLane {
        /// The lane asked for.
        lane: usize,
    },
    /// The spool was closed.
    #[error("the spool is closed")]
    Closed,
}

/// Why an entry could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Its bytes are not those that were written. They are in quarantine now, and the entry is released.
    #[error("{id} is damaged and was put into quarantine as {quarantined:?}")]
    Damaged {
        /// The entry.
        id: crate::EntryId,
        /// Its name in the quarantine.
        quarantined: String,
    },
    /// It was released before.
    #[error("{id} was released before")]
    Released {
        /// The entry.
        id: crate::EntryId,
    },
    /// The disk failed: in reading the entry, or in putting a damaged one into quarantine. The entry is still there.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}
