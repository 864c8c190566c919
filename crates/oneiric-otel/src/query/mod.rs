//! Questions about what is stored. The command line and the HTTP interface are thin doors to it.
//!
//! Promises: a wrong argument is an error that names it and says what is accepted; what is not there is "not found" and
//! no empty success; a part that is missing (pgvector, a model, a vector) is said, never papered over. Scores are shown
//! as what they are: a cosine is a cosine.

mod aim;
mod argument;
mod attributes;
mod cache;
mod catalogue;
mod context;
mod critical_path;
pub(crate) mod cursor;
mod diff;
mod errors;
mod export;
mod failure;
pub(crate) mod filter;
mod logs;
mod marks;
mod metrics;
pub(crate) mod pattern;
mod question_vectors;
mod range;
mod search;
mod served;
mod similar;
mod span_list;
mod spans;
mod sql;
mod trace;
mod value;
pub(crate) mod words;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use question_vectors::QuestionVectors;

use crate::embed::{EmbedError, Embedder, FormerModel};
use crate::store::embeddings::Scan;
use crate::store::search::RowFilter;
use crate::store::text_words::TextStatistics;
use crate::store::{Database, SqlError, SqlReader, StoreError};

pub use attributes::{
    AttributeKey, AttributeKeys, AttributeKeysRequest, AttributeValueCount, AttributeValues, AttributeValuesRequest,
};
pub use cache::CacheCounts;
pub use catalogue::{
    Catalogue, Dependencies, Dependency, Latency, Node, NodeKind, Operation, Operations, OperationsRequest, Sample,
    Service,
};
pub use context::{ContextLog, ContextPoint, ContextRequest, ContextSeries, TraceContext};
pub use critical_path::{CriticalPath, PathOperation, PathStep, critical_path};
pub use diff::{
    AttributeDiff, DiffNames, DiffSide, DiffSpan, ErrorDiff, OperationDiff, OperationSide, PathDiff, TraceDiff, diff,
};
pub use errors::{ErrorGroup, ErrorGroups, ErrorGroupsRequest, ErrorTracesRequest, ShapeId};
pub use export::{Export, ExportPart, ExportRequest};
pub use failure::{FailedSpan, TraceFailure, failure};
pub use filter::{AttributeFilter, AttributeOperator, TraceFilter};
pub use logs::{
    LEVELS, LOG_FLOOR, Level, LogEntry, LogPage, LogPattern, LogPatterns, LogsByMeaning, LogsRequest, NearLogTemplate,
    TemplateId,
};
pub use marks::{ExactMatch, MatchPlace};
pub(crate) use metrics::roll_up;
pub use metrics::{
    Aggregation, MAX_STEPS, MetricLabel, MetricOverview, MetricPoint, MetricRange, MetricSeries, MetricsRequest,
};
pub use question_vectors::QuestionVectorCounts;
pub use range::{TimeRange, recent_now};
pub use search::{SEARCH_FLOOR, SearchAnswer, SearchMode, SearchRequest, TextHit};
pub use similar::{NearRequest, SIMILARITY_THRESHOLD, SimilarAnswer, SimilarRequest};
pub use span_list::{SpanFilter, SpanPage, SpansRequest};
pub use spans::{
    EventRecord, LinkRecord, MAX_TRACE_SPANS, Moment, ResourceRecord, ScopeRecord, SpanId, SpanRecord, SpanStream,
    StatusRecord, TraceRecord,
};
pub use sql::{SQL_BYTES, SQL_ROWS, SQL_TIME, SqlAnswer, SqlRequest};
pub use trace::{TraceId, TraceOrder, TraceOverview, TracePage, TracesRequest};
pub use value::{AttributeValue, Attributes, Detail, LIST_VALUE_BYTES};

/// Hits of one answer at most.
const MAX_LIMIT: usize = 1000;

/// Known names that are shown for an unknown one.
const NEAR_NAMES: usize = 5;
/// Services that an unknown name is compared to at most.
const MAX_SERVICES_COMPARED: i64 = 5000;

/// Why a question was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// An argument is not of the accepted form.
    #[error("{name}: expected {accepted}")]
    InvalidArgument {
        /// The argument.
        name: &'static str,
        /// What it must be.
        accepted: String,
    },
    /// What was asked for is not there.
    #[error("{what} was not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// A name that nothing stored has, such as that of a service.
    #[error("{name}: {value:?} is not known{}", near_names(near))]
    Unknown {
        /// The argument.
        name: &'static str,
        /// What it was.
        value: String,
        /// Known names that are like it, nearest first.
        near: Vec<String>,
    },
    /// The answer needs something that this installation lacks, or lacks for now.
    #[error("{reason}")]
    Unavailable {
        /// What is missing and what to do.
        reason: String,
    },
    /// A statement took too long and was given up; the database goes on with other things.
    #[error(
        "the question took too long and was given up: narrow it, with a shorter time range, a service, or a smaller limit"
    )]
    TooLong,
    /// An answer that is read as it comes was ended, because nobody read on.
    #[error("{reason}; ask again, and read faster or less")]
    NotTaken {
        /// For how long nobody read.
        reason: String,
    },
    /// PostgreSQL refused a statement of the user's, or gave it up.
    #[error("{0}")]
    Sql(Box<SqlError>),
    /// The database did not answer.
    #[error("database: {0}")]
    Store(StoreError),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        if error.is_too_long() {
            Self::TooLong
        } else if error.is_not_taken() {
            Self::NotTaken { reason: error.to_string() }
        } else {
            Self::Store(error)
        }
    }
}

fn near_names(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; there is {}", near.join(", ")) }
}

impl From<EmbedError> for QueryError {
    fn from(error: EmbedError) -> Self {
        Self::Unavailable { reason: error.to_string() }
    }
}

/// Answers questions about one database. Cheap to clone.
#[derive(Clone)]
pub struct QueryService {
    database: Database,
    embedder: Option<Arc<dyn Embedder>>,
    former: FormerModel,
    statistics: Arc<Mutex<Option<(Instant, TextStatistics)>>>,
    sql: Option<SqlReader>,
    cache: Arc<cache::Cache>,
    bypasses_cache: bool,
    vectors: Arc<QuestionVectors>,
    options: QueryOptions,
    scan: Scan,
}

/// From which similarity on something counts, and how many vectors are kept to find that out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryOptions {
    /// Of two traces, where a request does not say; 0 to 1.
    pub similarity_threshold: f64,
    /// Of a text and a question in words; 0 to 1.
    pub search_floor: f64,
    /// Vectors of questions in words that are kept, those used last; at least 1.
    pub question_vectors: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self { similarity_threshold: SIMILARITY_THRESHOLD, search_floor: SEARCH_FLOOR, question_vectors: 1000 }
    }
}

impl std::fmt::Debug for QueryService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryService")
            .field("database", &self.database)
            .field("model", &self.embedder.as_ref().map(|embedder| embedder.model()))
            .finish_non_exhaustive()
    }
}

impl QueryService {
    /// A service over `database`. Without an embedder questions are compared by words alone.
    pub fn new(database: Database, embedder: Option<Arc<dyn Embedder>>) -> Self {
        Self {
            database,
            embedder,
            former: FormerModel::default(),
            statistics: Arc::default(),
            sql: None,
            cache: Arc::default(),
            bypasses_cache: false,
            vectors: Arc::new(QuestionVectors::new(QueryOptions::default().question_vectors)),
            options: QueryOptions::default(),
            scan: Scan::Index,
        }
    }

    /// The same service with other options.
    #[must_use]
    pub fn with_options(self, options: QueryOptions) -> Self {
        Self { vectors: Arc::new(QuestionVectors::new(options.question_vectors)), options, ..self }
    }

    /// From which similarity on something counts.
    pub fn options(&self) -> QueryOptions {
        self.options
    }

    /// The same service without the index on vectors: every vector is compared. For measurements of what the index misses.
    #[must_use]
    pub fn comparing_every_vector(self) -> Self {
        Self { scan: Scan::Everything, ..self }
    }

    /// The same service with a model, for when one has been loaded. What it keeps stays.
    #[must_use]
    pub fn with_embedder(self, embedder: Arc<dyn Embedder>) -> Self {
        Self { embedder: Some(embedder), ..self }
    }

    /// The same service with another way to a model that answers until the service's own is complete.
    #[must_use]
    pub fn with_former(self, former: FormerModel) -> Self {
        Self { former, ..self }
    }

    /// The filter as the store wants it.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for one that nothing can pass, [`QueryError::Unknown`] for a service of which
    /// nothing is stored.
    pub(crate) async fn row_filter(&self, filter: &TraceFilter) -> Result<RowFilter, QueryError> {
        let mut row_filter = filter::row_filter(filter)?;
        if let Some(service) = &filter.service {
            self.check_service(service).await?;
        }
        self.database.resolve_resources(&mut row_filter.attributes).await?;
        Ok(row_filter)
    }

    /// Refuses a service of which nothing is stored.
    ///
    /// # Errors
    /// [`QueryError::Unknown`], with the names that are nearest.
    pub(crate) async fn check_service(&self, service: &str) -> Result<(), QueryError> {
        if self.database.knows_service(service).await? {
            return Ok(());
        }
        let known = self.database.service_names(MAX_SERVICES_COMPARED).await?;
        Err(QueryError::Unknown { name: "service", value: service.to_owned(), near: nearest(service, known) })
    }
}

/// The names that are most like the given one, nearest first.
fn nearest(name: &str, mut known: Vec<String>) -> Vec<String> {
    let wanted = name.to_lowercase();
    // A part of a name is near whatever the rest of it is.
    let likeness = |known: &String| {
        let known = known.to_lowercase();
        let contains = known.contains(&wanted) || wanted.contains(&known);
        strsim::jaro_winkler(&known, &wanted) + f64::from(u8::from(contains))
    };
    known.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)).then_with(|| a.cmp(b)));
    known.truncate(NEAR_NAMES);
    known
}

fn check_limit(limit: usize) -> Result<usize, QueryError> {
    if limit == 0 || limit > MAX_LIMIT {
        return Err(QueryError::InvalidArgument { name: "limit", accepted: format!("a number from 1 to {MAX_LIMIT}") });
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_those_that_contain_it_then_those_that_look_like_it() {
        let known = ["cart", "checkout", "payment", "payments-eu", "frontend", "search"].map(str::to_owned).to_vec();
        assert_eq!(nearest("Payment", known.clone())[..2], ["payment", "payments-eu"]);
        assert_eq!(nearest("chekout", known.clone())[0], "checkout");
        assert_eq!(nearest("x", known).len(), NEAR_NAMES);
        assert!(nearest("x", Vec::new()).is_empty());
    }
}
