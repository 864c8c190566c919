//! The time that a question is about.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::QueryError;
use crate::store::Micros;

/// Steps of a series at most.
const MAX_STEPS: u64 = 1000;
/// Steps of a series when the caller does not say how long they are.
const USUAL_STEPS: u64 = 60;
/// Lengths of a step that read well, in seconds.
const LENGTHS: &[u64] = &[
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800,
    2_592_000,
];

/// A time with a beginning and an end, neither empty nor reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ends")]
pub struct TimeRange {
    start: Timestamp,
    end: Timestamp,
}

/// A range as a cursor has it.
#[derive(Deserialize)]
struct Ends {
    start: Timestamp,
    end: Timestamp,
}

impl TryFrom<Ends> for TimeRange {
    type Error = QueryError;

    fn try_from(Ends { start, end }: Ends) -> Result<Self, QueryError> {
        Self::new(start, end)
    }
}

impl TimeRange {
    /// From `start`, included, to `end`, excluded.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for an end that is not after the start.
    pub fn new(start: Timestamp, end: Timestamp) -> Result<Self, QueryError> {
        if end <= start {
            return Err(QueryError::InvalidArgument { name: "end", accepted: "a time after start".to_owned() });
        }
        Ok(Self { start, end })
    }

    /// When it begins.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// When it is over.
    pub fn end(&self) -> Timestamp {
        self.end
    }

    /// Both ends as the store wants them.
    pub(crate) fn micros(&self) -> (Micros, Micros) {
        (micros(self.start), micros(self.end))
    }

    /// The length of a step and how many there are: the one that was asked for, else one that reads well.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a step below a second or one of which there would be too many.
    pub(crate) fn steps(&self, asked: Option<Duration>) -> Result<(Duration, usize), QueryError> {
        let seconds = self.end.duration_since(self.start).unsigned_abs().as_secs_f64();
        let count = |step: u64| (seconds / step as f64).ceil().max(1.0);
        let step = match asked {
            Some(step)
                if step.subsec_nanos() == 0 && step.as_secs() > 0 && count(step.as_secs()) <= MAX_STEPS as f64 =>
            {
                step.as_secs()
            }
            Some(_) => {
                return Err(QueryError::InvalidArgument {
                    name: "step",
                    accepted: format!("whole seconds, of which the time asked about has at most {MAX_STEPS}"),
                });
            }
            None => LENGTHS
                .iter()
                .copied()
                .find(|&length| count(length) <= USUAL_STEPS as f64)
                .unwrap_or_else(|| (seconds / USUAL_STEPS as f64).ceil() as u64),
        };
        Ok((Duration::from_secs(step), count(step) as usize))
    }
}

/// A time as the store has it.
pub(crate) fn micros(time: Timestamp) -> Micros {
    Micros::from_unix_nanos(u64::try_from(time.as_nanosecond().max(0)).unwrap_or(u64::MAX)).0
}

/// A time of the store.
pub(crate) fn timestamp(micros: Micros) -> Timestamp {
    // Every u64 of nanoseconds since 1970 lies within jiff's range of years.
    Timestamp::from_nanosecond(i128::from(micros.to_unix_nanos(0))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(seconds: i64) -> TimeRange {
        TimeRange::new(Timestamp::UNIX_EPOCH, Timestamp::from_second(seconds).expect("a time")).expect("a range")
    }

    #[test]
    fn steps_read_well_and_are_not_too_many() {
        let steps = |seconds, asked: Option<u64>| {
            range(seconds).steps(asked.map(Duration::from_secs)).map(|(step, count)| (step.as_secs(), count)).ok()
        };
        assert_eq!(steps(1, None), Some((1, 1)));
        assert_eq!(steps(3600, None), Some((60, 60)));
        assert_eq!(steps(86_400, None), Some((1800, 48)));
        assert_eq!(steps(3601, Some(3600)), Some((3600, 2)));
        assert_eq!(steps(1000, Some(1)), Some((1, 1000)));
        assert_eq!(steps(1001, Some(1)), None);
        assert_eq!(steps(10, Some(0)), None);
        assert!(range(100 * 365 * 86_400).steps(None).expect("steps").1 <= 60);
    }

    #[test]
    fn an_end_before_its_start_is_named() {
        let error = TimeRange::new(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH).expect_err("empty");
        assert_eq!(error.to_string(), "end: expected a time after start");
    }
}
