//! What can go wrong with the private server, in words that say what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the server could not be provided, used or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The installation lacks a program, or it does not run.
    #[error(
        "{program} cannot be used: {reason}; a PostgreSQL installation of version 15 to 18 with bin/postgres, bin/initdb \
         and bin/pg_ctl is needed (ONEIRIC_OTEL_POSTGRES_DIR names another one)"
    )]
    Program {
        /// The program's path.
        program: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data directory belongs to another major version.
    #[error(
        "{data_dir} was made by PostgreSQL {data_version}, but {installation} is PostgreSQL {installed_version}, which \
         cannot read it; nothing was changed: set ONEIRIC_OTEL_POSTGRES_DIR to an installation of PostgreSQL \
         {data_version}, or export the data with it and import it into another --data-dir"
    )]
    Version {
        /// The cluster's directory.
        data_dir: PathBuf,
        /// The major version in `PG_VERSION`.
        data_version: String,
        /// The installation that was given.
        installation: PathBuf,
        /// Its major version.
        installed_version: u32,
    },
    /// The directory is there, but it is not a database.
    #[error(
        "{path} is not empty and not a PostgreSQL data directory; nothing was changed: move it away or choose another \
         --data-dir"
    )]
    NotADatabase {
        /// The directory.
        path: PathBuf,
    },
    /// The path cannot be handed to PostgreSQL's programs.
    #[error("{path:?} cannot be used: a path must be UTF-8 without control characters and without any of \" $ ` \\")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Files belong to a user under whom the server cannot run here.
    #[error("{path} belongs to {owner}, but the database server would run as {user}; {remedy}")]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: String,
        /// The user that is needed.
        user: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Root runs this, and there is no user to drop to.
    #[error(
        "PostgreSQL does not run as root, and no user to run it as was found (tried: {tried}); create one, for example \
         with `useradd --system postgres`, or name an existing one in ONEIRIC_OTEL_POSTGRES_USER"
    )]
    NoUser {
        /// The names that were tried.
        tried: String,
    },
    /// A directory on the way bars the server's user.
    #[error(
        "user {user}, as whom the database server runs, cannot enter {ancestor} and so cannot reach {path}; run `chmod \
         o+x {ancestor}`, or choose another place ({variable})"
    )]
    Unreachable {
        /// The server's user.
        user: String,
        /// What must be reached.
        path: PathBuf,
        /// The directory that bars the way.
        ancestor: PathBuf,
        /// What names the place.
        variable: &'static str,
    },
    /// initdb or the creation of the database failed; nothing is left behind.
    #[error("cannot create the database in {data_dir}: {output}")]
    Init {
        /// The cluster's directory.
        data_dir: PathBuf,
        /// What the program printed last.
        output: String,
    },
    /// The server did not come up.
    #[error("the database server for {data_dir} does not start: {output}")]
    Start {
        /// The cluster's directory.
        data_dir: PathBuf,
        /// The end of the server's log.
        output: String,
    },
    /// No space on the device.
    #[error("the disk that holds {path} is full ({detail}); free some space or choose another --data-dir")]
    DiskFull {
        /// Something on that disk.
        path: PathBuf,
        /// What was seen.
        detail: String,
    },
    /// The server neither became ready nor went away.
    #[error("the database server for {data_dir} (pid {pid}) is {doing} and not done after {seconds} s; see {log_dir}")]
    Stuck {
        /// The cluster's directory.
        data_dir: PathBuf,
        /// The postmaster's process id.
        pid: i32,
        /// "starting" or "stopping".
        doing: &'static str,
        /// How long was waited.
        seconds: u64,
        /// Where the server's log is.
        log_dir: PathBuf,
    },
    /// The running server does not answer.
    #[error("the database server at {socket_dir} does not answer: {reason}")]
    Unresponsive {
        /// The directory of its socket.
        socket_dir: PathBuf,
        /// What was seen.
        reason: &'static str,
    },
    /// The password of an initialised database is gone.
    #[error(
        "{path} is missing or empty, and with it the password of the database; restore the file from a backup, or choose \
         another --data-dir"
    )]
    PasswordMissing {
        /// The password file.
        path: PathBuf,
    },
    /// A file operation was refused.
    #[error(
        "no permission to {action} {path} as {user}: it must belong to the user who runs oneiric-otel; run it as the \
         owner, or choose another --data-dir"
    )]
    Permission {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The user of this process.
        user: String,
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

impl PostgresError {
    /// For `map_err`: an I/O error together with what was tried on which path, sorted by what to do about it.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                let user = crate::account::user_name(rustix::process::geteuid().as_raw());
                Self::Permission { action, path, user }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, detail: source.to_string() }
            }
            _ => Self::Io { action, path, source },
        }
    }

    /// Sorts what a program printed before it failed.
    pub(crate) fn from_output(data_dir: &Path, output: String, otherwise: fn(PathBuf, String) -> Self) -> Self {
        let data_dir = data_dir.to_owned();
        let full = output.lines().find(|line| line.contains("No space left on device") || line.contains("Disk quota"));
        match full {
            Some(line) => Self::DiskFull { detail: line.trim().to_owned(), path: data_dir },
            None => otherwise(data_dir, output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let start = |data_dir, output| PostgresError::Start { data_dir, output };
        let full = "LOG:  starting\nFATAL:  could not write lock file \"postmaster.pid\": No space left on device\n";
        let error = PostgresError::from_output(Path::new("/data"), full.to_owned(), start);
        assert!(error.to_string().contains("the disk that holds /data is full"), "{error}");
        let error = PostgresError::from_output(Path::new("/data"), "FATAL:  no".to_owned(), start);
        assert!(matches!(error, PostgresError::Start { .. }), "{error}");
        let error = PostgresError::io("write", Path::new("/data"))(io::ErrorKind::StorageFull.into());
        assert!(matches!(error, PostgresError::DiskFull { .. }), "{error}");
    }
}
