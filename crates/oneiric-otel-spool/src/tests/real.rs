//! The spool as it is used: its thread, the real disk, the directory afterwards.

use super::{LANES, bodies, options};
use crate::quarantine::{self, Content};
use crate::{AppendError, EntryId, Position, ReadError, Spool, SpoolOptions};
use bytes::Bytes;
use futures::executor::block_on;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::SystemTime;

fn open(dir: &Path) -> Spool {
    Spool::open(options(dir, 1 << 20)).unwrap().0
}

fn append(spool: &Spool, lane: usize, tag: u16, body: &[u8]) -> EntryId {
    let (sender, receiver) = mpsc::channel();
    let done = move |result| sender.send(result).unwrap();
    block_on(spool.append(lane, tag, Bytes::copy_from_slice(body), done)).unwrap();
    receiver.recv().unwrap().unwrap()
}

fn segments(dir: &Path, lane: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir.join(lane)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn an_entry_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let before = SystemTime::now();
    let id = append(&spool, 1, 0xbeef, b"some bytes");
    assert_eq!(id.lane(), 1);
    assert_eq!(spool.next(1, Position::default()), Some(id));
    assert_eq!(spool.next(0, Position::default()), None);
    let entry = spool.read(id).unwrap();
    assert_eq!((entry.id, entry.tag, &entry.body[..]), (id, 0xbeef, &b"some bytes"[..]));
    assert!(
        entry.received_at + std::time::Duration::from_micros(1) >= before && entry.received_at <= SystemTime::now()
    );
    assert_eq!(spool.next(1, entry.next), None);
    let status = spool.status();
    assert_eq!((status.lanes[1].entries, status.lanes[1].oldest), (1, Some(entry.received_at)));
    assert_eq!((status.counters.appended, status.counters.appended_bytes, status.counters.fsyncs), (1, 10, 1));
}

#[test]
fn entries_survive_a_restart_in_order_and_released_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids: Vec<_> = (0..100_u8).map(|n| append(&spool, 0, 0, &[n; 5000])).collect();
    ids[..60].iter().for_each(|id| spool.release(*id));
    let first = spool.first(0);
    spool.close();
    let kept = segments(dir.path(), "traces").len();
    let (spool, recovered) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
    let read = bodies(&spool, 0);
    assert_eq!(recovered.entries, read.len() as u64);
    assert!(read.len() >= 40 && read.len() < 60, "released segments are gone: {}", read.len());
    assert_eq!(read[read.len() - 40..], (60..100).map(|n| vec![n; 5000]).collect::<Vec<_>>());
    assert!(first < spool.next(0, first).unwrap().position());
    let mut from = spool.first(0);
    while let Some(id) = spool.next(0, from) {
        spool.release(id);
        from = id.after();
    }
    spool.close();
    assert!(kept > 0);
    assert_eq!(segments(dir.path(), "traces"), Vec::<PathBuf>::new());
}

#[test]
fn a_second_release_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let ids = [append(&spool, 0, 0, b"a"), append(&spool, 0, 0, b"b")];
    spool.release(ids[0]);
    spool.release(ids[0]);
    assert_eq!(bodies(&spool, 0), [b"b"]);
    assert!(matches!(spool.read(ids[0]), Err(ReadError::Released { .. })));
    assert_eq!(spool.next(0, Position::default()), Some(ids[1]));
    spool.close();
    assert_eq!(bodies(&open(dir.path()), 0).last().unwrap(), b"b");
}

#[test]
fn files_are_for_their_owner_only_and_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/spool");
    let spool = open(&root);
    append(&spool, 2, 0, b"private");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in [&root, &root.join("logs"), &root.join("quarantine"), &dir.path().join("deep")] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    for path in [&root.join("format"), &root.join("lock"), &segments(&root, "logs")[0]] {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    assert_eq!(fs::read_to_string(root.join("format")).unwrap(), "oneiric-otel-spool 1\n");
    assert_eq!(fs::read_to_string(root.join("lock")).unwrap().trim(), std::process::id().to_string());
    spool.close();
    for stranger in ["notes.txt", "logs/notes.txt", "logs/0000000000000001.seg.bak"] {
        fs::write(root.join(stranger), "mine").unwrap();
    }
    open(&root).close();
    for stranger in ["notes.txt", "logs/notes.txt", "logs/0000000000000001.seg.bak"] {
        assert_eq!(fs::read_to_string(root.join(stranger)).unwrap(), "mine");
    }
}

#[test]
fn a_torn_tail_of_any_length_costs_the_last_entry_only() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for n in 1..=3 {
        append(&spool, 0, 0, &[n; 20]);
    }
    spool.close();
    let path = segments(dir.path(), "traces").remove(0);
    let whole = fs::read(&path).unwrap();
    for length in (0..192).step_by(8).chain(192..whole.len()) {
        fs::write(&path, &whole[..length]).unwrap();
        let (spool, recovered) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
        let left = bodies(&spool, 0);
        let wanted = (length / 64).saturating_sub(1);
        assert_eq!(left, [[1; 20], [2; 20], [3; 20]][..wanted].to_vec(), "cut at {length}");
        let tail = length - if length < 104 { 0 } else { 64 + 64 * wanted };
        assert_eq!(recovered.torn_bytes, tail as u64, "cut at {length}");
        assert_eq!(recovered.damaged, [], "cut at {length}");
        spool.close();
        // A file that never held an entry is gone, one that did is as it was.
        assert_eq!(path.exists(), wanted > 0);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(bodies(&open(dir.path()), 0).len(), 3);
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    append(&spool, 0, 1, &[1; 100]);
    spool.close();
    let path = segments(dir.path(), "traces").remove(0);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1_000_000).unwrap();
    let (spool, recovered) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
    assert_eq!(recovered.torn_bytes, 1_000_000 - 64 - 192);
    assert_eq!(recovered.damaged, []);
    assert_eq!(bodies(&spool, 0), [[1; 100]]);
}

/// One byte of a segment is damaged at a time; only the entry it belongs to may go, and its bytes are kept.
#[test]
fn a_damaged_byte_costs_its_own_entry_only() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for n in 1..=3 {
        append(&spool, 0, 0, &[n; 20]);
    }
    spool.close();
    let path = segments(dir.path(), "traces").remove(0);
    let whole = fs::read(&path).unwrap();
    for at in (0..128).chain((128..whole.len() as u64).step_by(5)) {
        fs::write(&path, &whole).unwrap();
        flip(&path, at);
        let (spool, recovered) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
        let left = bodies(&spool, 0);
        let kept = quarantine::list(dir.path()).unwrap();
        let (record, within) = (at.saturating_sub(64) / 64, at.saturating_sub(64) % 64);
        let harmless = at < 64 || within >= 60;
        let all = vec![vec![1; 20], vec![2; 20], vec![3; 20]];
        let mut wanted = all.clone();
        if !harmless {
            wanted.remove(record as usize);
        }
        assert_eq!(left, wanted, "byte {at}");
        assert_eq!(kept.len(), usize::from(!harmless), "byte {at}");
        for about in &kept {
            let (_, bytes) = quarantine::read(dir.path(), &about.name).unwrap();
            let body = if about.content == Content::Raw { &bytes[40..60] } else { &bytes[..] };
            let differing = body.iter().zip(&all[record as usize]).filter(|(a, b)| a != b).count();
            assert_eq!(differing, usize::from(within >= 40), "byte {at}");
            assert_eq!((about.lane.as_str(), about.segment, about.offset), ("traces", 1, 64 + 64 * record));
            quarantine::remove(dir.path(), &about.name).unwrap();
        }
        assert_eq!(recovered.damaged.len(), usize::from(!harmless && within < 40), "byte {at}");
        assert_eq!(spool.status().counters.damaged, kept.len() as u64);
        spool.close();
    }
}

#[test]
fn a_body_cannot_pass_for_records() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    append(&spool, 0, 0, b"first");
    spool.close();
    // A client that has seen a segment sends it back.
    let seen = fs::read(segments(dir.path(), "traces").remove(0)).unwrap();
    let mut body = vec![0; 24];
    body.extend_from_slice(&seen);
    let spool = open(dir.path());
    append(&spool, 0, 0, &body);
    append(&spool, 0, 0, b"last");
    spool.close();
    let path = segments(dir.path(), "traces").remove(1);
    flip(&path, 64 + 12);
    let (spool, recovered) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
    // With the only other header damaged too, the marker cannot be known: nothing is made up.
    assert_eq!(bodies(&spool, 0), [b"first".to_vec(), b"last".to_vec()]);
    assert_eq!(recovered.damaged.len(), 1);
}

#[test]
fn a_file_without_any_readable_start_goes_to_quarantine_whole() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    append(&spool, 0, 0, &[7; 1000]);
    append(&spool, 1, 0, b"elsewhere");
    spool.close();
    let path = segments(dir.path(), "traces").remove(0);
    flip(&path, 3);
    flip(&path, 64);
    let bytes = fs::read(&path).unwrap();
    let (spool, recovered) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
    assert_eq!(recovered.damaged.len(), 1);
    assert_eq!(quarantine::read(dir.path(), &recovered.damaged[0].name).unwrap().1, bytes);
    assert_eq!((bodies(&spool, 0).len(), bodies(&spool, 1).len()), (0, 1));
    spool.close();
    assert!(!path.exists());
}

#[test]
fn damage_that_grows_is_kept_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    for n in 1..=4 {
        append(&spool, 0, 0, &[n; 20]);
    }
    spool.close();
    let path = segments(dir.path(), "traces").remove(0);
    for (record, lengths) in [(1, &[64][..]), (2, &[64, 128][..])] {
        flip(&path, 64 + 64 * record);
        for _ in 0..2 {
            open(dir.path()).close();
            let mut kept: Vec<_> = quarantine::list(dir.path()).unwrap().iter().map(|about| about.length).collect();
            kept.sort_unstable();
            assert_eq!(kept, lengths);
        }
    }
    assert_eq!(bodies(&open(dir.path()), 0), [[1; 20], [4; 20]]);
}

#[test]
fn set_aside_entries_are_kept_and_found_without_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let id = append(&spool, 1, 9, b"not OTLP");
    let received_at = spool.read(id).unwrap().received_at;
    spool.set_aside(id, "cannot be decoded").unwrap();
    assert!(spool.set_aside(id, "again").is_err());
    assert_eq!(spool.next(1, Position::default()), None);
    assert_eq!((spool.status().counters.set_aside, spool.status().counters.damaged), (1, 0));
    assert!(spool.status().quarantine_bytes > 0);
    let list = quarantine::list(dir.path()).unwrap();
    let (about, bytes) = quarantine::read(dir.path(), &list[0].name).unwrap();
    assert_eq!(bytes, b"not OTLP");
    assert_eq!((about.reason.as_str(), about.lane.as_str(), about.tag), ("cannot be decoded", "metrics", Some(9)));
    assert_eq!((about.content, about.length), (Content::Body, 8));
    assert_eq!(SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(about.received_at.unwrap()), received_at);
    quarantine::remove(dir.path(), &about.name).unwrap();
    assert_eq!(quarantine::list(dir.path()).unwrap(), []);
    for name in [about.name.as_str(), "../format", "", "no-such"] {
        assert!(quarantine::read(dir.path(), name).unwrap_err().to_string().contains("quarantine"), "{name}");
    }
    assert_eq!(quarantine::list(&dir.path().join("no-such")).unwrap(), []);
}

#[test]
fn many_appenders_share_syncs_and_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(SpoolOptions::new(dir.path(), LANES)).unwrap().0;
    let (sender, receiver) = mpsc::channel();
    for n in 0..2000_u32 {
        let sender = sender.clone();
        let done = move |result: Result<EntryId, AppendError>| sender.send((n, result.unwrap())).unwrap();
        block_on(spool.append(0, 0, Bytes::copy_from_slice(&n.to_le_bytes()), done)).unwrap();
    }
    let answers: Vec<_> = receiver.iter().take(2000).collect();
    assert!(answers.windows(2).all(|pair| pair[0] < pair[1] && pair[0].1 < pair[1].1));
    let counters = spool.status().counters;
    assert!(counters.appended == 2000 && counters.fsyncs < 2000, "{counters:?}");
    let wanted: Vec<_> = (0..2000_u32).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(bodies(&spool, 0), wanted);
}

#[test]
fn closing_answers_what_is_queued_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let other = spool.clone();
    let (sender, receiver) = mpsc::channel();
    for n in 0..50_u8 {
        let sender = sender.clone();
        block_on(spool.append(0, 0, vec![n].into(), move |result| sender.send(result).unwrap())).unwrap();
    }
    spool.close();
    assert_eq!(receiver.try_iter().flatten().count(), 50);
    let refused = block_on(other.append(0, 0, Bytes::new(), |_| panic!("never called")));
    assert_eq!(refused, Err(AppendError::Closed));
    // The directory is free although a handle is left.
    assert_eq!(bodies(&open(dir.path()), 0).len(), 50);
}

/// The last handle may go anywhere, on the spool's own thread too; and an answer's panic harms nobody.
#[test]
fn answers_may_drop_the_spool_and_may_panic() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    block_on(spool.append(0, 0, Bytes::new(), |_| panic!("on purpose"))).unwrap();
    append(&spool, 0, 0, b"goes on");
    let (sender, receiver) = mpsc::channel();
    let handle = spool.clone();
    let done = move |result: Result<EntryId, AppendError>| {
        drop(handle);
        sender.send(result).unwrap();
    };
    block_on(spool.append(0, 0, Bytes::new(), done)).unwrap();
    drop(spool);
    receiver.recv().unwrap().unwrap();
}
