//! What happens in the simulated shop: a list of requests as plain data, the same for the same seed.
//!
//! Times are relative, ids are not there yet: whoever sends the plan gives both. Faults are told in
//! the technical words that real systems use for them, never in the words of the demo's searches.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::logs::Severity;
use opentelemetry::trace::SpanKind;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use super::{agent, shop};

/// Requests of the plan.
pub const REQUESTS: usize = 320;
/// The requests lie in this time before now.
const PAST: Duration = Duration::from_mins(30);

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An answer came after its deadline.
    Timeout,
    /// Nobody listened where a connection was made to.
    RefusedConnection,
    /// What a customer entered was refused.
    BadInput,
    /// A language model turned a request away.
    RateLimit,
    /// A database took seconds.
    SlowDependency,
}

/// All faults and how many requests have each.
pub const FAULTS: [(Fault, usize); 5] = [
    (Fault::Timeout, 11),
    (Fault::RefusedConnection, 13),
    (Fault::BadInput, 10),
    (Fault::RateLimit, 9),
    (Fault::SlowDependency, 8),
];

/// A request and all that it causes.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// How long ago it began.
    pub ago: Duration,
    /// What is wrong with it.
    pub fault: Option<Fault>,
    /// Its first span.
    pub root: Step,
}

/// A span in the making.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Who does it.
    pub service: &'static str,
    /// The span's name.
    pub name: String,
    /// The span's kind.
    pub kind: SpanKind,
    /// From the parent's start.
    pub offset: Duration,
    /// How long it takes, its children included.
    pub duration: Duration,
    /// The span's attributes.
    pub attributes: Vec<KeyValue>,
    /// Why it fails, if it does.
    pub error: Option<Problem>,
    /// What is logged meanwhile.
    pub lines: Vec<Line>,
    /// What is done on the way.
    pub children: Vec<Step>,
}

/// Why a span failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Type of the error.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// Whether it was an exception there, and not merely handed on.
    pub thrown: bool,
}

/// A log record.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// From the start of its step.
    pub offset: Duration,
    /// How bad it is.
    pub severity: Severity,
    /// The body.
    pub text: String,
}

impl Step {
    /// A step that takes hardly any time.
    pub(super) fn new(service: &'static str, kind: SpanKind, name: impl Into<String>) -> Self {
        Self {
            service,
            name: name.into(),
            kind,
            offset: Duration::ZERO,
            duration: Duration::from_micros(80),
            attributes: Vec::new(),
            error: None,
            lines: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Adds an attribute.
    pub(super) fn with(mut self, key: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        self.attributes.push(KeyValue::new(key, value));
        self
    }

    /// Spends time.
    pub(super) fn working(mut self, time: Duration) -> Self {
        self.duration += time;
        self
    }

    /// Does `child`, after what has been done so far.
    pub(super) fn then(mut self, mut child: Step) -> Self {
        child.offset = self.duration;
        self.duration += child.duration + Duration::from_micros(60);
        self.children.push(child);
        self
    }

    /// Ends in an exception.
    pub(super) fn throwing(self, kind: &str, message: impl Into<String>) -> Self {
        self.ending(kind, message, true)
    }

    /// Ends in the error that something below it met.
    pub(super) fn failing(self, kind: &str, message: impl Into<String>) -> Self {
        self.ending(kind, message, false)
    }

    fn ending(mut self, kind: &str, message: impl Into<String>, thrown: bool) -> Self {
        self.attributes.push(KeyValue::new("error.type", kind.to_owned()));
        self.error = Some(Problem { kind: kind.to_owned(), message: message.into(), thrown });
        self
    }

    /// Writes a log line now.
    pub(super) fn logging(mut self, severity: Severity, text: impl Into<String>) -> Self {
        self.lines.push(Line { offset: self.duration, severity, text: text.into() });
        self
    }

    /// Spans of this step and below it.
    pub fn span_count(&self) -> usize {
        1 + self.children.iter().map(Step::span_count).sum::<usize>()
    }

    /// Log records of this step and below it.
    pub fn line_count(&self) -> usize {
        self.lines.len() + self.children.iter().map(Step::line_count).sum::<usize>()
    }
}

/// The plan, in order of time.
pub fn draw(seed: u64) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults: Vec<Option<Fault>> =
        FAULTS.iter().flat_map(|(fault, count)| std::iter::repeat_n(Some(*fault), *count)).collect();
    faults.resize(REQUESTS, None);
    // Fisher-Yates: faults come in no order.
    for index in (1..faults.len()).rev() {
        faults.swap(index, random.random_range(0..=index));
    }
    let between = PAST / REQUESTS as u32;
    faults
        .into_iter()
        .enumerate()
        .map(|(index, fault)| {
            let later = (REQUESTS - 1 - index) as u32;
            let ago = between * later + between.mul_f64(random.random_range(0.5..1.5)) + Duration::from_secs(20);
            Planned { ago, fault, root: request(fault, &mut random) }
        })
        .collect()
}

fn request(fault: Option<Fault>, random: &mut StdRng) -> Step {
    match fault {
        Some(Fault::RefusedConnection) if random.random_bool(0.3) => shop::browse(fault, random),
        Some(Fault::RefusedConnection | Fault::BadInput) => shop::check_out(fault, random),
        Some(Fault::Timeout | Fault::SlowDependency) => shop::browse(fault, random),
        Some(Fault::RateLimit) => agent::answer(fault, random),
        None => match random.random_range(0..100) {
            0..45 => shop::browse(None, random),
            45..65 => shop::fill_cart(random),
            65..85 => shop::check_out(None, random),
            _ => agent::answer(None, random),
        },
    }
}

/// A duration that is rarely much longer than usual.
pub(super) fn about(usual_ms: f64, random: &mut StdRng) -> Duration {
    let spread: f64 = random.random_range(0.6..1.4);
    let tail = if random.random_bool(0.05) { random.random_range(1.5..3.0) } else { 1.0 };
    Duration::from_secs_f64(usual_ms * spread * tail / 1e3)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::demo::searches::SEARCHES;

    #[test]
    fn equal_seeds_give_equal_plans() {
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_fault_is_there_in_its_number() {
        let mut counts = BTreeMap::new();
        for planned in draw(super::super::SEED) {
            *counts.entry(planned.fault).or_insert(0) += 1;
        }
        for (fault, count) in FAULTS {
            assert_eq!(counts.get(&Some(fault)), Some(&count), "{fault:?}");
        }
        assert!(counts[&None] > 200);
    }

    #[test]
    fn children_lie_within_their_parents() {
        fn check(step: &Step) {
            for child in &step.children {
                assert!(child.offset + child.duration <= step.duration, "{} in {}", child.name, step.name);
                check(child);
            }
        }
        for planned in draw(super::super::SEED) {
            check(&planned.root);
            assert!(planned.root.duration < planned.ago, "a request must be over when it is told of");
        }
    }

    #[test]
    fn the_words_of_the_searches_do_not_occur_in_the_data() {
        let told = format!("{:?}", draw(super::super::SEED)).to_lowercase();
        for search in SEARCHES {
            for word in search.fault_words {
                assert!(search.question.contains(word), "{word:?} is not in {:?}", search.question);
                assert!(!told.contains(word), "{word:?} of {:?} occurs in the data", search.question);
            }
        }
    }
}
