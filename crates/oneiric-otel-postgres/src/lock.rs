//! Locks on files: held until dropped, or until the process dies.

use std::fs;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use crate::error::PostgresError;

/// A held lock.
#[derive(Debug)]
pub(crate) struct Lock {
    file: fs::File,
}

impl Lock {
    /// Waits until nobody else holds the lock.
    pub(crate) fn exclusive(file: fs::File, path: &Path) -> Result<Self, PostgresError> {
        Self::wait(file, FlockOperation::LockExclusive, path)
    }

    /// Waits until nobody holds the lock exclusively.
    pub(crate) fn shared(file: fs::File, path: &Path) -> Result<Self, PostgresError> {
        Self::wait(file, FlockOperation::LockShared, path)
    }

    fn wait(file: fs::File, operation: FlockOperation, path: &Path) -> Result<Self, PostgresError> {
        retry_on_intr(|| flock(&file, operation)).map_err(|errno| PostgresError::io("lock", path)(errno.into()))?;
        Ok(Self { file })
    }

    /// The exclusive lock if nobody holds any.
    pub(crate) fn try_exclusive(file: fs::File, path: &Path) -> Result<Option<Self>, PostgresError> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(PostgresError::io("lock", path)(errno.into())),
        }
    }
}

impl Drop for Lock {
    /// Closing the file would not be enough: another thread may just be starting a program, and until that runs, it
    /// has a copy of everything that is open here.
    fn drop(&mut self) {
        if let Err(errno) = flock(&self.file, FlockOperation::Unlock) {
            tracing::debug!(%errno, "cannot unlock");
        }
    }
}
