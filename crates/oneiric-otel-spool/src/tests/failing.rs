//! Bounds and failures, one at a time.

use super::faulty::{Fault, FaultyDisk};
use super::{LANES, Stepped, options, taken};
use crate::disk::Disk;
use crate::quarantine::{Content, Quarantined};
use crate::{AppendError, Position, ReadError, SpoolOptions, Tuning};
use bytes::Bytes;
use futures::FutureExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const DIR: &str = "/spool";
const MAX_BYTES: u64 = 1 << 20;

fn faulty() -> (FaultyDisk, Arc<dyn Disk>) {
    let faulty = FaultyDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    (faulty, disk)
}

fn open(disk: &Arc<dyn Disk>) -> Stepped {
    Stepped::open(disk, options(DIR, MAX_BYTES)).unwrap().0
}

/// One that never looks around by itself, and in which no lane becomes idle.
fn open_sluggish(disk: &Arc<dyn Disk>) -> Stepped {
    let long = Duration::from_hours(1);
    let tuning = Tuning { segment_bytes: 0, idle: long, care: long };
    Stepped::open_tuned(disk, options(DIR, MAX_BYTES), tuning).unwrap().0
}

fn segments(faulty: &FaultyDisk, lane: &str) -> Vec<usize> {
    faulty.files(&Path::new(DIR).join(lane), ".seg").iter().map(|(_, bytes)| bytes.len()).collect()
}

#[test]
fn a_full_disk_refuses_until_an_append_gets_through() {
    let (faulty, disk) = faulty();
    let mut spool = open_sluggish(&disk);
    spool.append(0, 0, b"before").unwrap();
    let before = SystemTime::now();
    faulty.leave_free(500);
    let error = spool.append(0, 0, &[1; 1000]).unwrap_err();
    assert!(matches!(&error, AppendError::Io { reason } if reason.contains("/spool/traces")), "{error}");
    let refusing = spool.spool.status().not_accepting.unwrap();
    assert!(refusing.since >= before && refusing.reason.contains("cannot write"), "{refusing:?}");
    // One tries, the others need not wait for it.
    let first = spool.queue(0, 0, &[2; 1000]).unwrap();
    assert!(matches!(spool.queue(1, 0, b"x"), Err(AppendError::NotAccepting { since, .. }) if since == refusing.since));
    spool.committer.step();
    assert!(matches!(taken(&first), Err(AppendError::Io { .. })));
    assert_eq!(spool.spool.status().not_accepting.unwrap().since, refusing.since);
    faulty.heal();
    spool.append(0, 0, b"after").unwrap();
    assert_eq!(spool.spool.status().not_accepting, None);
    assert_eq!(spool.bodies(0), [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!((spool.spool.status().counters.failed, spool.spool.status().counters.appended), (2, 2));
}

/// A load balancer that sees `not_accepting` sends nothing that could try.
#[test]
fn a_disk_that_works_again_is_noticed_without_appends() {
    let (faulty, disk) = faulty();
    let mut spool = open(&disk);
    faulty.leave_free(10);
    spool.append(0, 0, &[1; 1000]).unwrap_err();
    spool.committer.step();
    assert!(spool.spool.status().not_accepting.is_some());
    faulty.heal();
    spool.committer.step();
    assert_eq!(spool.spool.status().not_accepting, None);
}

#[test]
fn after_a_failed_sync_the_file_is_cut_back_and_never_used_again() {
    let (faulty, disk) = faulty();
    let mut spool = open_sluggish(&disk);
    let first = spool.append(0, 0, b"first").unwrap();
    let lengths = segments(&faulty, "traces");
    faulty.inject(Fault::Sync);
    spool.append(0, 0, b"lost").unwrap_err();
    assert_eq!(segments(&faulty, "traces"), lengths);
    let third = spool.append(0, 0, b"third").unwrap();
    assert!(third.segment > first.segment);
    assert_eq!(spool.bodies(0), [b"first".to_vec(), b"third".to_vec()]);
    faulty.crash(1);
    drop(spool);
    assert_eq!(open(&disk).bodies(0), [b"first".to_vec(), b"third".to_vec()]);
}

#[test]
fn bytes_that_cannot_be_cut_back_are_not_shown_but_count() {
    let (faulty, disk) = faulty();
    let mut spool = open_sluggish(&disk);
    spool.append(0, 0, b"first").unwrap();
    faulty.inject(Fault::Sync);
    faulty.inject(Fault::Truncate);
    spool.append(0, 0, &[1; 2000]).unwrap_err();
    assert_eq!(spool.bodies(0), [b"first"]);
    let on_disk: usize = segments(&faulty, "traces").iter().sum();
    assert_eq!(spool.spool.status().bytes, on_disk as u64);
}

#[test]
fn a_file_that_cannot_be_removed_is_tried_again() {
    let (faulty, disk) = faulty();
    let mut spool = open(&disk);
    let id = spool.append(0, 0, b"x").unwrap();
    faulty.inject(Fault::Remove);
    spool.spool.release(id);
    spool.committer.step();
    assert_eq!(segments(&faulty, "traces").len(), 1);
    spool.committer.step();
    assert_eq!(segments(&faulty, "traces").len(), 0);
    assert_eq!(spool.spool.status().bytes, 0);
}

#[test]
fn a_flooded_lane_leaves_the_others_their_share() {
    let (faulty, disk) = faulty();
    let mut spool = open(&disk);
    let fill = |spool: &mut Stepped, lane| {
        let mut taken = 0;
        loop {
            match spool.append(lane, 0, &[7; 1000]) {
                Ok(_) => taken += 1000,
                Err(AppendError::Full { max_bytes: MAX_BYTES, .. }) => break taken,
                Err(error) => panic!("{error}"),
            }
        }
    };
    // Three fourths and the share of their own; a twentieth for headers and padding.
    let most = MAX_BYTES / 8 * 6;
    let flood = fill(&mut spool, 0);
    assert!(flood <= most && flood > most / 20 * 18, "{flood}");
    for lane in [1, 2] {
        let share = fill(&mut spool, lane);
        assert!(share <= MAX_BYTES / 8 && share > MAX_BYTES / 8 / 20 * 17, "{share}");
    }
    let on_disk: usize = LANES.iter().flat_map(|lane| segments(&faulty, lane)).sum();
    assert!(on_disk as u64 <= MAX_BYTES && faulty.most_segment_bytes() as u64 <= MAX_BYTES);
    assert!(spool.spool.status().counters.refused_full >= 3);
    // Room comes back by release, segment by segment.
    let mut from = Position::default();
    while let Some(id) = spool.spool.next(0, from) {
        spool.spool.release(id);
        from = id.after();
    }
    spool.committer.step();
    assert!(fill(&mut spool, 1) > MAX_BYTES / 2);
}

/// Every entry may need a segment of its own, with its header; that is known before it is written.
#[test]
fn the_bound_holds_to_the_byte() {
    let (faulty, disk) = faulty();
    let options = SpoolOptions { max_bytes: MAX_BYTES, segment_bytes: 1 << 16, ..SpoolOptions::new(DIR, ["only"]) };
    let mut spool = Stepped::open(&disk, options).unwrap().0;
    let body = vec![7; (1 << 16) - 40];
    let queued = std::iter::from_fn(|| spool.queue(0, 0, &body).ok()).collect::<Vec<_>>();
    spool.committer.step();
    assert_eq!(queued.into_iter().filter(|answer| taken(answer).is_ok()).count(), 15);
    assert_eq!(segments(&faulty, "only"), [64 + (1 << 16); 15]);
    assert!(faulty.most_segment_bytes() as u64 <= MAX_BYTES);
}

/// What is full of released entries is not full: a refusal makes the committer look.
#[test]
fn a_refusal_frees_the_segment_that_is_being_written() {
    let (_, disk) = faulty();
    let mut spool = open_sluggish(&disk);
    let mut ids = Vec::new();
    while let Ok(id) = spool.append(0, 0, &vec![7; 30_000]) {
        ids.push(id);
    }
    for id in ids {
        spool.spool.release(id);
    }
    assert!(matches!(spool.queue(0, 0, &vec![7; 700_000]), Err(AppendError::Full { .. })));
    spool.committer.step();
    spool.append(0, 0, &vec![7; 700_000]).unwrap();
}

#[test]
fn segments_keep_their_length_except_for_a_longer_entry() {
    let (faulty, disk) = faulty();
    let segment_bytes = 10_000;
    let options = SpoolOptions { segment_bytes, ..options(DIR, MAX_BYTES) };
    let mut spool = Stepped::open(&disk, options).unwrap().0;
    for length in [4000, 4000, 4000, 50_000, 10, 9000] {
        spool.append(0, 0, &vec![1; length]).unwrap();
    }
    assert_eq!(segments(&faulty, "traces"), [64 + 2 * 4096, 64 + 4096, 64 + 50_048, 64 + 64 + 9088]);
}

#[test]
fn an_idle_lane_leaves_no_file() {
    let (faulty, disk) = faulty();
    let mut busy = open_sluggish(&disk);
    let id = busy.append(0, 0, b"x").unwrap();
    busy.spool.release(id);
    busy.committer.step();
    assert_eq!(segments(&faulty, "traces").len(), 1);
    busy.close();
    assert_eq!(segments(&faulty, "traces").len(), 0);
    let mut idle = open(&disk);
    let id = idle.append(0, 0, b"x").unwrap();
    idle.committer.step();
    assert_eq!(segments(&faulty, "traces").len(), 1);
    idle.spool.release(id);
    idle.committer.step();
    assert_eq!(segments(&faulty, "traces").len(), 0);
    // Positions stay good: what comes next is after them.
    let next = idle.append(0, 0, b"y").unwrap();
    assert_eq!(idle.spool.next(0, id.after()), Some(next));
}

#[test]
fn what_can_never_fit_is_told_apart_from_full() {
    let (_, disk) = faulty();
    let mut spool = open(&disk);
    let Err(AppendError::TooLarge { limit, .. }) = spool.append(0, 0, &vec![0; MAX_BYTES as usize]) else { panic!() };
    assert!(matches!(spool.queue(0, 0, &vec![0; limit as usize + 1]), Err(AppendError::TooLarge { .. })));
    spool.append(0, 0, &vec![0; limit as usize]).unwrap();
    assert_eq!(spool.append(3, 0, b"").unwrap_err(), AppendError::NoLane { lane: 3 });
    assert_eq!(spool.spool.next(3, Position::default()), None);
}

#[test]
fn appends_wait_while_too_much_is_queued() {
    let (_, disk) = faulty();
    let options = SpoolOptions::new(DIR, LANES);
    let mut spool = Stepped::open(&disk, options).unwrap().0;
    let body = Bytes::from(vec![0; 16 << 20]);
    let handle = spool.spool.clone();
    let append = || handle.append(0, 0, body.clone(), |result| assert!(result.is_ok())).boxed();
    for _ in 0..4 {
        assert_eq!(append().now_or_never(), Some(Ok(())));
    }
    let mut waiting = append();
    assert_eq!((&mut waiting).now_or_never(), None);
    spool.committer.step();
    assert_eq!(waiting.now_or_never(), Some(Ok(())));
    let waiting = append();
    spool.close();
    assert_eq!(waiting.now_or_never(), Some(Err(AppendError::Closed)));
}

#[test]
fn a_read_error_leaves_the_entry_and_set_aside_saves_what_it_can() {
    let (faulty, disk) = faulty();
    let mut spool = open(&disk);
    let body: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
    let id = spool.append(0, 5, &body).unwrap();
    faulty.inject(Fault::Read);
    let error = spool.spool.read(id).unwrap_err();
    assert!(matches!(&error, ReadError::Spool(_)) && error.to_string().contains("/spool/traces"), "{error}");
    assert_eq!(spool.spool.read(id).unwrap().body, body);
    // The header, then the whole, then one block.
    for _ in 0..3 {
        faulty.inject(Fault::Read);
    }
    spool.spool.set_aside(id, "the disk fails").unwrap();
    assert_eq!(spool.spool.next(0, Position::default()), None);
    let (_, json) = faulty.files(Path::new("/spool/quarantine"), ".json").remove(0);
    let about: Quarantined = serde_json::from_slice(&json).unwrap();
    assert_eq!((about.reason.as_str(), about.content, about.tag), ("the disk fails", Content::Raw, None));
    let (_, bytes) = faulty.files(Path::new("/spool/quarantine"), ".bin").remove(0);
    assert_eq!(bytes[..4096], [0; 4096]);
    assert_eq!(bytes[4096..40 + body.len()], body[4096 - 40..]);
}

/// The disk fails while the spool is opened, and later does not: nothing is lost in between.
#[test]
fn a_segment_that_cannot_be_read_at_open_is_kept() {
    let (faulty, disk) = faulty();
    let mut spool = open(&disk);
    spool.append(0, 0, b"first").unwrap();
    spool.append(0, 0, &vec![1; 10_000]).unwrap();
    spool.append(0, 0, b"last").unwrap();
    spool.close();
    let path = Path::new(DIR).join("traces/0000000000000001.seg");
    for (offset, readable) in [(130, 2), (0, 0)] {
        faulty.break_byte(&path, offset);
        let (mut spool, recovered) = Stepped::open(&disk, options(DIR, MAX_BYTES)).unwrap();
        assert_eq!(recovered.damaged.len(), 1);
        assert!(recovered.damaged[0].reason.ends_with("parts cannot be read"), "{recovered:?}");
        assert_eq!(spool.bodies(0).len(), readable);
        while let Some(id) = spool.spool.next(0, Position::default()) {
            spool.spool.release(id);
        }
        spool.committer.step();
        spool.close();
        faulty.heal();
        let (spool, recovered) = Stepped::open(&disk, options(DIR, MAX_BYTES)).unwrap();
        assert_eq!((spool.bodies(0).len(), recovered.damaged.len()), (3, 0));
        drop(spool);
    }
}

#[test]
fn an_entry_that_cannot_be_set_aside_stays() {
    let (faulty, disk) = faulty();
    let mut spool = open(&disk);
    let id = spool.append(0, 0, b"not OTLP").unwrap();
    faulty.leave_free(0);
    assert!(spool.spool.set_aside(id, "cannot be decoded").unwrap_err().to_string().contains("no space is left"));
    assert_eq!(spool.bodies(0), [b"not OTLP"]);
    faulty.heal();
    spool.spool.set_aside(id, "cannot be decoded").unwrap();
    assert_eq!(spool.bodies(0).len(), 0);
}

#[test]
fn the_quarantine_takes_room_until_it_is_purged() {
    let (_, disk) = faulty();
    let mut spool = open(&disk);
    let id = spool.append(0, 0, &vec![1; 500_000]).unwrap();
    spool.spool.set_aside(id, "on purpose").unwrap();
    spool.committer.step();
    let Err(AppendError::Full { quarantine, .. }) = spool.queue(0, 0, &vec![1; 500_000]) else {
        panic!("must be full")
    };
    assert!(quarantine > 500_000 && spool.spool.status().quarantine_bytes == quarantine);
    for file in disk.list(Path::new("/spool/quarantine")).unwrap() {
        disk.remove(&Path::new("/spool/quarantine").join(file.name)).unwrap();
    }
    spool.committer.step();
    spool.append(0, 0, &vec![1; 500_000]).unwrap();
}

#[test]
fn age_is_that_of_the_first_entry_not_released() {
    let (_, disk) = faulty();
    let mut spool = open(&disk);
    let ids = [spool.append(1, 0, b"a").unwrap(), spool.append(1, 0, b"b").unwrap()];
    let received = ids.map(|id| spool.spool.read(id).unwrap().received_at);
    assert_eq!(spool.spool.status().lanes[1].oldest, Some(received[0]));
    spool.spool.release(ids[0]);
    let status = spool.spool.status();
    assert_eq!((status.lanes[1].oldest, status.lanes[1].entries), (Some(received[1]), 1));
    spool.spool.release(ids[1]);
    assert_eq!(spool.spool.status().lanes[1].oldest, None);
    assert_eq!(spool.spool.status().counters.released, 2);
}
