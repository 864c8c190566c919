//! Failures: groups of traces that failed alike.

use oneiric_otel::query::{ErrorGroups, ErrorGroupsRequest, ErrorTracesRequest, TracePage};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::openapi::Problems;
use crate::parameters::{Cursor, Flag, Limit, Name, PatternText, Query, Time, Took, ranged};
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new().routes(routes!(error_groups)).routes(routes!(errors))
}

ranged! {
    /// Which failures.
    pub(crate) struct FindGroups {
        /// Failures of traces in which this service took part.
        #[param(inline)]
        service: Option<Name>,
        /// From when on a kind of failure counts as new: no trace had it before.
        #[param(inline)]
        new_since: Option<Time>,
        /// Only kinds of failure that are new; needs `new_since`.
        #[serde(default)]
        #[param(inline, default = false)]
        only_new: Flag,
        /// The length of a step of the trend, in whole seconds; one that reads well if not given.
        #[param(inline)]
        step: Option<Took>,
        /// How many groups at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
        /// Where the page begins: `next` of the page before, asked for with the same filter.
        #[param(inline)]
        cursor: Option<Cursor>,
    }
}

/// Failing traces grouped by what they have in common, the largest group first.
#[utoipa::path(get, path = "/api/v1/errors/groups", tag = "errors", params(FindGroups),
    responses((status = 200, description = "Groups of failing traces", body = ErrorGroups), Problems))]
async fn error_groups(
    Asking(service): Asking,
    Query(query): Query<FindGroups>,
) -> Result<Answer<ErrorGroups>, Problem> {
    let request = ErrorGroupsRequest {
        range: query.range()?,
        service: query.service.as_ref().map(|name| name.0.clone()),
        new_since: query.new_since.map(|time| time.0),
        only_new: query.only_new.0,
        step: query.step.map(|took| took.0),
        limit: query.limit.0,
        after: query.cursor.as_ref().map(|cursor| cursor.0.clone()),
    };
    Ok(Answer::until(query.ends(), service.error_groups(&request).await?))
}

ranged! {
    /// Which errors.
    pub(crate) struct FindErrors {
        /// What the message or the type of the error is like, in either case: `%` is any text, `_` any character, `\\` goes
        /// before a character that stands for itself. Without `%` and `_` a part of it.
        #[param(inline)]
        pattern: PatternText,
        /// Traces in which this service took part.
        #[param(inline)]
        service: Option<Name>,
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
        /// Where the page begins: `next` of the page before, asked for with the same filter.
        #[param(inline)]
        cursor: Option<Cursor>,
    }
}

/// Traces by the error that their failure came from, those that began last first.
#[utoipa::path(get, path = "/api/v1/errors", tag = "errors", params(FindErrors),
    responses((status = 200, description = "Traces with such an error", body = TracePage), Problems))]
async fn errors(Asking(service): Asking, Query(query): Query<FindErrors>) -> Result<Answer<TracePage>, Problem> {
    let request = ErrorTracesRequest {
        pattern: query.pattern.0.clone(),
        service: query.service.as_ref().map(|name| name.0.clone()),
        range: query.range()?,
        limit: query.limit.0,
        after: query.cursor.as_ref().map(|cursor| cursor.0.clone()),
    };
    Ok(Answer::until(query.ends(), service.get_traces_by_error(&request).await?))
}
