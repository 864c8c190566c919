//! Questions about what is stored. The command line and the HTTP interface are thin doors to it.
//!
//! Promises: a wrong argument is an error that names it and says what is accepted; what is not there is "not found" and
//! no empty success; a part that is missing (pgvector, a model, a vector) is said, never papered over. Scores are shown
//! as what they are: a cosine is a cosine.

#[cfg_attr(not(test), allow(dead_code, reason = "its first callers come with attribute filters and error search"))]
mod pattern;
mod search;
mod similar;
mod trace;
pub(crate) mod words;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::embed::{EmbedError, Embedder};
use crate::store::search::{RowFilter, TextStatistics};
use crate::store::{Database, StoreError};

pub use search::{SEARCH_FLOOR, SearchAnswer, SearchRequest, TextHit};
pub use similar::{SIMILARITY_THRESHOLD, SimilarAnswer, SimilarRequest};
pub use trace::{TraceFilter, TraceId, TraceOverview, TracePage, TracesRequest};

/// Hits of one answer at most.
const MAX_LIMIT: usize = 1000;

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
    /// The database did not answer.
    #[error("database: {0}")]
    Store(StoreError),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        if error.is_too_long() { Self::TooLong } else { Self::Store(error) }
    }
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
    statistics: Arc<Mutex<Option<(Instant, TextStatistics)>>>,
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
        Self { database, embedder, statistics: Arc::new(Mutex::new(None)) }
    }
}

fn check_limit(limit: usize) -> Result<usize, QueryError> {
    if limit == 0 || limit > MAX_LIMIT {
        return Err(QueryError::InvalidArgument { name: "limit", accepted: format!("a number from 1 to {MAX_LIMIT}") });
    }
    Ok(limit)
}

/// The filter as the store wants it.
fn row_filter(filter: &TraceFilter) -> Result<RowFilter, QueryError> {
    let nanos = |time: jiff::Timestamp| u64::try_from(time.as_nanosecond().max(0)).unwrap_or(u64::MAX);
    if let (Some(since), Some(until)) = (filter.since, filter.until)
        && until <= since
    {
        return Err(QueryError::InvalidArgument { name: "until", accepted: "a time after since".to_owned() });
    }
    if let Some(status) = &filter.status
        && !["error", "ok", "unset"].contains(&status.as_str())
    {
        return Err(QueryError::InvalidArgument { name: "status", accepted: "error, ok or unset".to_owned() });
    }
    let duration = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    if let (Some(min), Some(max)) = (filter.min_duration, filter.max_duration)
        && max < min
    {
        return Err(QueryError::InvalidArgument {
            name: "max_duration",
            accepted: "a duration not below min_duration".to_owned(),
        });
    }
    Ok(RowFilter {
        since_unix_nanos: filter.since.map(nanos),
        until_unix_nanos: filter.until.map(nanos),
        service: filter.service.clone(),
        operation: filter.operation.clone(),
        status: filter.status.clone(),
        min_duration_ns: filter.min_duration.map(duration),
        max_duration_ns: filter.max_duration.map(duration),
        except: None,
    })
}
