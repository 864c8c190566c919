//! Tests of the whole spool, on the real disk and on one with faults.

mod failing;
mod faulty;
mod model;
mod opening;
mod real;

use crate::commit::Committer;
use crate::disk::Disk;
use crate::{AppendError, EntryId, Lane, Position, ReadError, Recovered, Spool, SpoolError, SpoolOptions, Tuning};
use bytes::Bytes;
use futures::executor::block_on;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LANES: [&str; 3] = ["traces", "metrics", "logs"];

fn options(dir: impl AsRef<Path>, max_bytes: u64) -> SpoolOptions {
    SpoolOptions { max_bytes, ..SpoolOptions::new(dir.as_ref(), LANES) }
}

/// A spool whose committer steps when told to.
struct Stepped {
    spool: Spool,
    committer: Committer,
}

/// Where an append's answer arrives.
type Answer = Arc<Mutex<Option<Result<EntryId, AppendError>>>>;

impl Stepped {
    fn open(disk: &Arc<dyn Disk>, options: SpoolOptions) -> Result<(Self, Recovered), SpoolError> {
        let tuning = Tuning { segment_bytes: 0, idle: Duration::ZERO, care: Duration::ZERO };
        Self::open_tuned(disk, options, tuning)
    }

    fn open_tuned(
        disk: &Arc<dyn Disk>,
        options: SpoolOptions,
        tuning: Tuning,
    ) -> Result<(Self, Recovered), SpoolError> {
        let (spool, recovered, committer) = Spool::open_on(Arc::clone(disk), options, tuning)?;
        Ok((Self { spool, committer }, recovered))
    }

    fn queue(&self, lane: Lane, tag: u16, body: &[u8]) -> Result<Answer, AppendError> {
        let answer = Answer::default();
        let slot = Arc::clone(&answer);
        let done = move |result| *slot.lock().unwrap() = Some(result);
        block_on(self.spool.append(lane, tag, Bytes::copy_from_slice(body), done))?;
        Ok(answer)
    }

    fn append(&mut self, lane: Lane, tag: u16, body: &[u8]) -> Result<EntryId, AppendError> {
        let answer = self.queue(lane, tag, body)?;
        self.committer.step();
        taken(&answer)
    }

    fn close(mut self) {
        self.spool.shared.shut();
        self.committer.finish();
    }

    fn bodies(&self, lane: Lane) -> Vec<Vec<u8>> {
        bodies(&self.spool, lane)
    }
}

fn taken(answer: &Answer) -> Result<EntryId, AppendError> {
    answer.lock().unwrap().take().expect("every queued append is answered once")
}

/// All that can be read in a lane, in order, passing over what is damaged.
fn bodies(spool: &Spool, lane: Lane) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let mut from = Position::default();
    while let Some(id) = spool.next(lane, from) {
        match spool.read(id) {
            Ok(entry) => bodies.push(entry.body.to_vec()),
            Err(ReadError::Damaged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        from = id.after();
    }
    bodies
}
