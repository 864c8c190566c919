//! Spans across traces.

use oneiric_otel::query::{SpanFilter, SpanPage, SpansRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::openapi::Problems;
use crate::parameters::{Attribute, Cursor, Limit, Name, Query, Status, Took, ranged};
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new().routes(routes!(find_spans))
}

ranged! {
    /// Which spans to list.
    pub(crate) struct FindSpans {
        /// Spans of this service.
        #[param(inline)]
        service: Option<Name>,
        /// Spans of this name.
        #[param(inline)]
        operation: Option<Name>,
        /// Spans that ended so.
        #[param(inline)]
        status: Option<Status>,
        /// Spans that took at least this long.
        #[param(inline)]
        min_duration: Option<Took>,
        /// Spans that took at most this long.
        #[param(inline)]
        max_duration: Option<Took>,
        /// Spans that have such an attribute, or whose resource has; all that are given must be met.
        #[serde(default)]
        #[param(inline, style = Form, explode, required = false)]
        attribute: Vec<Attribute>,
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
        /// Where the page begins: `next` of the page before, asked for with the same filter.
        #[param(inline)]
        cursor: Option<Cursor>,
    }
}

/// Spans that pass a filter, whatever traces they are of, those that began last first.
#[utoipa::path(get, path = "/api/v1/spans", tag = "traces", params(FindSpans),
    responses((status = 200, description = "Spans", body = SpanPage), Problems))]
async fn find_spans(Asking(service): Asking, Query(query): Query<FindSpans>) -> Result<Answer<SpanPage>, Problem> {
    let request = SpansRequest {
        filter: SpanFilter {
            service: query.service.as_ref().map(|name| name.0.clone()),
            operation: query.operation.as_ref().map(|name| name.0.clone()),
            status: query.status.map(|status| status.as_str().to_owned()),
            min_duration: query.min_duration.map(|took| took.0),
            max_duration: query.max_duration.map(|took| took.0),
            attributes: query.attribute.iter().map(|attribute| attribute.0.clone()).collect(),
        },
        range: query.range()?,
        limit: query.limit.0,
        cursor: query.cursor.as_ref().map(|cursor| cursor.0.clone()),
    };
    Ok(Answer::until(query.ends(), service.find_spans(&request).await?))
}
