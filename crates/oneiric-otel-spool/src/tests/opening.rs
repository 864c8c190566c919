//! What is refused at open, in which words, and that nothing is changed then.

use super::faulty::FaultyDisk;
use super::{LANES, Stepped, options};
use crate::disk::{Disk, write_file};
use crate::{Spool, SpoolOptions};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

fn refusal(options: SpoolOptions) -> String {
    Spool::open(options).map(|_| ()).unwrap_err().to_string()
}

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        }
        files.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
    }
    files.sort();
    files
}

#[test]
fn a_newer_format_is_named_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("format"), "oneiric-otel-spool 7\n").unwrap();
    let before = tree(dir.path());
    let text = refusal(options(dir.path(), 1 << 20));
    assert!(text.contains("format 7") && text.contains("up to 1") && text.contains("--data-dir"), "{text}");
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_segment_of_a_newer_format_is_named_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    Spool::open(options(dir.path(), 1 << 20)).unwrap().0.close();
    let header = crate::format::SegmentHeader { version: 9, ..crate::format::SegmentHeader::new(1, 2, "logs") };
    let path = dir.path().join("logs/0000000000000001.seg");
    fs::write(&path, [&header.encode()[..], &[1; 100]].concat()).unwrap();
    let before = tree(dir.path());
    let text = refusal(options(dir.path(), 1 << 20));
    assert!(text.contains("0000000000000001.seg") && text.contains("format 9"), "{text}");
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_format_file_of_something_else_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    for content in ["", "oneiric-otel-spool", "oneiric-otel-spool 0", "16\n", "\u{1b}[31m"] {
        fs::write(dir.path().join("format"), content).unwrap();
        let before = tree(dir.path());
        let text = refusal(options(dir.path(), 1 << 20));
        assert!(text.contains("format") && text.contains("restore it") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(tree(dir.path()), before);
    }
}

#[test]
fn a_spool_in_use_names_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(options(dir.path(), 1 << 20)).unwrap();
    let text = refusal(options(dir.path(), 1 << 20));
    let process = format!("process {}", std::process::id());
    assert!(text.contains(&process) && text.contains("another --data-dir"), "{text}");
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    spool.close();
    assert!(Spool::open(options(dir.path(), 1 << 20)).is_ok());
}

#[test]
fn a_file_in_its_place_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    fs::write(&path, "mine").unwrap();
    for place in [path.clone(), path.join("below")] {
        let text = refusal(options(&place, 1 << 20));
        assert!(text.contains("is not a directory"), "{text}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn another_users_directory_is_refused_with_both_users() {
    let disk = FaultyDisk::default();
    disk.create_dir(Path::new("/spool")).unwrap();
    disk.give_to(1234);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let text = Stepped::open(&disk, options("/spool", 1 << 20)).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("user id 1234") && text.contains("user id 0") && text.contains("/spool"), "{text}");
    assert!(disk.list(Path::new("/spool")).unwrap().is_empty());
}

/// A disk that refuses, under a new spool and under one with an entry in it.
#[test]
fn a_disk_that_cannot_be_written_is_named_and_what_is_there_stays() {
    let cases = [
        (ErrorKind::ReadOnlyFilesystem, "read-only"),
        (ErrorKind::StorageFull, "no space is left"),
        (ErrorKind::QuotaExceeded, "no space is left"),
        (ErrorKind::PermissionDenied, "no permission"),
    ];
    for ((kind, words), used) in cases.into_iter().flat_map(|case| [(case, false), (case, true)]) {
        let faulty = FaultyDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        if used {
            let (mut spool, _) = Stepped::open(&disk, options("/spool", 1 << 20)).unwrap();
            spool.append(0, 0, b"kept").unwrap();
            spool.close();
        }
        let before = faulty.snapshot();
        faulty.refuse_writes(kind);
        let text = Stepped::open(&disk, options("/spool", 1 << 20)).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains("/spool") && text.contains("--data-dir"), "{text}");
        assert_eq!(faulty.snapshot(), before);
        faulty.heal();
        let (spool, _) = Stepped::open(&disk, options("/spool", 1 << 20)).unwrap();
        assert_eq!(spool.bodies(0).len(), usize::from(used));
    }
}

/// Even where a little space is left, an open spool can take something.
#[test]
fn a_nearly_full_disk_is_noticed_at_open() {
    let faulty = FaultyDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    faulty.leave_free(100);
    let text = Stepped::open(&disk, options("/spool", 1 << 20)).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("no space is left"), "{text}");
}

#[test]
fn what_a_crash_left_of_the_spools_own_files_is_tidied() {
    let faulty = FaultyDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    Stepped::open(&disk, options("/spool", 1 << 20)).unwrap().0.close();
    for name in ["/spool/quarantine/a.bin.tmp", "/spool/format.tmp", "/spool/probe", "/spool/mine.tmp"] {
        write_file(&*disk, Path::new(name), b"left over").unwrap();
    }
    Stepped::open(&disk, options("/spool", 1 << 20)).unwrap().0.close();
    let names: Vec<_> = faulty.snapshot().into_iter().map(|(path, _)| path.display().to_string()).collect();
    assert_eq!(names, ["/spool/format", "/spool/lock", "/spool/mine.tmp"]);
}

#[test]
fn options_that_contradict_themselves_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lanes = |names: &[&str]| SpoolOptions::new(dir.path(), names.iter().copied());
    let small = SpoolOptions { max_bytes: 1000, ..lanes(&LANES) };
    for (options, word) in [
        (lanes(&[]), "at least one"),
        (lanes(&["a", "a"]), "distinct"),
        (lanes(&["../a"]), "letters"),
        (lanes(&["quarantine"]), "except"),
        (lanes(&[""]), "letters"),
        (small, "65536"),
    ] {
        let text = refusal(options);
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(tree(dir.path()), []);
}
