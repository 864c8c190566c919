//! Times as people type and read them: local with offset on the outside, nanoseconds since 1970 inside.

use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use oneiric_otel::query::recent_now;

/// A point in time given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) Timestamp);

impl FromStr for Moment {
    type Err = String;

    /// RFC 3339; a local date or date and time; or a span before now, such as `90s`, `2h`, `7d`.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, &recent_now().to_zoned(TimeZone::system()))
    }
}

impl Moment {
    fn parse(text: &str, now: &Zoned) -> Result<Self, String> {
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self(time));
        }
        if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
            return local
                .to_zoned(now.time_zone().clone())
                .map(|zoned| Self(zoned.timestamp()))
                .map_err(|error| error.to_string());
        }
        // A number alone would be a span without a unit.
        if text.starts_with(|c: char| c.is_ascii_digit())
            && let Ok(span) = text.parse::<Span>()
        {
            return now.checked_sub(span).map(|then| Self(then.timestamp())).map_err(|error| error.to_string());
        }
        Err("accepted are 30m, 2h, 7d (before now), 2026-03-01, 2026-03-01T12:30 (local time) and RFC 3339".to_owned())
    }
}

/// A length of time given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length(pub(crate) std::time::Duration);

impl FromStr for Length {
    type Err = String;

    /// A number with a unit, such as `250ms`, `1.5s`, `2m`.
    fn from_str(text: &str) -> Result<Self, String> {
        let signed: Option<jiff::SignedDuration> =
            Some(text).filter(|text| text.starts_with(|c: char| c.is_ascii_digit())).and_then(|text| text.parse().ok());
        let length = signed.and_then(|length| std::time::Duration::try_from(length).ok());
        length.map(Self).ok_or_else(|| "accepted are lengths such as 250ms, 1.5s and 2m".to_owned())
    }
}

/// Nanoseconds since 1970; 0 for what is before.
pub(crate) fn unix_nanos(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or_default()
}

/// Shows a time of the database in local time with its offset, to the millisecond.
pub(crate) fn show(unix_nanos: u64) -> String {
    let Ok(time) = Timestamp::from_nanosecond(i128::from(unix_nanos)) else {
        return format!("{unix_nanos} ns after 1970");
    };
    show_in(time, TimeZone::system())
}

/// The same of a timestamp.
pub(crate) fn show_time(time: Timestamp) -> String {
    show_in(time, TimeZone::system())
}

/// The same to the minute and without the offset, for lists.
pub(crate) fn show_minute(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

fn show_in(time: Timestamp, zone: TimeZone) -> String {
    time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%.3f%:z").to_string()
}

/// The same to the second and without the offset, for lists.
pub(crate) fn show_short(unix_nanos: u64) -> String {
    let Ok(time) = Timestamp::from_nanosecond(i128::from(unix_nanos)) else {
        return format!("{unix_nanos} ns after 1970");
    };
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// RFC 3339 in UTC, for programs.
pub(crate) fn rfc3339(unix_nanos: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nanos)) {
        Ok(time) => time.to_string(),
        Err(_) => unix_nanos.to_string(),
    }
}

/// A duration in three digits, such as `1.20 s` or `3.41 ms`.
pub(crate) fn show_duration(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        1_000_000_000..120_000_000_000 => (nanos as f64 / 1e9, "s"),
        120_000_000_000..7_200_000_000_000 => (nanos as f64 / 6e10, "min"),
        _ => (nanos as f64 / 3.6e12, "h"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_local_or_relative() {
        let now: Zoned = "2026-03-10T12:00:00+01:00[Europe/Berlin]".parse().expect("a valid time");
        let at = |text: &str| Moment::parse(text, &now).map(|moment| moment.0.to_string());
        assert_eq!(at("2026-03-01T12:30:00Z").as_deref(), Ok("2026-03-01T12:30:00Z"));
        assert_eq!(at("2026-03-01T12:30:00+05:00").as_deref(), Ok("2026-03-01T07:30:00Z"));
        assert_eq!(at("2026-03-01").as_deref(), Ok("2026-02-28T23:00:00Z"));
        assert_eq!(at("2026-03-01 12:30").as_deref(), Ok("2026-03-01T11:30:00Z"));
        assert_eq!(at("2h").as_deref(), Ok("2026-03-10T09:00:00Z"));
        assert_eq!(at("7d").as_deref(), Ok("2026-03-03T11:00:00Z"));
        for wrong in ["", "yesterday", "17", "-2h", "2026-13-01"] {
            assert!(at(wrong).expect_err(wrong).contains("accepted are"), "{wrong}");
        }
    }

    #[test]
    fn times_are_shown_where_the_user_is() {
        let time = "2026-03-01T22:30:00.5Z".parse().expect("RFC 3339");
        let zone = TimeZone::get("Europe/Berlin").expect("a well-known zone");
        assert_eq!(show_in(time, zone), "2026-03-01 23:30:00.500+01:00");
    }

    #[test]
    fn lengths_have_units() {
        let nanos = |text: &str| text.parse::<Length>().map(|length| length.0.as_nanos());
        assert_eq!(nanos("250ms"), Ok(250_000_000));
        assert_eq!(nanos("1.5s"), Ok(1_500_000_000));
        assert_eq!(nanos("2m"), Ok(120_000_000_000));
        for wrong in ["", "5", "-5s", "fast"] {
            assert!(nanos(wrong).expect_err(wrong).contains("250ms"), "{wrong}");
        }
    }

    #[test]
    fn durations_have_three_digits() {
        let shown = [(0, "0 ns"), (999, "999 ns"), (1_500, "1.50 us"), (3_412_000, "3.41 ms"), (250_000_000, "250 ms")];
        for (nanos, text) in shown {
            assert_eq!(show_duration(nanos), text);
        }
        assert_eq!(show_duration(4_800_000_000), "4.80 s");
        assert_eq!(show_duration(u64::MAX), "5124096 h");
    }
}
