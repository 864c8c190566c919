//! The spool's directory: makes it, locks it, and refuses what this build must not touch.

use crate::disk::{self, Disk, Lock};
use crate::error::SpoolError;
use crate::format::VERSION;
use crate::quarantine;
use std::io::{self, IoSlice};
use std::path::Path;

const FORMAT_NAME: &str = "oneiric-otel-spool";
static PROBE: [u8; 65536] = [0; 65536];

/// Leaves the directory ready for use, and returns its lock. Changes nothing in one that is refused.
pub(crate) fn prepare(disk: &dyn Disk, dir: &Path, lanes: &[String]) -> Result<Box<dyn Send>, SpoolError> {
    match disk.look(dir) {
        Ok(place) if !place.directory => return Err(SpoolError::NotADirectory { path: dir.to_owned() }),
        Ok(place) if place.owner != place.user => {
            return Err(SpoolError::Owner { dir: dir.to_owned(), owner: place.owner, user: place.user });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(disk, dir)?,
        Err(error) => return Err(SpoolError::io("look at", dir, error)),
    }
    let format = format_version(disk, dir)?;
    let lock = lock(disk, dir)?;
    probe(disk, dir).map_err(|error| SpoolError::io("write to", dir, error))?;
    for lane in lanes {
        make(disk, &dir.join(lane))?;
    }
    make(disk, &quarantine::directory(dir))?;
    if format.is_none() {
        let path = dir.join("format");
        let text = format!("{FORMAT_NAME} {VERSION}\n");
        disk::write_file(disk, &path, text.as_bytes()).map_err(|error| SpoolError::io("write", &path, error))?;
        disk.sync_dir(dir).map_err(|error| SpoolError::io("sync", dir, error))?;
    }
    Ok(lock)
}

fn make(disk: &dyn Disk, path: &Path) -> Result<(), SpoolError> {
    disk.create_dir(path).map_err(|error| SpoolError::io("make", path, error))
}

/// None in a new directory.
fn format_version(disk: &dyn Disk, dir: &Path) -> Result<Option<u32>, SpoolError> {
    let path = dir.join("format");
    let bytes = match disk::read_file(disk, &path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SpoolError::io("read", &path, error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let version = text.trim().strip_prefix(FORMAT_NAME).and_then(|rest| rest.trim().parse::<u32>().ok());
    match version {
        Some(found) if found > VERSION => Err(SpoolError::NewerFormat { path, found, known: VERSION }),
        Some(found) if found > 0 => Ok(Some(found)),
        _ => Err(SpoolError::UnknownFormat { path, found: text.chars().take(60).collect() }),
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send>, SpoolError> {
    let path = dir.join("lock");
    match disk.lock(&path).map_err(|error| SpoolError::io("lock", &path, error))? {
        Lock::Taken(lock) => Ok(lock),
        Lock::Busy(pid) => Err(SpoolError::InUse { dir: dir.to_owned(), pid }),
    }
}

/// Whether the disk takes some bytes now.
pub(crate) fn probe(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let path = dir.join("probe");
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&path)?;
    let written = file.write_all_at(0, &mut [IoSlice::new(&PROBE)]).and_then(|()| file.sync());
    written.and(disk.remove(&path))
}
