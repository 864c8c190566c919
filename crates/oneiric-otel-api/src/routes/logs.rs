//! Log records by words and by what else is known of them.

use oneiric_otel::otlp::{Group, json};
use oneiric_otel::query::{Level, LogPage, LogPatterns, LogsByMeaning, LogsRequest};
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::openapi::{Problems, ProblemsOfOne};
use crate::parameters::{
    Cursor, LevelName, Limit, Meant, Name, Nothing, OneInPath, Query, Question, SpanIdText, TemplateIdText, Time,
    TraceIdText,
};
use crate::problem::{Problem, ProblemType};

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new()
        .routes(routes!(search_logs))
        .routes(routes!(get_log))
        .routes(routes!(log_patterns))
        .routes(routes!(search_by_meaning))
}

/// Defines the parameters of a question about log records: those of the filter, and its own.
macro_rules! of_logs {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct $name {
            $($(#[$field_about])* $field: $kind,)*
            /// Records of this trace.
            #[param(value_type = Option<String>, pattern = "^[0-9a-f]{32}$")]
            trace_id: Option<TraceIdText>,
            /// Records of this span.
            #[param(value_type = Option<String>, pattern = "^[0-9a-f]{16}$")]
            span_id: Option<SpanIdText>,
            /// The lowest severity.
            #[param(inline, value_type = Option<Level>)]
            level: Option<LevelName>,
            /// Records of this service.
            #[param(inline)]
            service: Option<Name>,
            /// Records of these templates: ids that a pattern has.
            #[serde(default)]
            #[param(inline, style = Form, explode, required = false)]
            template: Vec<TemplateIdText>,
            /// From this time on, to the microsecond.
            #[param(inline)]
            since: Option<Time>,
            /// Before this time, to the microsecond.
            #[param(inline)]
            until: Option<Time>,
        }

        impl $name {
            fn request(&self, query: Option<&str>, limit: Limit, cursor: Option<&Cursor>) -> LogsRequest {
                let templates: Vec<_> = self.template.iter().map(|id| id.0).collect();
                LogsRequest {
                    query: query.map(str::to_owned),
                    trace_id: self.trace_id.map(|id| id.0),
                    span_id: self.span_id.as_ref().map(|id| id.0.clone()),
                    level: self.level.map(|level| level.0.as_str().to_owned()),
                    service: self.service.as_ref().map(|name| name.0.clone()),
                    start: self.since.map(|time| time.0),
                    end: self.until.map(|time| time.0),
                    templates: (!templates.is_empty()).then_some(templates),
                    limit: limit.0,
                    cursor: cursor.map(|cursor| cursor.0.clone()),
                }
            }
        }
    };
}

of_logs! {
    /// Which log records.
    pub(crate) struct FindLogs {
        /// Words, `"phrases"`, `-exclusions` and `prefixes*` that a record must have.
        #[param(inline)]
        query: Option<Question>,
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
        /// Where the page begins: `next` of the page before, asked for with the same filter.
        #[param(inline)]
        cursor: Option<Cursor>,
    }
}

of_logs! {
    /// The patterns of which log records.
    pub(crate) struct FindPatterns {
        /// Words, `"phrases"`, `-exclusions` and `prefixes*` that a record must have.
        #[param(inline)]
        query: Option<Question>,
        /// How many patterns at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
    }
}

of_logs! {
    /// What log records mean, and which of them count.
    pub(crate) struct FindMeaning {
        /// What the records say, in words of your own.
        #[param(inline)]
        text: Meant,
        /// How many records at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
    }
}

/// Log records by what they mean: the templates that are near a description, and their records. Later pages are those of
/// `/api/v1/logs`, with the answer's template ids as `template` in their order, its `page.next` as `cursor` and the same
/// filter.
#[utoipa::path(get, path = "/api/v1/logs/search", tag = "logs", params(FindMeaning),
    responses((status = 200, description = "Templates and records", body = LogsByMeaning), Problems))]
async fn search_by_meaning(
    Asking(service): Asking,
    Query(query): Query<FindMeaning>,
) -> Result<Answer<LogsByMeaning>, Problem> {
    let request = query.request(Some(&query.text.0), query.limit, None);
    Ok(Answer::until(request.end, service.search_logs_by_meaning(&request).await?))
}

/// The patterns of log records, the most frequent first: what they say without what varies. Without `until` those until
/// now. Without `since` those of a day, and only of its newest 500,000 records, of `service` or of all, among which those
/// count too that do not fit the other filters; the answer says from when on (`start`, `start_is_bound`). `trace_id` and
/// `template` are looked for in the whole day.
#[utoipa::path(get, path = "/api/v1/logs/patterns", tag = "logs", params(FindPatterns),
    responses((status = 200, description = "The patterns", body = LogPatterns), Problems))]
async fn log_patterns(
    Asking(service): Asking,
    Query(query): Query<FindPatterns>,
) -> Result<Answer<LogPatterns>, Problem> {
    let words = query.query.as_ref().map(|question| question.0.as_str());
    let request = query.request(words, query.limit, None);
    Ok(Answer::until(request.end, service.log_patterns(&request).await?))
}

/// Log records, the newest first.
#[utoipa::path(get, path = "/api/v1/logs", tag = "logs", params(FindLogs),
    responses((status = 200, description = "Log records", body = LogPage), Problems))]
async fn search_logs(Asking(service): Asking, Query(query): Query<FindLogs>) -> Result<Answer<LogPage>, Problem> {
    let words = query.query.as_ref().map(|question| question.0.as_str());
    let request = query.request(words, query.limit, query.cursor.as_ref());
    Ok(Answer::until(request.end, service.search_logs(&request).await?))
}

/// A log record, whole, as an `ExportLogsServiceRequest` in OTLP/JSON.
#[utoipa::path(get, path = "/api/v1/logs/{id}", tag = "logs",
    params(("id" = String, Path, description = "`id` of the record in a list")),
    responses((status = 200, description = "The record", body = Object), ProblemsOfOne))]
async fn get_log(
    Asking(service): Asking,
    OneInPath(id): OneInPath,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Answer<Box<RawValue>>, Problem> {
    let stored = service.get_log(&id).await?;
    let request =
        json::encode(&[Group { resource: stored.resource, scope: stored.scope, records: vec![stored.record] }]);
    let text = String::from_utf8(request).ok().and_then(|text| RawValue::from_string(text).ok());
    let record = text.ok_or_else(|| Problem::new(ProblemType::Internal, "the record has no JSON form"))?;
    Ok(Answer::now(record))
}
