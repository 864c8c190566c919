//! Tests of the whole spool.

mod real;

use crate::{Lane, Position, ReadError, Spool, SpoolOptions};
use std::path::Path;

const LANES: [&str; 3] = ["traces", "metrics", "logs"];

fn options(dir: impl AsRef<Path>, max_bytes: u64) -> SpoolOptions {
    SpoolOptions { max_bytes, ..SpoolOptions::new(dir.as_ref(), LANES) }
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
