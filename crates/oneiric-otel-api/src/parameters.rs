//! Parameters of a query string, read strictly: what is not known or not understood is an error that names it.

mod kinds;

use std::str::FromStr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use oneiric_otel::query::{QueryError, TimeRange};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, ProblemType};

pub(crate) use kinds::*;

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
    let range = TimeRange::asked(since.map(|time| time.0), until.map(|time| time.0));
    range.map_err(|_| Problem::of_parameter("until", "expected a time after since"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

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
