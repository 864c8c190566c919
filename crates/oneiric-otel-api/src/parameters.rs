//! Parameters of a query string, read strictly: what is not known or not understood is an error that names it.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::{SignedDuration, Span, Timestamp, Zoned};
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::{Aggregation, AttributeFilter, LEVELS, Level, QueryError, SpanId, TimeRange, TraceId};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use utoipa::ToSchema;

use crate::problem::{Problem, ProblemType};

/// The query string of a request as `T`, which refuses what it does not know.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn read<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    // The reader of forms would replace what is not UTF-8.
    if percent_decode_str(query).decode_utf8().is_err() {
        return Err(Problem::new(ProblemType::InvalidArgument, "the query string: expected UTF-8, percent-encoded"));
    }
    let form = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    serde_path_to_error::deserialize(form).map_err(|error| {
        let name = error.path().to_string();
        let reason = match error.into_inner().to_string() {
            // What the reader of forms says of a name that stands there twice.
            reason if reason == "unsupported value" => "expected once, and found several times".to_owned(),
            reason => reason,
        };
        match reason.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, ")) {
            Some((unknown, accepted)) => Problem::of_parameter(unknown, format_args!("no such parameter; {accepted}")),
            None => match reason.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
                Some((missing, _)) => Problem::of_parameter(missing, "is missing"),
                None => Problem::of_parameter(name, reason),
            },
        }
    })
}

/// No parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// What stands in the path, such as ids.
#[derive(Debug)]
pub(crate) struct InPath<T>(pub(crate) T);

impl<T: FromStr<Err = QueryError>, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let [one] = segments(parts, state).await?;
        Ok(Self(one.parse()?))
    }
}

/// The one part of the path that is not fixed, as it stands.
#[derive(Debug)]
pub(crate) struct OneInPath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for OneInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let [one] = segments(parts, state).await?;
        Ok(Self(one))
    }
}

/// The same of two.
#[derive(Debug)]
pub(crate) struct BothInPath<A, B>(pub(crate) A, pub(crate) B);

impl<A, B, S> FromRequestParts<S> for BothInPath<A, B>
where
    A: FromStr<Err = QueryError>,
    B: FromStr<Err = QueryError>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let [one, other] = segments(parts, state).await?;
        Ok(Self(one.parse()?, other.parse()?))
    }
}

/// The parts of the path that are not fixed.
async fn segments<const N: usize, S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<[String; N], Problem> {
    let wrong = || Problem::new(ProblemType::InvalidArgument, "the path: expected UTF-8, percent-encoded");
    let segments = axum::extract::Path::<Vec<String>>::from_request_parts(parts, state).await.map_err(|_| wrong())?;
    segments.0.try_into().map_err(|_| wrong())
}

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
    TemplateId
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
        let before = Zoned::now().checked_sub(text.parse::<Span>().ok()?).ok()?;
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
#[schema(value_type = i64)]
pub(crate) struct TemplateId(pub(crate) i64);

impl Meaning for TemplateId {
    const ACCEPTED: &'static str = "a whole number of 64 bits";

    fn read(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| plain).map(Self)
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

/// Defines the parameters of a question about traces: those of the filter, and its own.
macro_rules! filtered {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct $name {
            $($(#[$field_about])* $field: $kind,)*
            /// Traces that began at this time or later.
            #[param(inline)]
            since: Option<$crate::parameters::Time>,
            /// Traces that began before this time.
            #[param(inline)]
            until: Option<$crate::parameters::Time>,
            /// Traces in which this service took part.
            #[param(inline)]
            service: Option<$crate::parameters::Name>,
            /// Traces whose root has this name.
            #[param(inline)]
            operation: Option<$crate::parameters::Name>,
            /// Traces that ended so.
            #[param(inline)]
            status: Option<$crate::parameters::Status>,
            /// Traces that took at least this long.
            #[param(inline)]
            min_duration: Option<$crate::parameters::Took>,
            /// Traces that took at most this long.
            #[param(inline)]
            max_duration: Option<$crate::parameters::Took>,
            /// Traces one of whose spans, or its resource, has such an attribute; all that are given must be met.
            #[serde(default)]
            #[param(inline, style = Form, explode, required = false)]
            attribute: Vec<$crate::parameters::Attribute>,
        }

        impl $name {
            /// When the time that is asked about ends, if it does.
            #[allow(dead_code, reason = "not every answer may be kept")]
            fn ends(&self) -> Option<jiff::Timestamp> {
                self.until.map(|time| time.0)
            }

            fn filter(&self) -> oneiric_otel::query::TraceFilter {
                oneiric_otel::query::TraceFilter {
                    since: self.since.map(|time| time.0),
                    until: self.until.map(|time| time.0),
                    service: self.service.as_ref().map(|name| name.0.clone()),
                    operation: self.operation.as_ref().map(|name| name.0.clone()),
                    status: self.status.map(|status| status.as_str().to_owned()),
                    min_duration: self.min_duration.map(|took| took.0),
                    max_duration: self.max_duration.map(|took| took.0),
                    attributes: self.attribute.iter().map(|attribute| attribute.0.clone()).collect(),
                }
            }
        }
    };
}

pub(crate) use filtered;

/// Defines the parameters of a question about a time: the time, and its own.
macro_rules! ranged {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct $name {
            $($(#[$field_about])* $field: $kind,)*
            /// From this time on; a day before `until` if not given.
            #[param(inline)]
            since: Option<$crate::parameters::Time>,
            /// Before this time; now if not given.
            #[param(inline)]
            until: Option<$crate::parameters::Time>,
        }

        impl $name {
            /// When the time that is asked about ends, if not now.
            fn ends(&self) -> Option<jiff::Timestamp> {
                self.until.map(|time| time.0)
            }

            fn range(&self) -> Result<oneiric_otel::query::TimeRange, $crate::problem::Problem> {
                $crate::parameters::range(self.since, self.until)
            }
        }
    };
}

pub(crate) use ranged;

/// A day, where the start is not given.
pub(crate) fn range(since: Option<Time>, until: Option<Time>) -> Result<TimeRange, Problem> {
    let end = until.map_or_else(Timestamp::now, |time| time.0);
    let start = match since {
        Some(since) => since.0,
        None => end.checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::UNIX_EPOCH),
    };
    TimeRange::new(start, end).map_err(|_| Problem::of_parameter("until", "expected a time after since"))
}

#[cfg(test)]
mod tests {
    use super::*;

    filtered! {
        /// Some.
        pub(crate) struct Some_ {
            /// How many.
            #[serde(default = "Limit::few")]
            limit: Limit,
        }
    }

    fn refused(query: &str) -> (Option<String>, String) {
        let problem = read::<Some_>(query).expect_err(query);
        (problem.parameter, problem.detail)
    }

    #[test]
    fn what_is_given_is_understood() {
        let asked: Some_ = read(
            "since=2026-03-01T12:30:00%2B02:00&until=1795176000000000001&min_duration=1.5s&\
                                 service=a+b%26&status=error&limit=7",
        )
        .expect("good");
        let filter = asked.filter();
        assert_eq!(filter.since.map(|time| time.to_string()).as_deref(), Some("2026-03-01T10:30:00Z"));
        assert_eq!(filter.until.map(Timestamp::as_nanosecond), Some(1_795_176_000_000_000_001));
        assert_eq!(filter.min_duration, Some(Duration::from_millis(1500)));
        assert_eq!((filter.service.as_deref(), filter.status.as_deref()), (Some("a b&"), Some("error")));
        assert_eq!(asked.limit, Limit(7));
        assert_eq!(read::<Some_>("").expect("nothing is enough").limit, Limit::few());
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_is_accepted() {
        let cases = [
            ("limit=0", "limit", "expected a number from 1 to 1000"),
            ("limit=1001", "limit", "from 1 to 1000"),
            ("limit=%2B5", "limit", "from 1 to 1000"),
            ("limit=", "limit", "from 1 to 1000"),
            ("limit=1&limit=2", "limit", "expected once"),
            ("since=yesterday", "since", "RFC 3339"),
            ("since=", "since", "RFC 3339"),
            ("since=2026-03-01", "since", "RFC 3339"),
            ("since=99999999999999999999", "since", "RFC 3339"),
            ("until=-2h", "until", "RFC 3339"),
            ("service=", "service", "a name of 1 to 1024"),
            ("service=a%00b", "service", "NUL"),
            ("status=bad", "status", "error, ok or unset"),
            ("min_duration=5", "min_duration", "250ms"),
            ("max_duration=-5s", "max_duration", "250ms"),
            ("Limit=5", "Limit", "no such parameter; expected one of `limit`, `since`"),
        ];
        for (query, name, accepted) in cases {
            let (parameter, detail) = refused(query);
            assert_eq!(parameter.as_deref(), Some(name), "{query}: {detail}");
            assert!(detail.starts_with(name) && detail.contains(accepted), "{query}: {detail}");
        }
        assert!(refused("service=%ff").1.contains("UTF-8"));
    }
}
