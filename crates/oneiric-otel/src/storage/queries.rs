//! Questions, asked through the adapter. Each is the call of [`QueryService`] with the same name.

use super::OtelStorage;
use crate::otlp::Group;
use crate::query::{
    AttributeKeys, AttributeKeysRequest, AttributeValues, AttributeValuesRequest, Catalogue, ContextRequest,
    Dependencies, Detail, ErrorGroups, ErrorGroupsRequest, ErrorTracesRequest, LogPage, LogPatterns, LogsByMeaning,
    LogsRequest, MetricLabel, MetricRange, MetricsRequest, NearRequest, Operations, OperationsRequest, QueryError,
    QueryService, SearchAnswer, SearchRequest, SimilarAnswer, SimilarRequest, SpanId, SpanRecord, SpanStream,
    SqlAnswer, SqlRequest, TextHit, TimeRange, TraceContext, TraceDiff, TraceId, TraceOverview, TracePage, TraceRecord,
    TracesRequest,
};
use crate::store::Stored;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl OtelStorage {$(
            #[doc = concat!("See [`QueryService::", stringify!($name), "`].")]
            ///
            /// # Errors
            /// Those of the service, and [`QueryError::Unavailable`] before `init` and after `cleanup`.
            pub async fn $name(&self, $($argument: $type),*) -> Result<$answer, QueryError> {
                self.queries()?.$name($($argument),*).await
            }
        )*}
    };
}

calls! {
    find_similar_traces(request: &SimilarRequest) -> SimilarAnswer;
    find_traces_near(request: &NearRequest) -> Vec<TextHit>;
    search_traces(request: &SearchRequest) -> SearchAnswer;
    get_traces_by_error(request: &ErrorTracesRequest) -> TracePage;
    find_traces(request: &TracesRequest) -> TracePage;
    get_trace(trace_id: TraceId, limit: usize) -> TraceRecord;
    get_trace_otlp(trace_id: TraceId) -> (Vec<Group<Span>>, bool);
    get_trace_summary(trace_id: TraceId) -> TraceOverview;
    get_trace_context(request: &ContextRequest) -> TraceContext;
    get_span(trace_id: TraceId, span_id: &SpanId) -> Vec<SpanRecord>;
    stream_trace(trace_id: TraceId, detail: Detail) -> SpanStream;
    diff_traces(a: TraceId, b: TraceId) -> TraceDiff;
    explain_similarity(a: TraceId, b: TraceId) -> TraceDiff;
    search_logs(request: &LogsRequest) -> LogPage;
    search_logs_by_meaning(request: &LogsRequest) -> LogsByMeaning;
    log_patterns(request: &LogsRequest) -> LogPatterns;
    get_log(id: &str) -> Stored<LogRecord>;
    metric_labels(name: &str) -> Vec<MetricLabel>;
    get_metrics_by_time_range(request: &MetricsRequest) -> MetricRange;
    error_groups(request: &ErrorGroupsRequest) -> ErrorGroups;
    services(range: TimeRange) -> Catalogue;
    operations(request: &OperationsRequest) -> Operations;
    dependencies(range: TimeRange) -> Dependencies;
    attribute_keys(request: &AttributeKeysRequest) -> AttributeKeys;
    attribute_values(request: &AttributeValuesRequest) -> AttributeValues;
    custom_query(request: &SqlRequest) -> SqlAnswer;
}

impl OtelStorage {
    /// The query service of the adapter, for the calls that are not repeated here.
    ///
    /// # Errors
    /// [`QueryError::Unavailable`] before `init`, after `cleanup`, and outside of a Tokio runtime, in which connections
    /// live.
    pub fn queries(&self) -> Result<QueryService, QueryError> {
        if tokio::runtime::Handle::try_current().is_err() {
            let reason = "questions are asked within a Tokio runtime, such as that of #[tokio::main]".to_owned();
            return Err(QueryError::Unavailable { reason });
        }
        self.asked().map_err(|error| QueryError::Unavailable { reason: error.to_string() })
    }
}
