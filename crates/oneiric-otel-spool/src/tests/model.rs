//! Random histories on a faulty disk, against a model of what must be there. `PROPTEST_CASES` makes the run longer.

use super::faulty::{Fault, FaultyDisk};
use super::{Answer, LANES, Stepped, options, taken};
use crate::disk::Disk;
use crate::{AppendError, EntryId, Lane, Position, ReadError, Tuning};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DIR: &str = "/spool";
const MAX_BYTES: u64 = 64 << 10;
const LONG: Duration = Duration::from_hours(1);

#[derive(Clone, Debug)]
enum Step {
    /// Entries of these lanes and lengths, queued together.
    Append(Vec<(Lane, usize)>),
    Release(usize),
    SetAside(usize),
    /// One bit of a record, at this part of it in thousandths.
    Flip(usize, usize),
    Fault(Fault),
    DiskNearlyFull(usize),
    DiskHasSpace,
    ReadAll,
    Close,
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 8_usize..400, 3 => 400_usize..4000, 1 => 4000_usize..12_000];
    let fault = prop_oneof![
        (0_usize..6000).prop_map(Fault::ShortWrite),
        Just(Fault::Sync),
        Just(Fault::Sync),
        Just(Fault::Truncate),
        Just(Fault::Create),
        Just(Fault::Remove),
        Just(Fault::SyncDir),
        Just(Fault::Read),
    ];
    prop_oneof![
        10 => prop::collection::vec((0..LANES.len(), length), 1..6).prop_map(Step::Append),
        8 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::SetAside),
        1 => (any::<usize>(), 0_usize..1000).prop_map(|(entry, at)| Step::Flip(entry, at)),
        4 => fault.prop_map(Step::Fault),
        1 => (0_usize..3000).prop_map(Step::DiskNearlyFull),
        1 => Just(Step::DiskHasSpace),
        3 => Just(Step::ReadAll),
        1 => Just(Step::Close),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Acknowledged and not released: it must be there.
    Kept,
    /// Damaged on disk by the test: it must be in quarantine once it was looked for, and never be returned.
    Damaged,
    /// Released or never acknowledged, and gone; opening again may bring it back.
    MayReturn,
    /// It did. The next opening may be without it.
    Returned,
}

#[derive(Debug)]
struct Known {
    lane: Lane,
    body: Vec<u8>,
    fate: Fate,
    /// Its name in the spool that is open.
    id: Option<EntryId>,
    must_be_in_quarantine: bool,
}

impl Known {
    fn is_there(&self) -> bool {
        matches!(self.fate, Fate::Kept | Fate::Returned)
    }
}

struct Run {
    faulty: FaultyDisk,
    disk: Arc<dyn Disk>,
    tuning: Tuning,
    stepped: Option<Stepped>,
    /// All that was ever queued, in order.
    known: Vec<Known>,
}

impl Run {
    fn new(idle: Duration) -> Self {
        let faulty = FaultyDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let tuning = Tuning { segment_bytes: 0, idle, care: LONG };
        let mut run = Self { faulty, disk, tuning, stepped: None, known: Vec::new() };
        run.open();
        run
    }

    fn stepped(&mut self) -> &mut Stepped {
        self.stepped.as_mut().unwrap()
    }

    /// Faults may hit the opening too; it is tried until they are used up, as an operator would.
    fn open(&mut self) {
        let opened = (0..20).find_map(|_| Stepped::open_tuned(&self.disk, options(DIR, MAX_BYTES), self.tuning).ok());
        let opened = opened.or_else(|| {
            self.faulty.heal();
            Stepped::open_tuned(&self.disk, options(DIR, MAX_BYTES), self.tuning).ok()
        });
        self.stepped = Some(opened.expect("a healthy disk can be opened").0);
        self.known.iter_mut().for_each(|known| known.id = None);
        self.read_all(true);
    }

    fn append(&mut self, entries: &[(Lane, usize)]) {
        let mut answers: Vec<(usize, Answer)> = Vec::new();
        for &(lane, length) in entries {
            let number = self.known.len();
            let body: Vec<u8> = (number as u64).to_le_bytes().iter().copied().cycle().take(length).collect();
            let body: Vec<u8> = body.iter().enumerate().map(|(at, byte)| byte.wrapping_add((at / 8) as u8)).collect();
            if let Ok(answer) = self.stepped().queue(lane, number as u16, &body) {
                answers.push((number, answer));
                let fate = Fate::MayReturn;
                self.known.push(Known { lane, body, fate, id: None, must_be_in_quarantine: false });
            }
        }
        self.stepped().committer.step();
        for (number, answer) in answers {
            match taken(&answer) {
                Ok(id) => {
                    self.known[number].fate = Fate::Kept;
                    self.known[number].id = Some(id);
                }
                Err(error) => assert!(matches!(error, AppendError::Io { .. }), "{error}"),
            }
        }
    }

    /// One of the entries that are there.
    fn pick(&self, which: usize) -> Option<usize> {
        let there: Vec<usize> = (0..self.known.len()).filter(|at| self.known[*at].is_there()).collect();
        (!there.is_empty()).then(|| there[which % there.len()])
    }

    fn release(&mut self, number: usize) {
        let id = self.known[number].id.unwrap();
        self.known[number].fate = Fate::MayReturn;
        self.stepped().spool.release(id);
        self.stepped().committer.step();
    }

    fn set_aside(&mut self, number: usize) {
        let id = self.known[number].id.unwrap();
        // On a disk that cannot read, the caller gives bytes up.
        let readable = !self.faulty.will_fail(Fault::Read);
        if self.stepped().spool.set_aside(id, "on purpose").is_ok() {
            self.known[number].fate = Fate::MayReturn;
            self.known[number].must_be_in_quarantine = readable;
        }
    }

    fn flip(&mut self, number: usize, thousandth: usize) {
        let known = &mut self.known[number];
        let id = known.id.unwrap();
        let at = id.offset as usize + (40 + known.body.len()) * thousandth / 1000;
        // What was never acknowledged may also vanish.
        known.must_be_in_quarantine = known.fate == Fate::Kept;
        known.fate = Fate::Damaged;
        self.faulty.flip(&segment_path(id), at);
    }

    /// Everything that must be there is, once, in order, with its bytes; after opening, more may have returned.
    fn read_all(&mut self, opened: bool) {
        for lane in 0..LANES.len() {
            let mut expected =
                (0..self.known.len()).filter(|at| self.known[*at].lane == lane).collect::<Vec<_>>().into_iter();
            let mut from = Position::default();
            while let Some(id) = self.stepped().spool.next(lane, from) {
                from = id.after();
                let Some((tag, body)) = self.read(id) else { continue };
                let found = loop {
                    let number = expected.next().unwrap_or_else(|| panic!("{id} is not known, or not in order"));
                    if self.known[number].body == body {
                        break number;
                    }
                    self.missing(number, opened);
                };
                let known = &mut self.known[found];
                assert_eq!(tag, found as u16);
                assert_ne!(known.fate, Fate::Damaged);
                assert!(opened || known.is_there(), "{id} returned while the spool was open");
                if known.fate == Fate::MayReturn {
                    known.fate = Fate::Returned;
                }
                known.id = Some(id);
            }
            expected.for_each(|number| self.missing(number, opened));
        }
        self.check_quarantine();
    }

    /// None when it is damaged.
    fn read(&mut self, id: EntryId) -> Option<(u16, Vec<u8>)> {
        for _ in 0..20 {
            match self.stepped().spool.read(id) {
                Ok(entry) => return Some((entry.tag, entry.body.to_vec())),
                Err(ReadError::Damaged { .. }) => return None,
                Err(ReadError::Spool(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // The quarantine needs space.
        self.faulty.heal();
        self.read(id)
    }

    fn missing(&mut self, number: usize, opened: bool) {
        let known = &mut self.known[number];
        if opened && known.fate == Fate::Returned {
            known.fate = Fate::MayReturn;
        }
        assert!(!known.is_there(), "entry {number} of lane {} is lost", known.lane);
    }

    fn check_quarantine(&mut self) {
        let kept = self.faulty.files(&Path::new(DIR).join("quarantine"), ".bin");
        for known in self.known.iter().filter(|known| known.must_be_in_quarantine) {
            let there = kept.iter().any(|(_, bytes)| contains_almost(bytes, &known.body));
            assert!(there, "{:?} {:?} is not in quarantine", known.id, known.fate);
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append(entries) => self.append(&entries),
            Step::Release(which) => self.pick(which).into_iter().for_each(|number| self.release(number)),
            Step::SetAside(which) => self.pick(which).into_iter().for_each(|number| self.set_aside(number)),
            Step::Flip(which, at) => self.pick(which).into_iter().for_each(|number| self.flip(number, at)),
            Step::Fault(fault) => self.faulty.inject(fault),
            Step::DiskNearlyFull(free) => self.faulty.leave_free(free),
            Step::DiskHasSpace => self.faulty.heal(),
            Step::ReadAll => self.read_all(false),
            Step::Close => {
                self.stepped.take().unwrap().close();
                self.open();
            }
            Step::Crash(seed) => {
                // The disk first: what the process does while it ends must not count.
                self.faulty.crash(seed);
                let Stepped { spool, committer } = self.stepped.take().unwrap();
                drop((spool, committer));
                self.open();
            }
        }
        assert!(self.faulty.most_segment_bytes() as u64 <= MAX_BYTES);
    }

    /// On a healthy disk it all works again without hands, and nothing is left when all is released.
    fn end(&mut self) {
        self.faulty.heal();
        self.read_all(false);
        for number in 0..self.known.len() {
            if self.known[number].is_there() {
                self.release(number);
            }
        }
        for lane in 0..LANES.len() {
            let first = self
                .stepped()
                .append(lane, 0, b"room again")
                .or_else(|_| self.stepped().append(lane, 0, b"room again"));
            let id = first.unwrap_or_else(|error| panic!("lane {lane}: {error}"));
            self.stepped().spool.release(id);
        }
        self.stepped.take().unwrap().close();
        for lane in LANES {
            assert_eq!(self.faulty.files(&Path::new(DIR).join(lane), ".seg"), []);
        }
    }
}

fn segment_path(id: EntryId) -> PathBuf {
    Path::new(DIR).join(LANES[id.lane()]).join(crate::format::segment_name(id.segment))
}

/// Whether the body is somewhere in the bytes, but for one bit.
fn contains_almost(bytes: &[u8], body: &[u8]) -> bool {
    let differing = |window: &[u8]| window.iter().zip(body).filter(|(a, b)| a != b).take(2).count();
    bytes.windows(body.len()).step_by(8).any(|window| differing(window) <= 1)
}

proptest! {
    #[test]
    fn what_is_acknowledged_is_kept(idle in any::<bool>(), steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new(if idle { Duration::ZERO } else { LONG });
        for step in steps {
            run.run(step);
        }
        run.end();
    }
}
