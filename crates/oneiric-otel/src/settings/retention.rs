//! How settings say how long telemetry is kept.

use super::raw::Raw;
use super::table::Settings;
use super::value::{Accepts, Shown, Value};
use crate::otlp::Signal;
use crate::retention::{Keep, MOST_DAYS, RetentionOptions, Step, check};

const FOREVER: &str = "forever";

/// What a retention can be.
pub(super) const DAYS: Accepts =
    Accepts::Text { what: "a whole number of days from 1 to 3650, or forever", is_good: |text| keep(text).is_some() };

fn keep(text: &str) -> Option<Keep> {
    if text == FOREVER {
        return Some(Keep::Forever);
    }
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|days| is_number && (1..=MOST_DAYS).contains(days)).map(Keep::Days)
}

impl Value for Keep {
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(days) => keep(&days.to_string()),
            _ => keep(raw.text()?),
        }
    }

    fn is_within(&self, _: Accepts) -> bool {
        matches!(self, Self::Forever | Self::Days(1..=MOST_DAYS))
    }

    fn show(&self) -> Shown {
        match self {
            Self::Days(days) => Shown::Integer(u64::from(*days)),
            Self::Forever => Shown::Text(FOREVER.to_owned()),
        }
    }
}

impl Value for Step {
    fn read(raw: &Raw) -> Option<Self> {
        Self::of(raw.text()?)
    }

    fn is_within(&self, _: Accepts) -> bool {
        true
    }

    fn show(&self) -> Shown {
        Shown::Text(self.as_str().to_owned())
    }
}

impl Settings {
    /// How long telemetry is kept and how it is cut, as far as the settings say it: what they do not say stays as the
    /// database has it.
    pub fn retention_options(&self) -> RetentionOptions {
        RetentionOptions {
            traces: self.retention_days_traces.or(self.retention_days),
            metrics: self.retention_days_metrics.or(self.retention_days),
            logs: self.retention_days_logs.or(self.retention_days),
            step: self.partition,
        }
    }

    /// What is wrong with how long telemetry is kept in which partitions, and the setting that says so. The database may
    /// have another word on what is not set, and refuses then what does not go together with it.
    pub(super) fn retention_conflict(&self) -> Option<(&'static str, String)> {
        let wanted = self.retention_options();
        if wanted == RetentionOptions::default() {
            return None;
        }
        let refused = Signal::ALL
            .into_iter()
            .find_map(|signal| check(wanted.of(signal)?, wanted.step.unwrap_or(Step::Day)).err());
        let of_default = || {
            let is_open = Signal::ALL.into_iter().any(|signal| wanted.of(signal).is_none());
            wanted.step.filter(|_| is_open).and_then(|step| check(Keep::DEFAULT, step).err())
        };
        let reason = refused.or_else(of_default)?;
        Some((if wanted.step.is_some() { "partition" } else { "retention_days" }, reason))
    }
}
