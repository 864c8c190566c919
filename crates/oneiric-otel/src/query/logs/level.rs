//! Classes of severity.

use serde::{Deserialize, Serialize};

use crate::query::QueryError;

/// A class of severity, as OpenTelemetry cuts its 24 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Level {
    /// 1 to 4.
    Trace,
    /// 5 to 8.
    Debug,
    /// 9 to 12.
    Info,
    /// 13 to 16.
    Warn,
    /// 17 to 20.
    Error,
    /// 21 and above.
    Fatal,
}

/// All levels, from the lowest.
pub const LEVELS: [Level; 6] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Fatal];

impl Level {
    /// The level's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    /// Its lowest severity number.
    pub fn number(self) -> i16 {
        match self {
            Self::Trace => 1,
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
            Self::Fatal => 21,
        }
    }

    /// How sources call it, in upper case.
    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Trace => &["TRACE", "FINEST", "FINER"],
            Self::Debug => &["DEBUG", "FINE"],
            Self::Info => &["INFO", "INFORMATION", "INFORMATIONAL", "NOTICE"],
            Self::Warn => &["WARN", "WARNING"],
            Self::Error => &["ERROR", "ERR", "SEVERE"],
            Self::Fatal => &["FATAL", "CRITICAL", "CRIT", "ALERT", "EMERG", "EMERGENCY", "PANIC"],
        }
    }

    /// Reads the name that a level, or a source for it, has, in any case.
    pub(super) fn read(text: &str) -> Result<Self, QueryError> {
        Self::of_text(text.trim())
            .ok_or_else(|| QueryError::InvalidArgument { name: "level", accepted: LEVELS.map(Self::as_str).join(", ") })
    }

    fn of_text(text: &str) -> Option<Self> {
        let upper = text.to_uppercase();
        LEVELS.into_iter().find(|level| level.texts().contains(&upper.as_str()))
    }

    /// The level of a record.
    pub(super) fn of(number: i16, text: Option<&str>) -> Option<Self> {
        if number == 0 {
            return Self::of_text(text?);
        }
        LEVELS.into_iter().rev().find(|level| number >= level.number())
    }

    /// The number from which on records are of this level or above, and the texts that say so without a number.
    pub(super) fn floor(self) -> (i16, Vec<&'static str>) {
        let above = LEVELS.into_iter().filter(|level| *level >= self);
        (self.number(), above.flat_map(|level| level.texts().iter().copied()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_by_their_names_and_by_number() {
        assert_eq!(Level::read(" Warning ").ok(), Some(Level::Warn));
        assert_eq!(Level::read("critical").ok(), Some(Level::Fatal));
        let error = Level::read("loud").expect_err("no level").to_string();
        assert_eq!(error, "level: expected trace, debug, info, warn, error, fatal");
        assert_eq!(Level::of(24, None), Some(Level::Fatal));
        assert_eq!(Level::of(12, Some("ERROR")), Some(Level::Info), "the number counts");
        assert_eq!(Level::of(0, Some("error")), Some(Level::Error));
        assert_eq!(Level::of(0, Some("")), None);
        assert_eq!(Level::of(-3, None), None);
        assert_eq!(Level::Error.floor().0, 17);
        assert!(!Level::Error.floor().1.contains(&"WARN"));
    }
}
