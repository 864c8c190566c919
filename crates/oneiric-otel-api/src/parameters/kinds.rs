//! What the text of each kind of parameter means, and what is said when it means nothing.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{Aggregation, AttributeFilter, LEVELS, Level, SpanId, TemplateId, TraceId, recent_now};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use utoipa::ToSchema;

/// What a parameter's text means.
pub(crate) trait Meaning: Sized {
    /// Said when the text means nothing.
    const ACCEPTED: &'static str;

    fn read(text: &str) -> Option<Self>;
}

/// Reads a parameter by its [`Meaning`].
fn meaning<'de, D: Deserializer<'de>, T: Meaning>(value: D) -> Result<T, D::Error> {
    struct Reader<T>(PhantomData<T>);

    impl<T: Meaning> Visitor<'_> for Reader<T> {
        type Value = T;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str(T::ACCEPTED)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::read(text).ok_or_else(|| E::custom(format_args!("expected {}", T::ACCEPTED)))
        }
    }

    value.deserialize_str(Reader(PhantomData))
}

macro_rules! read_by_meaning {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
                meaning(value)
            }
        }
    )*};
}

read_by_meaning!(
    Time,
    Took,
    Name,
    Words,
    Meant,
    Limit,
    Cosine,
    Status,
    Attribute,
    Cursor,
    Flag,
    Question,
    TraceIdText,
    SpanIdText,
    LevelName,
    Label,
    AggregationName,
    PatternText,
    Prefix,
    TemplateIdText
);

/// A time: RFC 3339 (`2026-03-01T12:30:00Z`), a span before now (`2h`), or nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(
    value_type = String,
    pattern = "^([0-9]{1,19}|[0-9]{1,4}[smhd]|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?(Z|[+-](0[0-9]|1[0-2]):[0-5][0-9]))$",
    examples("2h", "2026-03-01T12:30:00Z", "1795176000000000000"),
)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Meaning for Time {
    const ACCEPTED: &'static str = "a time: RFC 3339 such as 2026-03-01T12:30:00Z (a + is written %2B), a span before \
                                    now such as 30m, 2h or 7d, or nanoseconds since 1970";

    fn read(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let nanos: u64 = text.parse().ok()?;
            return Timestamp::from_nanosecond(i128::from(nanos)).ok().map(Self);
        }
        if text.contains('T')
            && let Ok(time) = text.parse::<Timestamp>()
        {
            return Some(Self(time));
        }
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let before = recent_now().to_zoned(TimeZone::system()).checked_sub(text.parse::<Span>().ok()?).ok()?;
        Some(Self(before.timestamp()))
    }
}

/// A length of time, such as `250ms`, `1.5s` or `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9]{1,6}(ns|us|ms|s|m|h)$", examples("250ms", "2s"))]
pub(crate) struct Took(pub(crate) Duration);

impl Meaning for Took {
    const ACCEPTED: &'static str = "a length of time such as 250ms, 1.5s or 2m";

    fn read(text: &str) -> Option<Self> {
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        Duration::try_from(text.parse::<SignedDuration>().ok()?).ok().map(Self)
    }
}

/// A name, exactly as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$")]
pub(crate) struct Name(pub(crate) String);

impl Meaning for Name {
    const ACCEPTED: &'static str = "a name of 1 to 1024 characters, none of them NUL";

    fn read(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.chars().count() <= 1024 && !text.contains('\0');
        fits.then(|| Self(text.to_owned()))
    }
}

/// A description in words.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 10_000, examples("payment refused by the bank"))]
pub(crate) struct Words(pub(crate) String);

impl Meaning for Words {
    const ACCEPTED: &'static str = "a description of 1 to 10000 characters, not blank and without NUL";

    fn read(text: &str) -> Option<Self> {
        let fits = !text.trim().is_empty() && text.chars().count() <= 10_000 && !text.contains('\0');
        fits.then(|| Self(text.to_owned()))
    }
}

/// What log records mean.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1000, examples("the database could not be reached"))]
pub(crate) struct Meant(pub(crate) String);

impl Meaning for Meant {
    const ACCEPTED: &'static str = "a description of 1 to 1000 characters, not blank and without NUL";

    fn read(text: &str) -> Option<Self> {
        Words::read(text).map(|words| Self(words.0)).filter(|meant| meant.0.chars().count() <= 1000)
    }
}

/// How many at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = u32, minimum = 1, maximum = 1000)]
pub(crate) struct Limit(pub(crate) usize);

impl Meaning for Limit {
    const ACCEPTED: &'static str = "a number from 1 to 1000";

    fn read(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|limit| plain && (1..=1000).contains(limit)).map(Self)
    }
}

impl Limit {
    /// Of hits, where none is given.
    pub(crate) fn few() -> Self {
        Self(10)
    }

    /// Of a list, where none is given.
    pub(crate) fn many() -> Self {
        Self(100)
    }
}

/// A cosine similarity.
#[derive(Debug, Clone, Copy, PartialEq, ToSchema)]
#[schema(value_type = f64, minimum = 0, maximum = 1)]
pub(crate) struct Cosine(pub(crate) f64);

impl Meaning for Cosine {
    const ACCEPTED: &'static str = "a number from 0 to 1";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|cosine| (0.0..=1.0).contains(cosine)).map(Self)
    }
}

/// What an attribute must be: `key`, `key=value`, `key!=value`, `key>n`, `key>=n`, `key<n`, `key<=n` or `key~pattern`.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 4096, examples("http.route=/pay", "retries>2"))]
pub(crate) struct Attribute(pub(crate) AttributeFilter);

impl Meaning for Attribute {
    const ACCEPTED: &'static str = "key, key=value, key!=value, key>n, key>=n, key<n, key<=n (n is a number) or \
                                    key~pattern, of at most 4096 bytes each, without NUL";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|_| text.chars().count() <= 4096).map(Self)
    }
}

/// Where a page begins: `next` of the page before, asked for with the same filter.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 4096)]
pub(crate) struct Cursor(pub(crate) String);

impl Meaning for Cursor {
    const ACCEPTED: &'static str = "next of the page before";

    fn read(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.chars().count() <= 4096;
        fits.then(|| Self(text.to_owned()))
    }
}

/// `true` or `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ToSchema)]
#[schema(value_type = bool)]
pub(crate) struct Flag(pub(crate) bool);

impl Meaning for Flag {
    const ACCEPTED: &'static str = "true or false";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// A question about log records.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1000, examples("connection refused -redis"))]
pub(crate) struct Question(pub(crate) String);

impl Meaning for Question {
    const ACCEPTED: &'static str = "words, \"phrases\", -exclusions or prefixes*, of 1 to 1000 characters without NUL";

    fn read(text: &str) -> Option<Self> {
        let fits = !text.trim().is_empty() && text.chars().count() <= 1000 && !text.contains('\0');
        fits.then(|| Self(text.to_owned()))
    }
}

/// The id of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceIdText(pub(crate) TraceId);

impl Meaning for TraceIdText {
    const ACCEPTED: &'static str = "32 hexadecimal digits, not all zero";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// The id of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpanIdText(pub(crate) SpanId);

impl Meaning for SpanIdText {
    const ACCEPTED: &'static str = "16 hexadecimal digits, not all zero";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// A class of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LevelName(pub(crate) Level);

impl Meaning for LevelName {
    const ACCEPTED: &'static str = "trace, debug, info, warn, error or fatal";

    fn read(text: &str) -> Option<Self> {
        LEVELS.into_iter().find(|level| level.as_str() == text).map(Self)
    }
}

/// How many at most, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpTo<const MOST: usize>(pub(crate) usize);

impl<'de, const MOST: usize> Deserialize<'de> for UpTo<MOST> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| plain && *number <= MOST);
        number.map(Self).ok_or_else(|| serde::de::Error::custom(format_args!("expected a number from 0 to {MOST}")))
    }
}

/// A label that a series must have: `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 3, max_length = 4096, pattern = "^[^=\\x00]+=[^\\x00]*$", examples("service.name=checkout"))]
pub(crate) struct Label(pub(crate) (String, String));

impl Meaning for Label {
    const ACCEPTED: &'static str = "key=value, of at most 4096 characters, without NUL";

    fn read(text: &str) -> Option<Self> {
        let (key, value) = text.split_once('=')?;
        let fits = !key.is_empty() && text.chars().count() <= 4096 && !text.contains('\0');
        fits.then(|| Self((key.to_owned(), value.to_owned())))
    }
}

/// How the values of a step become one.
#[derive(Debug, Clone, Copy, PartialEq, ToSchema)]
#[schema(value_type = String, pattern = "^(avg|sum|min|max|count|last|rate|increase|p[0-9]{1,2})$", examples("avg", "p95"))]
pub(crate) struct AggregationName(pub(crate) Aggregation);

impl Default for AggregationName {
    fn default() -> Self {
        Self(Aggregation::Avg)
    }
}

impl Meaning for AggregationName {
    const ACCEPTED: &'static str =
        "avg, sum, min, max, count, last, rate, increase, or a percentile such as p95 or p99.9";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// What an error is like.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 1024, examples("%timeout%", "refused"))]
pub(crate) struct PatternText(pub(crate) String);

impl Meaning for PatternText {
    const ACCEPTED: &'static str = "1 to 1024 characters without NUL, in which % is any text, _ any character, and \\ goes \
                                    before a character that stands for itself";

    fn read(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.chars().count() <= 1024 && !text.contains('\0');
        fits.then(|| Self(text.to_owned()))
    }
}

/// How a name or a value begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, max_length = 1024)]
pub(crate) struct Prefix(pub(crate) String);

impl Meaning for Prefix {
    const ACCEPTED: &'static str = "at most 1024 characters without NUL";

    fn read(text: &str) -> Option<Self> {
        let fits = text.chars().count() <= 1024 && !text.contains('\0');
        fits.then(|| Self(text.to_owned()))
    }
}

/// The id of a template of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, pattern = "^-?[0-9]{1,19}$", examples("6233839168310720248"))]
pub(crate) struct TemplateIdText(pub(crate) TemplateId);

impl Meaning for TemplateIdText {
    const ACCEPTED: &'static str = "a whole number of 64 bits";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// A kind of telemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SignalName {
    /// Spans.
    #[default]
    Traces,
    /// Log records.
    Logs,
    /// Data points.
    Metrics,
}

impl SignalName {
    /// The signal that the library knows.
    pub(crate) fn otlp(self) -> Signal {
        match self {
            Self::Traces => Signal::Traces,
            Self::Logs => Signal::Logs,
            Self::Metrics => Signal::Metrics,
        }
    }
}

/// How a trace or span ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Something failed.
    Error,
    /// Said to be well.
    Ok,
    /// Nothing was said.
    Unset,
}

impl Status {
    /// The word of the library.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Ok => "ok",
            Self::Unset => "unset",
        }
    }
}

impl Meaning for Status {
    const ACCEPTED: &'static str = "error, ok or unset";

    fn read(text: &str) -> Option<Self> {
        [Self::Error, Self::Ok, Self::Unset].into_iter().find(|status| status.as_str() == text)
    }
}
