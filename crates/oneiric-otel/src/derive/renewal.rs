//! New texts for traces whose texts an earlier version of the rules has written.
//!
//! In two steps, some traces at a time and those with the newest texts first: their new texts are written and wait for their
//! vectors beside the old ones; when these are there, the traces are made due, and derivation links them to texts that have
//! vectors. So a trace is found by its old text until its new one is found as well.

use std::sync::PoisonError;

use uuid::Uuid;

use super::batch::write_texts_of;
use super::{Deriver, text};
use crate::store::StoreError;
use crate::store::outdated::Outdated;
use crate::store::traces::Seen;

/// Traces that get new texts at a time.
const RENEWED_TRACES: i64 = 1000;

impl Deriver {
    /// Goes on with the renewal of texts that another version of the rules has written: makes due the traces whose new
    /// texts the last call has written, and writes the texts of the next ones. Does nothing while texts wait for vectors. Returns
    /// how many traces it had to do with.
    ///
    /// # Errors
    /// When the database does not answer. The next call goes on.
    pub async fn renew_texts(&self) -> Result<u64, StoreError> {
        if self.database.texts_wait().await? {
            return Ok(0);
        }
        let ready = std::mem::take(&mut *self.renewed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut traces = if ready.is_empty() { 0 } else { self.database.touch_again(&ready).await? };
        let next = self.database.outdated_traces(text::TEXT_VERSION, RENEWED_TRACES).await?;
        for part in parts(&next, self.options.batch_records) {
            let ranges: Vec<(Uuid, Seen)> = part.iter().map(|trace| (trace.trace_id, trace.seen)).collect();
            if write_texts_of(self, ranges).await? > 0 {
                self.texts_written.notify(true);
            }
        }
        traces += next.len() as u64;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(traces)
    }

    /// Whether traces wait for the vectors of their new texts.
    pub(super) fn is_renewing(&self) -> bool {
        !self.renewed.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Traces of which not too many records are in memory at a time.
fn parts(mut traces: &[Outdated], records: i64) -> Vec<&[Outdated]> {
    let mut parts = Vec::new();
    while !traces.is_empty() {
        let mut sum = 0;
        let fit = traces.iter().take_while(|trace| {
            sum += trace.records;
            sum <= records
        });
        let (part, rest) = traces.split_at(fit.count().max(1));
        parts.push(part);
        traces = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Micros;

    #[test]
    fn parts_end_at_their_records_and_are_never_empty() {
        let seen = Seen { from: Micros(0), to: Micros(0) };
        let trace = |records| Outdated { trace_id: Uuid::nil(), seen, has_root: true, records };
        let lengths = |records: &[i64]| -> Vec<usize> {
            let traces: Vec<Outdated> = records.iter().map(|records| trace(*records)).collect();
            parts(&traces, 10).iter().map(|part| part.len()).collect()
        };
        assert_eq!(lengths(&[5, 5, 1, 50, 50, 2]), [2, 1, 1, 1, 1]);
        assert!(lengths(&[]).is_empty());
    }
}
