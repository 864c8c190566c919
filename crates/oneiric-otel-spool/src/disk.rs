//! What the spool asks of a file system, and the real one. Tests put a disk with faults in its place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system.
pub(crate) trait Disk: Send + Sync {
    /// Makes the directory and what is missing above it, durably. Nothing happens when it is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// What is at the path, links followed; `NotFound` when nothing is.
    fn look(&self, path: &Path) -> io::Result<Place>;
    /// The regular files in a directory. Names that are not UTF-8 are none of the spool's and are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<Found>>;
    /// A new file; `AlreadyExists` when there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, to read.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Replaces what is at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes creations, removals and renames in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock, whose file it makes and where it leaves this process's id.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// An open file.
pub(crate) trait DiskFile: Send + Sync {
    /// Writes all the parts one after the other. After an error any part of them may have been written.
    fn write_all_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Returns once everything written is durable.
    fn sync(&self) -> io::Result<()>;
    fn truncate(&self, length: u64) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    /// Fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// What is at a path.
pub(crate) struct Place {
    pub(crate) directory: bool,
    /// User id of its owner.
    pub(crate) owner: u32,
    /// User id of this process.
    pub(crate) user: u32,
}

/// A file in a directory.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) length: u64,
}

/// How taking a lock went.
pub(crate) enum Lock {
    /// Ours until dropped.
    Taken(Box<dyn Send>),
    /// Another's; its process id when it can be read.
    Busy(Option<u32>),
}

/// Reads a whole file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; file.length()? as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a whole file that is either there completely or not at all. The name is durable after `sync_dir`.
pub(crate) fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    let written = file.write_all_at(0, &mut [IoSlice::new(bytes)]).and_then(|()| file.sync());
    let written = written.and_then(|()| disk.rename(&temporary, path));
    if written.is_err()
        && let Err(error) = disk.remove(&temporary)
    {
        tracing::debug!(%error, path = %temporary.display(), "a temporary file is left over");
    }
    written
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// The disk of this machine.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.create_dir(parent)?;
        DirBuilder::new().mode(0o700).create(path)?;
        self.sync_dir(parent)
    }

    fn look(&self, path: &Path) -> io::Result<Place> {
        let metadata = fs::metadata(path)?;
        let user = rustix::process::geteuid().as_raw();
        Ok(Place { directory: metadata.is_dir(), owner: metadata.uid(), user })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                found.push(Found { name, length: metadata.len() });
            }
        }
        Ok(found)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Lock::Taken(Box::new(file)))
            }
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                Ok(Lock::Busy(holder.trim().parse().ok()))
            }
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl DiskFile for File {
    fn write_all_at(&self, offset: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}
