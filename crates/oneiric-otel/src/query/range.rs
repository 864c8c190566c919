//! The time that a question is about.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::QueryError;
use crate::store::Micros;

/// Seconds within which questions about a time that is counted from now are about the same time.
const STEP_OF_NOW: i64 = 2;
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
        check_order(("start", Some(start)), ("end", Some(end)))?;
        Ok(Self { start, end })
    }

    /// What people ask about who do not say all: until now, and from a day before the end. The end is in whole steps of two
    /// seconds and not before now, so that equal questions within them have one answer and nothing is left out.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn asked(since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Self, QueryError> {
        Self::asked_at(Timestamp::now(), since, until)
    }

    fn asked_at(now: Timestamp, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Self, QueryError> {
        let next = || whole_steps(now).checked_add(SignedDuration::from_secs(STEP_OF_NOW)).unwrap_or(now);
        let end = until.unwrap_or_else(next);
        let day_before = || end.checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::UNIX_EPOCH);
        Self::new(since.unwrap_or_else(day_before), end)
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

/// The time from which `2h ago` and the like are counted: now, in whole steps of two seconds, so that equal questions within
/// them have one answer.
pub fn recent_now() -> Timestamp {
    whole_steps(Timestamp::now())
}

fn whole_steps(now: Timestamp) -> Timestamp {
    let seconds = now.as_second();
    Timestamp::from_second(seconds - seconds % STEP_OF_NOW).unwrap_or(now)
}

/// Refuses an end that is not after its start, where both are given; the names are those of the arguments.
///
/// # Errors
/// [`QueryError::InvalidArgument`] for the end.
pub(crate) fn check_order(
    (start_name, start): (&str, Option<Timestamp>),
    (end_name, end): (&'static str, Option<Timestamp>),
) -> Result<(), QueryError> {
    match (start, end) {
        (Some(start), Some(end)) if end <= start => {
            Err(QueryError::InvalidArgument { name: end_name, accepted: format!("a time after {start_name}") })
        }
        _ => Ok(()),
    }
}

/// Nanoseconds since 1970; what is before or beyond them is at their beginning or end.
pub(crate) fn unix_nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond().max(0)).unwrap_or(u64::MAX)
}

/// The time that is so many nanoseconds after 1970.
pub(crate) fn from_unix_nanos(nanos: u64) -> Timestamp {
    // Every u64 of them lies within jiff's range of years.
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}

/// A time as the store has it.
pub(crate) fn micros(time: Timestamp) -> Micros {
    Micros::from_unix_nanos(unix_nanos(time)).0
}

/// A time of the store.
pub(crate) fn timestamp(micros: Micros) -> Timestamp {
    from_unix_nanos(micros.to_unix_nanos(0))
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
    fn equal_questions_shortly_after_each_other_are_about_the_same_time() {
        let at = |millis| Timestamp::from_millisecond(millis).expect("a time");
        let asked = |now, since| TimeRange::asked_at(at(now), since, None).expect("a range");
        let first = asked(100_000_000, None);
        assert_eq!((first.start, first.end), (at(100_002_000 - 86_400_000), at(100_002_000)));
        assert_eq!(asked(100_001_999, None), first);
        assert_ne!(asked(100_002_000, None), first);
        assert_eq!(asked(100_001_999, Some(at(100_001_999))).end, first.end, "what is newest is asked about");
        assert_eq!(whole_steps(at(100_001_999)), whole_steps(at(100_000_000)));
    }

    #[test]
    fn an_end_before_its_start_is_named() {
        let error = TimeRange::new(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH).expect_err("empty");
        assert_eq!(error.to_string(), "end: expected a time after start");
    }
}
