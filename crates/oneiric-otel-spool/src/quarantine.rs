//! Where bytes go that nobody can use: beside the lanes, each as a file of raw bytes and a small JSON file about it.
//!
//! It counts when both are there. The name follows from the place the bytes had and from what they are, so that setting
//! the same thing aside again, after a crash, makes no second copy, and a stretch of damage that grows is kept again.
//! Everything here works without opening the spool.

use crate::disk::{self, Disk, RealDisk};
use crate::error::SpoolError;
use crate::format::unix_micros;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What is known about bytes in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quarantined {
    /// Its name, for [`read`] and [`remove`].
    pub name: String,
    /// Why it is here.
    pub reason: String,
    /// What the bytes are.
    pub content: Content,
    /// The lane it was in.
    pub lane: String,
    /// The number of its segment.
    pub segment: u64,
    /// Where in the segment's file the bytes, or the record around them, began.
    pub offset: u64,
    /// How many bytes are kept.
    pub length: u64,
    /// The tag the entry was appended with; None where it cannot be told.
    pub tag: Option<u16>,
    /// When the entry was appended, Unix time in microseconds; None where it cannot be told.
    pub received_at: Option<u64>,
    /// When it was put here, Unix time in microseconds.
    pub set_aside_at: u64,
}

/// What the bytes in quarantine are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// An entry's body, exactly as appended.
    Body,
    /// An entry's body that differs from the one appended.
    DamagedBody,
    /// A stretch of a segment file in which no record can be found.
    Raw,
}

/// Everything in quarantine, oldest first. `dir` is the spool's directory; one that is not there has nothing.
pub fn list(dir: &Path) -> Result<Vec<Quarantined>, SpoolError> {
    let quarantine = directory(dir);
    let files = match RealDisk.list(&quarantine) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(SpoolError::io("list", &quarantine, error)),
    };
    // One without bytes is being written or removed at this moment, or was when the machine stopped.
    let has_bytes = |name: &&str| files.iter().any(|file| file.name.strip_suffix(".bin") == Some(name));
    let names = files.iter().filter_map(|file| file.name.strip_suffix(".json")).filter(has_bytes);
    let mut found = names.map(|name| about(dir, name)).collect::<Result<Vec<_>, _>>()?;
    found.sort_by(|a, b| (a.set_aside_at, &a.name).cmp(&(b.set_aside_at, &b.name)));
    Ok(found)
}

/// What is known about one, and its bytes.
pub fn read(dir: &Path, name: &str) -> Result<(Quarantined, Vec<u8>), SpoolError> {
    let about = about(dir, name)?;
    let path = file(dir, name, "bin");
    let bytes = disk::read_file(&RealDisk, &path).map_err(|error| SpoolError::io("read", &path, error))?;
    Ok((about, bytes))
}

/// Deletes one for good.
pub fn remove(dir: &Path, name: &str) -> Result<(), SpoolError> {
    about(dir, name)?;
    for ending in ["bin", "json"] {
        let path = file(dir, name, ending);
        match RealDisk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SpoolError::io("remove", &path, error));
            }
            _ => {}
        }
    }
    let quarantine = directory(dir);
    RealDisk.sync_dir(&quarantine).map_err(|error| SpoolError::io("sync", &quarantine, error))
}

fn about(dir: &Path, name: &str) -> Result<Quarantined, SpoolError> {
    let missing = || SpoolError::NotInQuarantine { dir: dir.to_owned(), name: name.to_owned() };
    if !is_name(name) {
        return Err(missing());
    }
    let path = file(dir, name, "json");
    let bytes = match disk::read_file(&RealDisk, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        other => other.map_err(|error| SpoolError::io("read", &path, error))?,
    };
    let about: Quarantined =
        serde_json::from_slice(&bytes).map_err(|error| SpoolError::io("read", &path, error.into()))?;
    Ok(Quarantined { name: name.to_owned(), ..about })
}

/// A name comes from a command line: it must stay in its directory.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

pub(crate) fn directory(dir: &Path) -> PathBuf {
    dir.join("quarantine")
}

fn file(dir: &Path, name: &str, ending: &str) -> PathBuf {
    directory(dir).join(format!("{name}.{ending}"))
}

/// Where bytes came from and why they go.
pub(crate) struct Origin<'a> {
    pub(crate) lane: &'a str,
    pub(crate) segment: u64,
    /// The segment's marker: tells segments of one number apart. 0 where it cannot be told.
    pub(crate) marker: u64,
    pub(crate) offset: u64,
    pub(crate) content: Content,
    pub(crate) tag: Option<u16>,
    pub(crate) received_at: Option<u64>,
    pub(crate) reason: &'a str,
}

/// Keeps the bytes durably, once.
pub(crate) fn keep(disk: &dyn Disk, dir: &Path, origin: &Origin<'_>, bytes: &[u8]) -> Result<Quarantined, SpoolError> {
    let about = describe(origin, bytes);
    let json = serde_json::to_vec_pretty(&about);
    let json = json.map_err(|error| SpoolError::io("describe", &directory(dir), error.into()))?;
    let files = [(file(dir, &about.name, "bin"), bytes), (file(dir, &about.name, "json"), &json)];
    let there = |path: &Path| match disk.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(SpoolError::io("open", path, error)),
    };
    let known = there(&files[0].0)? && there(&files[1].0)?;
    if !known {
        for (path, bytes) in &files {
            disk::write_file(disk, path, bytes).map_err(|error| SpoolError::io("write", path, error))?;
        }
        tracing::warn!(lane = about.lane, name = about.name, length = about.length, reason = about.reason, "set aside");
    }
    // Also where both are known: an earlier attempt may have ended just before this.
    let quarantine = directory(dir);
    disk.sync_dir(&quarantine).map_err(|error| SpoolError::io("sync", &quarantine, error))?;
    Ok(about)
}

fn describe(origin: &Origin<'_>, bytes: &[u8]) -> Quarantined {
    let checksum = crc32fast::hash(bytes);
    let Origin { lane, segment, marker, offset, .. } = origin;
    Quarantined {
        name: format!("{lane}-{segment:016}-{offset}-{marker:016x}-{checksum:08x}"),
        reason: origin.reason.to_owned(),
        content: origin.content,
        lane: (*lane).to_owned(),
        segment: *segment,
        offset: *offset,
        length: bytes.len() as u64,
        tag: origin.tag,
        received_at: origin.received_at,
        set_aside_at: unix_micros(SystemTime::now()),
    }
}

/// Bytes on disk, whoever put them there or took them away.
pub(crate) fn bytes(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    Ok(disk.list(&directory(dir))?.iter().map(|file| file.length).sum())
}
