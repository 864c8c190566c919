//! Traces: by filter, by meaning, by likeness, by id.

use axum::response::Response;
use oneiric_otel::query::{
    ContextRequest, Detail, NearRequest, QueryError, QueryService, SearchAnswer, SearchRequest, SimilarAnswer,
    SimilarRequest, SpanId, SpanRecord, TextHit, TraceContext, TraceDiff, TraceId, TraceOrder, TraceOverview,
    TracePage, TraceRecord, TracesRequest,
};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::{self, Answer};
use crate::asking::Asking;
use crate::body::JsonBody;
use crate::openapi::{Problems, ProblemsOfBody, ProblemsOfOne};
use crate::parameters::{
    BothInPath, Cosine, Cursor, InPath, Limit, Nothing, Query, TraceIdText, UpTo, Words, filtered,
};
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new()
        .routes(routes!(find_traces))
        .routes(routes!(get_trace))
        .routes(routes!(get_summary))
        .routes(routes!(get_span))
        .routes(routes!(get_context))
        .routes(routes!(diff))
        .routes(routes!(find_similar))
        .routes(routes!(find_near))
        .routes(routes!(search))
}

filtered! {
    /// Which traces to list.
    pub(crate) struct FindTraces {
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
        /// In which order; the longest can be had first with `since` only.
        #[serde(default)]
        #[param(inline)]
        order: TraceOrder,
        /// Where the page begins: `next` of the page before, asked for with the same filter and order.
        #[param(inline)]
        cursor: Option<Cursor>,
    }
}

/// Traces that pass a filter, in pages.
#[utoipa::path(get, path = "/api/v1/traces", tag = "traces", params(FindTraces),
    responses((status = 200, description = "Traces", body = TracePage), Problems))]
async fn find_traces(Asking(service): Asking, Query(query): Query<FindTraces>) -> Result<Answer<TracePage>, Problem> {
    let request = TracesRequest {
        filter: query.filter(),
        order: query.order,
        limit: query.limit.0,
        cursor: query.cursor.as_ref().map(|cursor| cursor.0.clone()),
    };
    Ok(Answer::until(query.ends(), service.find_traces(&request).await?))
}

/// How much of long values is shown.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Values {
    /// Their first 4 KiB, and their length.
    #[default]
    Cut,
    /// All of them.
    Whole,
}

/// How a trace is shown.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetTrace {
    /// How much of long values is shown.
    #[serde(default)]
    #[param(inline)]
    values: Values,
}

/// A trace with all its spans, however many, in order of their start.
#[utoipa::path(get, path = "/api/v1/traces/{trace_id}", tag = "traces",
    params(("trace_id" = TraceId, Path, description = "32 hexadecimal digits"), GetTrace),
    responses((status = 200, description = "The trace", body = TraceRecord), ProblemsOfOne))]
async fn get_trace(
    Asking(service): Asking,
    InPath(trace_id): InPath<TraceId>,
    Query(query): Query<GetTrace>,
) -> Result<Response, Problem> {
    let detail = match query.values {
        Values::Cut => Detail::List,
        Values::Whole => Detail::Whole,
    };
    let spans = service.stream_trace(trace_id, detail).await?;
    let overview = match service.get_trace_summary(trace_id).await {
        Ok(overview) => Some(overview),
        Err(QueryError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let head = Head { trace_id, overview, spans_cut: false };
    Ok(answer::stream(&head, "spans", spans))
}

/// A [`TraceRecord`] without its spans.
#[derive(Serialize)]
struct Head {
    trace_id: TraceId,
    overview: Option<TraceOverview>,
    spans_cut: bool,
}

/// How much of the context of a trace is shown.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HowMuch {
    /// Spans at most.
    #[param(value_type = Option<u32>, maximum = 10_000, default = 1000)]
    spans: Option<UpTo<10_000>>,
    /// Log records at most.
    #[param(value_type = Option<u32>, maximum = 10_000, default = 1000)]
    logs: Option<UpTo<10_000>>,
    /// Series of metrics at most.
    #[param(value_type = Option<u32>, maximum = 1000, default = 100)]
    series: Option<UpTo<1000>>,
}

/// A trace with its logs, the metrics of its services while it ran, its critical path and its failure.
#[utoipa::path(get, path = "/api/v1/traces/{trace_id}/context", tag = "traces",
    params(("trace_id" = TraceId, Path, description = "32 hexadecimal digits"), HowMuch),
    responses((status = 200, description = "The trace and what belongs to it", body = TraceContext), ProblemsOfOne))]
async fn get_context(
    Asking(service): Asking,
    InPath(trace_id): InPath<TraceId>,
    Query(query): Query<HowMuch>,
) -> Result<Answer<TraceContext>, Problem> {
    let usual = ContextRequest::new(trace_id);
    let request = ContextRequest {
        spans: query.spans.map_or(usual.spans, |most| most.0),
        logs: query.logs.map_or(usual.logs, |most| most.0),
        series: query.series.map_or(usual.series, |most| most.0),
        ..usual
    };
    Ok(Answer::now(service.get_trace_context(&request).await?))
}

/// Which traces are compared.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TwoTraces {
    /// One trace.
    #[param(value_type = String, pattern = "^[0-9a-f]{32}$")]
    a: TraceIdText,
    /// The other.
    #[param(value_type = String, pattern = "^[0-9a-f]{32}$")]
    b: TraceIdText,
}

/// In what two traces agree and in what they differ.
#[utoipa::path(get, path = "/api/v1/diff", tag = "traces", params(TwoTraces),
    responses((status = 200, description = "The traces side by side", body = TraceDiff), ProblemsOfOne))]
async fn diff(Asking(service): Asking, Query(query): Query<TwoTraces>) -> Result<Answer<TraceDiff>, Problem> {
    Ok(Answer::now(service.diff_traces(query.a.0, query.b.0).await?))
}

/// What is known of a trace as a whole.
#[utoipa::path(get, path = "/api/v1/traces/{trace_id}/summary", tag = "traces",
    params(("trace_id" = TraceId, Path, description = "32 hexadecimal digits")),
    responses((status = 200, description = "The trace as a whole", body = TraceOverview), ProblemsOfOne))]
async fn get_summary(
    Asking(service): Asking,
    InPath(trace_id): InPath<TraceId>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Answer<TraceOverview>, Problem> {
    Ok(Answer::now(service.get_trace_summary(trace_id).await?))
}

/// The spans of a trace with one id, whole: there are several when different spans were sent with it.
#[utoipa::path(get, path = "/api/v1/traces/{trace_id}/spans/{span_id}", tag = "traces",
    params(
        ("trace_id" = TraceId, Path, description = "32 hexadecimal digits"),
        ("span_id" = String, Path, description = "16 hexadecimal digits", pattern = "^[0-9a-f]{16}$"),
    ),
    responses((status = 200, description = "The spans", body = Vec<SpanRecord>), ProblemsOfOne))]
async fn get_span(
    Asking(service): Asking,
    BothInPath(trace_id, span_id): BothInPath<TraceId, SpanId>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Answer<Vec<SpanRecord>>, Problem> {
    Ok(Answer::now(service.get_span(trace_id, &span_id).await?))
}

filtered! {
    /// What is like a trace.
    pub(crate) struct FindSimilar {
        /// The least cosine similarity that counts. If it is not given, that of the server's settings, which is 0.85
        /// unless somebody changed it.
        #[param(inline)]
        threshold: Option<Cosine>,
        /// How many at most.
        #[serde(default = "Limit::few")]
        #[param(inline, default = 10)]
        limit: Limit,
    }
}

impl FindSimilar {
    fn threshold(&self, service: &QueryService) -> f64 {
        self.threshold.map_or(service.options().similarity_threshold, |threshold| threshold.0)
    }
}

/// Traces like this one, grouped by what they have in common, nearest first.
#[utoipa::path(get, path = "/api/v1/traces/{trace_id}/similar", tag = "traces",
    params(("trace_id" = TraceId, Path, description = "32 hexadecimal digits"), FindSimilar),
    responses((status = 200, description = "Traces like it", body = SimilarAnswer), ProblemsOfOne))]
async fn find_similar(
    Asking(service): Asking,
    InPath(trace_id): InPath<TraceId>,
    Query(query): Query<FindSimilar>,
) -> Result<Answer<SimilarAnswer>, Problem> {
    let threshold = query.threshold(&service);
    let request = SimilarRequest { trace_id, threshold, limit: query.limit.0, filter: query.filter() };
    Ok(Answer::now(service.find_similar_traces(&request).await?))
}

/// Traces with a text near an embedding.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NearAnswer {
    /// What was found, nearest first.
    hits: Vec<TextHit>,
}

/// Traces with a text near an embedding, grouped by what they have in common, nearest first. The body is the embedding: as
/// many numbers as the model has dimensions, of the model that the server embeds with. Its length does not matter.
#[utoipa::path(post, path = "/api/v1/similar", tag = "traces", params(FindSimilar), request_body = Vec<f32>,
    responses((status = 200, description = "Traces near it", body = NearAnswer), ProblemsOfBody))]
async fn find_near(
    Asking(service): Asking,
    Query(query): Query<FindSimilar>,
    JsonBody(embedding): JsonBody<Vec<f32>>,
) -> Result<Answer<NearAnswer>, Problem> {
    let threshold = query.threshold(&service);
    let request = NearRequest { embedding, threshold, limit: query.limit.0, filter: query.filter() };
    Ok(Answer::now(NearAnswer { hits: service.find_traces_near(&request).await? }))
}

filtered! {
    /// A description of what is looked for.
    pub(crate) struct Search {
        /// What to look for, in words.
        #[param(inline)]
        text: Words,
        /// How many at most.
        #[serde(default = "Limit::few")]
        #[param(inline, default = 10)]
        limit: Limit,
    }
}

/// Traces by a description in words, grouped by what they have in common, best first.
#[utoipa::path(get, path = "/api/v1/search", tag = "traces", params(Search),
    responses((status = 200, description = "What fits the description", body = SearchAnswer), Problems))]
async fn search(Asking(service): Asking, Query(query): Query<Search>) -> Result<Answer<SearchAnswer>, Problem> {
    let request = SearchRequest { text: query.text.0.clone(), limit: query.limit.0, filter: query.filter() };
    Ok(Answer::until(query.ends(), service.search_traces(&request).await?))
}
