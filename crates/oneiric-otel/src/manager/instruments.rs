//! Counters and histograms: registered once, used from anywhere, collected together.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::aggregate::{Aggregate, Description, Kind, Measured};
use crate::storage::{Attributes, MetricData, Moment, Number, Temporality};

/// Characters of a name at most, as OpenTelemetry has it.
const MOST_CHARACTERS: usize = 255;

/// Upper bounds of a histogram's classes, those of the OpenTelemetry SDK. They suit milliseconds.
pub const DEFAULT_BOUNDS: [f64; 15] =
    [0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10_000.0];

/// Why an instrument cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstrumentError {
    /// The name is none for an instrument.
    #[error("name: expected a letter, then letters, digits and _ . - /, at most 255 characters, and not {name:?}")]
    Name {
        /// What it was.
        name: String,
    },
    /// The bounds of a histogram's classes do not rise.
    #[error("bounds: expected finite numbers, each greater than the one before")]
    Bounds,
    /// There is an instrument of this name that is another one.
    #[error("the instrument {name:?} is registered already, with another kind, unit, description or other bounds")]
    Different {
        /// The name.
        name: String,
    },
}

/// The instruments of a manager.
#[derive(Debug)]
pub(super) struct Instruments {
    temporality: Temporality,
    label_sets: usize,
    known: Mutex<BTreeMap<String, Arc<Aggregate>>>,
    counts: Arc<Counts>,
}

/// What became of measurements.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) ignored: AtomicU64,
    pub(super) overflowed: AtomicU64,
    /// Nobody collects any more.
    pub(super) closed: AtomicBool,
}

impl Instruments {
    pub(super) fn new(temporality: Temporality, label_sets: usize) -> Self {
        Self { temporality, label_sets, known: Mutex::default(), counts: Arc::default() }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The instrument of this name, which is made when there is none.
    pub(super) fn register(
        &self,
        name: &str,
        unit: &str,
        description: &str,
        kind: Kind,
    ) -> Result<Meter, InstrumentError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !begins_well || name.len() > MOST_CHARACTERS || !name.chars().all(is_plain) {
            return Err(InstrumentError::Name { name: name.to_owned() });
        }
        if let Kind::Histogram(bounds) = &kind {
            let rise = bounds.iter().zip(bounds.iter().skip(1)).all(|(low, high)| low < high);
            if !rise || !bounds.iter().all(|bound| bound.is_finite()) {
                return Err(InstrumentError::Bounds);
            }
        }
        let (unit, about) = (unit.to_owned(), description.to_owned());
        let asked = Description { name: name.to_owned(), about, unit, kind };
        // Names that differ in case alone are one, as OpenTelemetry has it.
        let aggregate = match self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_ascii_lowercase())
        {
            Entry::Occupied(known) if known.get().description == asked => Arc::clone(known.get()),
            Entry::Occupied(_) => return Err(InstrumentError::Different { name: asked.name }),
            Entry::Vacant(place) => {
                let made = Aggregate::new(asked, self.temporality, self.label_sets, Moment::now());
                Arc::clone(place.insert(Arc::new(made)))
            }
        };
        Ok(Meter { aggregate, counts: Arc::clone(&self.counts) })
    }

    /// What was measured by all of them.
    pub(super) fn collect(&self) -> Vec<MetricData> {
        let known: Vec<_> =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        known.iter().filter_map(|aggregate| aggregate.collect(Moment::now())).collect()
    }
}

/// The way of a handle to its series.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    aggregate: Arc<Aggregate>,
    counts: Arc<Counts>,
}

impl Meter {
    fn measure(&self, value: Number, labels: Attributes) {
        let is_closed = self.counts.closed.load(Ordering::Acquire);
        let measured = if is_closed { Measured::Invalid } else { self.aggregate.measure(value, labels) };
        match measured {
            Measured::Kept => {}
            Measured::Overflowed => drop(self.counts.overflowed.fetch_add(1, Ordering::Relaxed)),
            Measured::Invalid => drop(self.counts.ignored.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// A sum that only grows. A clone is the same one. What it cannot take (a negative value, one that is no number) and what
/// comes after the shutdown is ignored and counted; what comes before `init` is kept for it.
#[derive(Debug, Clone)]
pub struct Counter(pub(super) Meter);

impl Counter {
    /// Adds to the series of these labels.
    pub fn add(&self, value: impl Into<Number>, labels: impl Into<Attributes>) {
        self.0.measure(value.into(), labels.into());
    }
}

/// A sum that goes up and down, such as of what is under way. For the rest as [`Counter`].
#[derive(Debug, Clone)]
pub struct UpDownCounter(pub(super) Meter);

impl UpDownCounter {
    /// Adds to the series of these labels.
    pub fn add(&self, value: impl Into<Number>, labels: impl Into<Attributes>) {
        self.0.measure(value.into(), labels.into());
    }
}

/// Values by class, with their count, sum, smallest and greatest. For the rest as [`Counter`].
#[derive(Debug, Clone)]
pub struct Histogram(pub(super) Meter);

impl Histogram {
    /// Adds a value to the series of these labels.
    pub fn record(&self, value: impl Into<Number>, labels: impl Into<Attributes>) {
        self.0.measure(value.into(), labels.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instrument_is_registered_once_and_told_from_others() {
        let instruments = Instruments::new(Temporality::Cumulative, 10);
        let register = |name: &str, unit: &str, kind| instruments.register(name, unit, "", kind);
        let one = Counter(register("runs.started", "{run}", Kind::Counter).expect("a counter"));
        let same = Counter(register("runs.started", "{run}", Kind::Counter).expect("the same"));
        one.add(1, [("a", 1)]);
        same.add(2, [("a", 1)]);
        let collected = instruments.collect();
        assert_eq!((collected.len(), collected[0].points.len()), (1, 1));
        for (name, unit, kind) in [
            ("runs.started", "s", Kind::Counter),
            ("Runs.Started", "{run}", Kind::Counter),
            ("runs.started", "{run}", Kind::UpDownCounter),
        ] {
            let error = register(name, unit, kind).expect_err("another");
            assert_eq!(error, InstrumentError::Different { name: name.to_owned() });
        }
        for name in ["", "1st", "a b", "ä", &"x".repeat(256)] {
            assert!(matches!(register(name, "", Kind::Counter), Err(InstrumentError::Name { .. })), "{name}");
        }
        for bounds in [vec![1.0, 1.0], vec![2.0, 1.0], vec![f64::NAN], vec![0.0, f64::INFINITY]] {
            let refused = register("h", "s", Kind::Histogram(bounds)).map(|_| ());
            assert_eq!(refused, Err(InstrumentError::Bounds));
        }
        assert!(register("h", "s", Kind::Histogram(Vec::new())).is_ok(), "one class is enough");
    }

    #[test]
    fn what_is_not_kept_is_counted() {
        let instruments = Instruments::new(Temporality::Delta, 2);
        let counter = Counter(instruments.register("c", "", "", Kind::Counter).expect("a counter"));
        counter.add(-1, [("a", 1)]);
        counter.add(1, [("a", 1)]);
        counter.add(1, [("a", 2)]);
        let counts = instruments.counts();
        let read = || (counts.ignored.load(Ordering::Relaxed), counts.overflowed.load(Ordering::Relaxed));
        assert_eq!(read(), (1, 1));
        counts.closed.store(true, Ordering::Release);
        counter.add(1, [("a", 1)]);
        assert_eq!(read(), (2, 1));
    }
}
