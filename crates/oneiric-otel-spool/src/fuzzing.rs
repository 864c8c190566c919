//! What fuzz targets see of the spool: a segment as it is written, and what is recovered of one, without a disk.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile, Found, Lock, Place};
use crate::format::{Record, SEGMENT_HEADER, SegmentHeader, segment_name};
use crate::{Position, ReadError, Recovered, Spool, SpoolError, SpoolOptions, Tuning};

const LANE: &str = "traces";
const NUMBER: u64 = 1;

/// The first segment of a lane as it is written with these bodies.
pub fn segment(marker: u64, bodies: &[&[u8]]) -> Vec<u8> {
    let mut file = SegmentHeader::new(NUMBER, marker, LANE).encode().to_vec();
    debug_assert_eq!(file.len() as u64, SEGMENT_HEADER);
    for body in bodies {
        let record = Record::new(marker, file.len() as u64, 7, 1, Bytes::copy_from_slice(body));
        file.extend(record.parts().concat());
    }
    file
}

/// Where an entry is in its segment, and its body unless that is damaged.
pub type ReadBack = (u64, Option<Bytes>);

/// Opens a spool that holds this segment and reads all entries.
///
/// # Errors
/// Where the spool cannot be opened or an entry cannot be read for another reason than damage.
pub fn recover(segment: &[u8]) -> Result<(Recovered, Vec<ReadBack>), String> {
    let disk = Arc::new(Memory::default());
    let dir = Path::new("/spool");
    let file = File(Arc::new(Mutex::new(segment.to_vec())));
    disk.files().insert(dir.join(LANE).join(segment_name(NUMBER)), file);
    let options = SpoolOptions { max_bytes: 64 << 10, ..SpoolOptions::new(dir, [LANE]) };
    let tuning = Tuning { segment_bytes: 0, idle: Duration::ZERO, care: Duration::ZERO };
    let (spool, recovered, _committer) =
        Spool::open_on(disk, options, tuning).map_err(|error: SpoolError| error.to_string())?;
    let mut found = Vec::new();
    let mut from = Position::default();
    while let Some(id) = spool.next(0, from) {
        from = id.after();
        found.push(match spool.read(id) {
            Ok(entry) => (id.offset, Some(entry.body)),
            Err(ReadError::Damaged { .. }) => (id.offset, None),
            Err(error) => return Err(error.to_string()),
        });
    }
    Ok((recovered, found))
}

/// A disk in memory. Every directory is there.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<PathBuf, File>>);

#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Memory {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn look(&self, _: &Path) -> io::Result<Place> {
        Ok(Place { directory: true, owner: 0, user: 0 })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Found>> {
        let files = self.files();
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.filter_map(|(path, file)| Some((path.file_name()?.to_str()?, file)));
        Ok(named.map(|(name, file)| Found { name: name.to_owned(), length: file.bytes().len() as u64 }).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = File::default();
        files.insert(path.to_owned(), file.clone());
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.files().get(path).map(|file| Arc::new(file.clone()) as Arc<dyn DiskFile>).ok_or_else(missing)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files().remove(path).map(drop).ok_or_else(missing)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or_else(missing)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Lock::Taken(Box::new(())))
    }
}

impl DiskFile for File {
    fn write_all_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = self.bytes();
        bytes.resize(offset as usize, 0);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.bytes().truncate(length as usize);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}
