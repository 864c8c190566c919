//! Spans of both sides on disk, put so that those of one trace come together: what does not fit into memory can be
//! compared.
//!
//! A span goes into one of some files, by its trace. A file that is too large for memory is spread over others by another
//! hash. So memory is bounded by a file's limit, or by one large trace. The files have no names: they go with the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result};
use oneiric_otel::compare::SpanFacts;
use serde::{Deserialize, Serialize};

/// Files at a time.
const FILES: usize = 32;
/// Bytes of a file that is looked at as a whole.
const WHOLE: u64 = 64 << 20;
/// A file that is larger after this many times holds one large trace, or few.
const DEEPEST: u32 = 4;

/// Whose span it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    Here,
    There,
}

/// Is given a trace: its id, its spans here and its spans there.
type Compare<'a> = dyn FnMut(&str, Vec<SpanFacts>, Vec<SpanFacts>) + 'a;

#[derive(Debug, Serialize, Deserialize)]
struct Line<S> {
    side: Side,
    /// The answer it came with. One trace can come with several, each time whole: the last one counts.
    answer: u64,
    span: S,
}

/// Spans on their way to be compared.
#[derive(Debug)]
pub(super) struct Spill {
    whole: u64,
    depth: u32,
    files: Vec<Option<Spread>>,
    /// The first and the last start of the other side.
    starts: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Spread {
    file: BufWriter<File>,
    bytes: u64,
}

impl Spill {
    pub(super) fn new() -> Self {
        Self::at(WHOLE, 0)
    }

    fn at(whole: u64, depth: u32) -> Self {
        Self { whole, depth, files: (0..FILES).map(|_| None).collect(), starts: None }
    }

    /// When the first and the last span of the other side began; none without any.
    pub(super) fn starts(&self) -> Option<(u64, u64)> {
        self.starts
    }

    pub(super) fn add(&mut self, side: Side, answer: u64, span: &SpanFacts) -> Result<()> {
        if side == Side::There {
            let start = span.start_unix_nanos;
            let (first, last) = self.starts.unwrap_or((start, start));
            self.starts = Some((first.min(start), last.max(start)));
        }
        let mut line = serde_json::to_vec(&Line { side, answer, span })?;
        line.push(b'\n');
        self.write(&span.trace_id, &line)
    }

    fn write(&mut self, trace_id: &str, line: &[u8]) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.depth.to_le_bytes()).update(trace_id.as_bytes());
        let number = usize::from(hasher.finalize().as_bytes()[0]) % FILES;
        let place = &mut self.files[number];
        let spread = if let Some(spread) = place {
            spread
        } else {
            let file = tempfile::tempfile().context(CANNOT_WRITE)?;
            place.insert(Spread { file: BufWriter::new(file), bytes: 0 })
        };
        spread.bytes += line.len() as u64;
        spread.file.write_all(line).context(CANNOT_WRITE)
    }

    /// Gives each trace to `compare`: its id, its spans here and its spans there.
    pub(super) fn finish(self, mut compare: impl FnMut(&str, Vec<SpanFacts>, Vec<SpanFacts>)) -> Result<()> {
        self.finish_with(&mut compare)
    }

    fn finish_with(self, compare: &mut Compare<'_>) -> Result<()> {
        for Spread { file, bytes } in self.files.into_iter().flatten() {
            let mut file = file.into_inner().map_err(std::io::IntoInnerError::into_error).context(CANNOT_WRITE)?;
            file.seek(SeekFrom::Start(0))?;
            let lines = BufReader::new(file).lines();
            if bytes <= self.whole || self.depth == DEEPEST {
                look(lines, compare)?;
                continue;
            }
            let mut deeper = Self::at(self.whole, self.depth + 1);
            for line in lines {
                let line = line.context(CANNOT_READ)? + "\n";
                let Line { span, .. } = serde_json::from_str::<Line<SpanFacts>>(&line)?;
                deeper.write(&span.trace_id, line.as_bytes())?;
            }
            deeper.finish_with(compare)?;
        }
        Ok(())
    }
}

const CANNOT_WRITE: &str = "cannot write a temporary file (TMPDIR names the directory)";
const CANNOT_READ: &str = "cannot read a temporary file again";

#[derive(Debug, Default)]
struct Met {
    here: Vec<SpanFacts>,
    there: Vec<SpanFacts>,
    /// The answer that those came with.
    answer: u64,
}

fn look(lines: impl Iterator<Item = std::io::Result<String>>, compare: &mut Compare<'_>) -> Result<()> {
    let mut traces: BTreeMap<String, Met> = BTreeMap::new();
    for line in lines {
        let Line { side, answer, span }: Line<SpanFacts> = serde_json::from_str(&line.context(CANNOT_READ)?)?;
        let met = traces.entry(span.trace_id.clone()).or_default();
        if side == Side::Here {
            met.here.push(span);
            continue;
        }
        if answer > met.answer {
            met.there.clear();
            met.answer = answer;
        }
        if answer == met.answer {
            met.there.push(span);
        }
    }
    for (trace_id, met) in traces {
        compare(&trace_id, met.here, met.there);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn span(trace: u64, span: u64) -> SpanFacts {
        let facts = [("name".to_owned(), "x\n\"y".to_owned())];
        SpanFacts {
            trace_id: format!("{trace:032x}"),
            span_id: format!("{span:016x}"),
            start_unix_nanos: 100 + span,
            facts: facts.into_iter().collect(),
        }
    }

    #[test]
    fn spans_of_a_trace_come_together_however_deep_they_lie() {
        for whole in [1, 5_000, WHOLE] {
            let mut spill = Spill::at(whole, 0);
            for number in 0..20 {
                for trace in 0..200 {
                    let side = if number % 2 == 0 { Side::Here } else { Side::There };
                    spill.add(side, 0, &span(trace, number)).expect("a file");
                }
            }
            assert_eq!(spill.starts(), Some((101, 119)), "of the other side");
            let mut seen = BTreeSet::new();
            let check = |trace: &str, here: Vec<SpanFacts>, there: Vec<SpanFacts>| {
                assert!(seen.insert(trace.to_owned()), "each trace once");
                let number = u64::from_str_radix(trace, 16).expect("a trace");
                let expected = |odd: u64| (0..10).map(|index| span(number, 2 * index + odd)).collect::<Vec<_>>();
                assert_eq!((here, there), (expected(0), expected(1)));
            };
            spill.finish(check).expect("it is read");
            assert_eq!(seen.len(), 200, "{whole}");
        }
    }

    #[test]
    fn of_a_trace_that_came_with_two_answers_the_last_counts() {
        let mut spill = Spill::at(WHOLE, 0);
        for (answer, number) in [(1, 1), (1, 2), (3, 1), (3, 2), (3, 3), (2, 9)] {
            spill.add(Side::There, answer, &span(7, number)).expect("a file");
        }
        let mut spans = Vec::new();
        spill.finish(|_, _, there| spans = there).expect("it is read");
        assert_eq!(spans, [span(7, 1), span(7, 2), span(7, 3)]);
    }
}
