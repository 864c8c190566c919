//! How long telemetry is kept, and into how long pieces its tables are cut: the rules, without a database.

use std::fmt;

use crate::otlp::Signal;

/// Partitions of a table that hold data inside its retention, at most: planning a question that gives no time costs some
/// hundredths of a millisecond for each.
pub const MOST_PARTITIONS: u32 = 400;

/// The longest retention that is not for ever, in days.
pub const MOST_DAYS: u32 = 3650;

/// The time of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// An hour.
    Hour,
    /// A day, in UTC.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
}

impl Step {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];
    /// Their words.
    pub const WORDS: &'static [&'static str] = &["hour", "day", "week", "month"];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The step of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }

    /// Partitions that are made before they are needed.
    pub fn ahead(self) -> u32 {
        match self {
            Self::Hour => 24,
            Self::Day => 3,
            Self::Week => 2,
            Self::Month => 1,
        }
    }

    /// Partitions of a table that keeps its data for so many days: those that are full, the first and the last in part, and
    /// those ahead.
    fn partitions(self, days: u32) -> u32 {
        let full = match self {
            Self::Hour => days.saturating_mul(24),
            Self::Day => days,
            Self::Week => days.div_ceil(7),
            Self::Month => days.div_ceil(28),
        };
        full.saturating_add(2 + self.ahead())
    }

    /// The most days that can be kept.
    fn most_days(self) -> u32 {
        (1..=MOST_DAYS).rev().find(|days| self.partitions(*days) <= MOST_PARTITIONS).unwrap_or(0)
    }
}

/// How long data is kept, from the later of its time and its arrival on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// So many days, 1 to [`MOST_DAYS`].
    Days(u32),
    /// Nothing is dropped for its age.
    Forever,
}

impl Keep {
    /// What it is unless somebody says otherwise.
    pub const DEFAULT: Self = Self::Days(90);

    /// The age from which on data gets coarse partitions, which is that of the longest retention where there is none.
    pub fn days(self) -> u32 {
        match self {
            Self::Days(days) => days,
            Self::Forever => MOST_DAYS,
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(1) => f.write_str("1 day"),
            Self::Days(days) => write!(f, "{days} days"),
            Self::Forever => f.write_str("forever"),
        }
    }
}

/// What somebody wants of the retention of a database. What is `None` stays as the database has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionOptions {
    /// Spans, and the traces and texts that are derived from them.
    pub traces: Option<Keep>,
    /// Data points and their roll-ups.
    pub metrics: Option<Keep>,
    /// Log records.
    pub logs: Option<Keep>,
    /// Of partitions that are made from now on.
    pub step: Option<Step>,
}

impl RetentionOptions {
    /// What is wanted for a signal.
    pub fn of(&self, signal: Signal) -> Option<Keep> {
        match signal {
            Signal::Traces => self.traces,
            Signal::Metrics => self.metrics,
            Signal::Logs => self.logs,
        }
    }
}

/// Whether data that is kept so long can be cut into such pieces.
///
/// # Errors
/// With what is accepted, when there were more than [`MOST_PARTITIONS`] of them.
pub fn check(keep: Keep, step: Step) -> Result<(), String> {
    let partitions = step.partitions(keep.days());
    if partitions <= MOST_PARTITIONS {
        return Ok(());
    }
    let accepted: Vec<&str> = Step::ALL
        .into_iter()
        .filter(|step| step.partitions(keep.days()) <= MOST_PARTITIONS)
        .map(Step::as_str)
        .collect();
    Err(format!(
        "keeping {keep} in partitions of a{} {} makes {partitions} of them, more than {MOST_PARTITIONS}: expected {} for \
         it, or at most {} days",
        if step == Step::Hour { "n" } else { "" },
        step.as_str(),
        accepted.join(" or "),
        step.most_days(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_400_partitions_are_refused_with_what_is_accepted() {
        assert_eq!(check(Keep::DEFAULT, Step::Day), Ok(()));
        assert_eq!(check(Keep::Days(395), Step::Day), Ok(()));
        let refused = check(Keep::Days(396), Step::Day).unwrap_err();
        assert!(refused.contains("401") && refused.contains("week or month") && refused.contains("395"), "{refused}");
        let refused = check(Keep::DEFAULT, Step::Hour).unwrap_err();
        assert!(refused.contains("day or week or month") && refused.contains("15 days"), "{refused}");
        assert_eq!(check(Keep::Days(15), Step::Hour), Ok(()));
        let refused = check(Keep::Forever, Step::Week).unwrap_err();
        assert!(refused.contains("expected month for it"), "{refused}");
        assert_eq!(check(Keep::Forever, Step::Month), Ok(()));
    }
}
