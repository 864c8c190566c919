//! Retention: what is kept how long, what is too old, and dropping it. ADR 12 has the reasons.
//!
//! # Promise
//! A partition is dropped only when both its end and its last write are older than the retention; one of a derived table
//! when nothing that it could be derived from is left in its time. Whoever writes to a partition notes it before, at least
//! every half an hour (`store::partitions`); whoever drops one first marks it in a transaction that sees no
//! such note, and from then on no write to it begins. Nobody waits for a lock meanwhile: it is detached concurrently, and
//! dropped when nobody sees it any more.
//!
//! Any number of processes may do this at a time. Each step is a transaction that finds out what is left to do.

mod collect;
mod configure;
mod detach;
mod drop;
mod look;
mod old;
mod report;
mod templates;

pub(in crate::store) use collect::note_collected;
pub use collect::{CollectionOutcome, CollectionRun};
pub use configure::RetentionChange;
pub use drop::{LeftPartition, RetentionOutcome, RetentionRun};
pub use report::{
    CollectedRows, CollectionState, DetachedTable, DroppedPartition, RetainedPartition, RetentionState, TableRetention,
};

use jiff::Timestamp;

use super::copy::Micros;

/// The time of a row, none for infinity.
pub(in crate::store) fn timestamp(time: Option<Micros>) -> Option<Timestamp> {
    let Micros(micros) = time.filter(|Micros(micros)| *micros != i64::MAX && *micros != i64::MIN)?;
    Timestamp::from_microsecond(micros.checked_add(super::copy::POSTGRES_EPOCH_MICROS)?).ok()
}
