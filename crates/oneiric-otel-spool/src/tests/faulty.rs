//! A disk in memory with the faults of real ones: it forgets what was not synced, runs full, and fails where told.
//!
//! What a crash leaves of un-synced bytes is chosen by a seed, in blocks of 64 bytes: each is old or new, the length is
//! anything between. What was created, renamed or removed without a sync of the directory may or may not have happened.
//! A failed sync makes some blocks durable and drops the others: later syncs report success without them.

use crate::disk::{Disk, DiskFile, Found, Lock, Place};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const BLOCK: usize = 64;

/// Happens once, at the next call it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The write stops after this many bytes: no space.
    ShortWrite(usize),
    Sync,
    Truncate,
    Create,
    Remove,
    SyncDir,
    Read,
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Blocks that a failed sync dropped.
    dropped: BTreeSet<usize>,
}

#[derive(Default)]
struct World {
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    inodes: Vec<Inode>,
    faults: Vec<Fault>,
    /// Bytes that all files together may have.
    capacity: Option<usize>,
    refuse_writes: Option<ErrorKind>,
    /// Reads that touch this byte of this file fail.
    broken: Option<(usize, usize)>,
    owner: u32,
    most_segment_bytes: usize,
    locked: bool,
    seed: u64,
}

#[derive(Clone, Default)]
pub(super) struct FaultyDisk(Arc<Mutex<World>>);

impl FaultyDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(super) fn inject(&self, fault: Fault) {
        self.world().faults.push(fault);
    }

    pub(super) fn will_fail(&self, fault: Fault) -> bool {
        self.world().faults.contains(&fault)
    }

    /// From here on nothing fails.
    pub(super) fn heal(&self) {
        let mut world = self.world();
        world.faults.clear();
        world.capacity = None;
        world.refuse_writes = None;
        world.broken = None;
    }

    pub(super) fn break_byte(&self, path: &Path, offset: usize) {
        let mut world = self.world();
        world.broken = Some((world.names[path], offset));
    }

    /// Leaves this many bytes free.
    pub(super) fn leave_free(&self, bytes: usize) {
        let mut world = self.world();
        world.capacity = Some(world.used() + bytes);
    }

    pub(super) fn refuse_writes(&self, kind: ErrorKind) {
        self.world().refuse_writes = Some(kind);
    }

    pub(super) fn give_to(&self, owner: u32) {
        self.world().owner = owner;
    }

    /// The machine stops and starts again.
    pub(super) fn crash(&self, seed: u64) {
        self.world().crash(seed);
    }

    /// Flips a bit on the medium.
    pub(super) fn flip(&self, path: &Path, offset: usize) {
        let mut world = self.world();
        let inode = world.names[path];
        let inode = &mut world.inodes[inode];
        inode.current[offset] ^= 4;
        if let Some(byte) = inode.durable.get_mut(offset) {
            *byte ^= 4;
        }
    }

    pub(super) fn files(&self, dir: &Path, ending: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let world = self.world();
        let files = world.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let files = files.filter(|(path, _)| path.to_string_lossy().ends_with(ending));
        files.map(|(path, inode)| (path.clone(), world.inodes[*inode].current.clone())).collect()
    }

    /// All names, and all bytes.
    pub(super) fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let world = self.world();
        world.names.iter().map(|(path, inode)| (path.clone(), world.inodes[*inode].current.clone())).collect()
    }

    pub(super) fn most_segment_bytes(&self) -> usize {
        self.world().most_segment_bytes
    }
}

impl World {
    fn used(&self) -> usize {
        self.names.values().map(|inode| self.inodes[*inode].current.len()).sum()
    }

    fn random(&mut self) -> StdRng {
        self.seed = self.seed.wrapping_add(1);
        StdRng::seed_from_u64(self.seed)
    }

    fn fails(&mut self, wanted: Fault) -> io::Result<()> {
        if let Some(at) = self.faults.iter().position(|fault| *fault == wanted) {
            self.faults.remove(at);
            return Err(io::Error::other(format!("{wanted:?} failed on purpose")));
        }
        Ok(())
    }

    fn writable(&self) -> io::Result<()> {
        self.refuse_writes.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn write(&mut self, inode: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.writable()?;
        let short = self.faults.iter().find_map(|fault| match fault {
            Fault::ShortWrite(length) => Some(*length),
            _ => None,
        });
        if let Some(length) = short {
            self.faults.retain(|fault| *fault != Fault::ShortWrite(length));
        }
        let free = self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()));
        let length = bytes.len().min(free).min(short.unwrap_or(usize::MAX));
        let file = &mut self.inodes[inode];
        assert_eq!(file.current.len(), offset, "the spool only appends");
        file.current.extend_from_slice(&bytes[..length]);
        file.dropped.retain(|block| *block < offset / BLOCK);
        let segments = self.names.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "seg"));
        let segment_bytes = segments.map(|(_, inode)| self.inodes[*inode].current.len()).sum();
        self.most_segment_bytes = self.most_segment_bytes.max(segment_bytes);
        if length < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self, inode: usize) -> io::Result<()> {
        let failed = self.fails(Fault::Sync);
        let mut random = self.random();
        let file = &mut self.inodes[inode];
        if failed.is_err() {
            let differing = differing_blocks(&file.durable, &file.current);
            file.dropped.extend(differing.filter(|_| random.random()));
        }
        let dropped = file.dropped.clone();
        file.durable = mixed(&file.durable, &file.current, file.current.len(), |block| !dropped.contains(&block));
        failed
    }

    fn crash(&mut self, seed: u64) {
        self.seed = seed;
        let mut random = self.random();
        let paths: BTreeSet<PathBuf> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let either = if random.random() { &self.names } else { &self.durable_names };
            if let Some(inode) = either.get(&path) {
                names.insert(path, *inode);
            }
        }
        for file in &mut self.inodes {
            let (short, long) =
                (file.durable.len().min(file.current.len()), file.durable.len().max(file.current.len()));
            let length = [file.durable.len(), file.current.len(), random.random_range(short..=long)];
            let length = length[random.random_range(0..length.len())];
            let all = random.random_bool(0.2);
            let dropped = std::mem::take(&mut file.dropped);
            let new = |block| !dropped.contains(&block) && (all || random.random());
            file.current = mixed(&file.durable, &file.current, length, new);
            file.durable.clone_from(&file.current);
        }
        self.durable_names.clone_from(&names);
        self.names = names;
        self.locked = false;
        self.faults.clear();
    }
}

/// Old and new content, block by block; zeros where the chosen one has ended.
fn mixed(old: &[u8], new: &[u8], length: usize, mut take_new: impl FnMut(usize) -> bool) -> Vec<u8> {
    let mut mixed = new[..length.min(new.len())].to_vec();
    mixed.resize(length, 0);
    for block in differing_blocks(old, new).filter(|block| block * BLOCK < length) {
        // Where the new content has ended there is only the old.
        if block * BLOCK >= new.len() || !take_new(block) {
            let bytes = &mut mixed[block * BLOCK..length.min((block + 1) * BLOCK)];
            let source = old.get(block * BLOCK..).unwrap_or_default();
            let known = source.len().min(bytes.len());
            bytes[..known].copy_from_slice(&source[..known]);
            bytes[known..].fill(0);
        }
    }
    mixed
}

fn differing_blocks<'a>(old: &'a [u8], new: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let block = |bytes: &'a [u8], at: usize| bytes.get(at * BLOCK..bytes.len().min((at + 1) * BLOCK));
    (0..old.len().max(new.len()).div_ceil(BLOCK)).filter(move |at| block(old, *at) != block(new, *at))
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        if !world.directories.contains(path) {
            world.writable()?;
            world.directories.insert(path.to_owned());
        }
        Ok(())
    }

    fn look(&self, path: &Path) -> io::Result<Place> {
        let world = self.world();
        if world.directories.contains(path) {
            return Ok(Place { directory: true, owner: world.owner, user: 0 });
        }
        world.inode(path)?;
        Ok(Place { directory: false, owner: world.owner, user: 0 })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Found>> {
        let found = self.files(dir, "").into_iter().map(|(path, bytes)| Found {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            length: bytes.len() as u64,
        });
        Ok(found.collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.writable()?;
        world.fails(Fault::Create)?;
        if world.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        world.inodes.push(Inode::default());
        let inode = world.inodes.len() - 1;
        world.names.insert(path.to_owned(), inode);
        Ok(Arc::new(FaultyFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.world().inode(path)?;
        Ok(Arc::new(FaultyFile { disk: self.clone(), inode }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.inode(path)?;
        world.writable()?;
        world.fails(Fault::Remove)?;
        world.names.remove(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.inode(from)?;
        world.names.remove(from);
        world.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.fails(Fault::SyncDir)?;
        let inside = |path: &Path| path.parent() == Some(dir);
        world.durable_names.retain(|path, _| !inside(path));
        let now: Vec<_> =
            world.names.iter().filter(|(path, _)| inside(path)).map(|(path, at)| (path.clone(), *at)).collect();
        world.durable_names.extend(now);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut world = self.world();
        if world.locked {
            return Ok(Lock::Busy(Some(4711)));
        }
        world.writable()?;
        world.locked = true;
        let inode = world.names.get(path).copied();
        if inode.is_none() {
            world.inodes.push(Inode::default());
            let inode = world.inodes.len() - 1;
            world.names.insert(path.to_owned(), inode);
        }
        Ok(Lock::Taken(Box::new(HeldLock(self.clone()))))
    }
}

struct HeldLock(FaultyDisk);

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.0.world().locked = false;
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    inode: usize,
}

impl DiskFile for FaultyFile {
    fn write_all_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.disk.world().write(self.inode, offset as usize, &bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.world().sync(self.inode)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.fails(Fault::Truncate)?;
        let file = &mut world.inodes[self.inode];
        file.current.truncate(length as usize);
        file.dropped.retain(|block| *block < length.div_ceil(BLOCK as u64) as usize);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.world().inodes[self.inode].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.disk.world();
        world.fails(Fault::Read)?;
        let touched = offset as usize..offset as usize + buffer.len();
        if world.broken.is_some_and(|(inode, at)| inode == self.inode && touched.contains(&at)) {
            return Err(io::Error::other("a broken block"));
        }
        let bytes = world.inodes[self.inode].current.get(offset as usize..).unwrap_or_default();
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }
}
