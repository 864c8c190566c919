//! Traces by id and by filter.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::filter::TraceFilter;
use super::range::from_unix_nanos;
use super::{QueryError, QueryService, check_limit, cursor};
use crate::store::search::{RowOrder, RowPosition, TraceRow};

/// The id of a trace: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{32}$"))]
pub struct TraceId(pub [u8; 16]);

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4().into_bytes())
    }
}

impl FromStr for TraceId {
    type Err = QueryError;

    /// Accepts 32 hexadecimal digits in either case, also with the hyphens of a UUID.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || QueryError::InvalidArgument {
            name: "trace_id",
            accepted: "32 hexadecimal digits, not all zero".to_owned(),
        };
        let text = text.trim();
        if text.len() != 32 && text.len() != 36 {
            return Err(wrong());
        }
        let id = Uuid::try_parse(text).map_err(|_| wrong())?;
        if id.is_nil() {
            return Err(wrong());
        }
        Ok(Self(id.into_bytes()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is known of a trace as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceOverview {
    /// Its id.
    pub trace_id: TraceId,
    /// Earliest start of a span.
    #[serde(serialize_with = "as_text")]
    pub start_time: Timestamp,
    /// Latest end - earliest start, in nanoseconds.
    pub duration_ns: i64,
    /// `error` when any span failed, else `ok` or `unset` as the root says.
    pub status: String,
    /// Service of the root.
    pub service_name: String,
    /// Name of the root.
    pub root_name: String,
    /// All services, sorted.
    pub services: Vec<String>,
    /// Spans.
    pub span_count: i32,
    /// Spans that failed.
    pub error_count: i32,
    /// Warning and error logs.
    pub log_count: i32,
    /// Whether the root has arrived.
    pub root_seen: bool,
    /// Type of the error that the failure came from.
    pub error_type: Option<String>,
    /// Its message.
    pub error_message: Option<String>,
    /// The sentence that describes the trace.
    pub text: Option<String>,
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

impl From<TraceRow> for TraceOverview {
    fn from(row: TraceRow) -> Self {
        Self {
            trace_id: TraceId(row.trace_id.into_bytes()),
            start_time: from_unix_nanos(row.start_unix_nanos),
            duration_ns: row.duration_ns,
            status: row.status,
            service_name: row.service_name,
            root_name: row.root_name,
            services: row.services,
            span_count: row.span_count,
            error_count: row.error_count,
            log_count: row.log_count,
            root_seen: row.root_seen,
            error_type: row.error_type,
            error_message: row.error_message,
            text: row.text,
        }
    }
}

/// In which order traces are listed. Of equal ones the id decides, so every order is total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TraceOrder {
    /// Those that began last first.
    #[default]
    Newest,
    /// Those that began first first.
    Oldest,
    /// Those that took longest first. All traces since [`TraceFilter::since`], which it needs, are compared.
    Longest,
}

impl FromStr for TraceOrder {
    type Err = QueryError;

    /// Accepts `newest`, `oldest` and `longest`.
    fn from_str(text: &str) -> Result<Self, QueryError> {
        match text {
            "newest" => Ok(Self::Newest),
            "oldest" => Ok(Self::Oldest),
            "longest" => Ok(Self::Longest),
            _ => Err(QueryError::InvalidArgument { name: "order", accepted: "newest, oldest or longest".to_owned() }),
        }
    }
}

/// A page of traces is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesRequest {
    /// Which. Later pages are about the time of the first.
    pub filter: TraceFilter,
    /// In which order.
    pub order: TraceOrder,
    /// How many, 1 to 1000.
    pub limit: usize,
    /// [`TracePage::next`] of the page before, from a request with the same filter and order.
    pub cursor: Option<String>,
}

impl TracesRequest {
    /// The first page of these traces, newest first.
    pub fn new(filter: TraceFilter, limit: usize) -> Self {
        Self { filter, order: TraceOrder::Newest, limit, cursor: None }
    }
}

/// Traces in the order that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TracePage {
    /// The traces.
    pub traces: Vec<TraceOverview>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// What a cursor remembers of the last row: start, duration and id.
type Position = (u64, i64, TraceId);

impl QueryService {
    /// What is known of a trace as a whole.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] for a trace that is unknown or was not derived yet, which takes seconds.
    pub async fn get_trace_summary(&self, trace_id: TraceId) -> Result<TraceOverview, QueryError> {
        Ok(self.row_of(trace_id).await?.into())
    }

    pub(super) async fn row_of(&self, trace_id: TraceId) -> Result<TraceRow, QueryError> {
        let row = self.database.trace_row(Uuid::from_bytes(trace_id.0)).await?;
        row.ok_or_else(|| QueryError::NotFound { what: format!("trace {trace_id}") })
    }

    /// Traces that pass the filter, in pages. What is stored meanwhile moves no trace from one page to another; a trace
    /// that gets a late span may, if that changes its place in the order.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a limit, cursor or filter that cannot be, and for [`TraceOrder::Longest`]
    /// without a `since`; [`QueryError::Unknown`] for a service of which nothing is stored.
    pub async fn find_traces(&self, request: &TracesRequest) -> Result<TracePage, QueryError> {
        let limit = check_limit(request.limit)?;
        let order = match request.order {
            TraceOrder::Newest => RowOrder::Newest,
            TraceOrder::Oldest => RowOrder::Oldest,
            TraceOrder::Longest if request.filter.since.is_some() => RowOrder::Longest,
            TraceOrder::Longest => {
                let accepted = "a time from which on traces are compared, for the longest first".to_owned();
                return Err(QueryError::InvalidArgument { name: "since", accepted });
            }
        };
        let asked = (request.filter.since, request.filter.until);
        let query = (TraceFilter { since: None, until: None, ..request.filter.clone() }, request.order);
        let (times, position) = cursor::open("traces", &query, asked, request.cursor.as_deref())?;
        let after = position.map(|(start_unix_nanos, duration_ns, id): Position| RowPosition {
            start_unix_nanos,
            duration_ns,
            trace_id: Uuid::from_bytes(id.0),
        });
        let (since, until) = times;
        let filter = self.row_filter(&TraceFilter { since, until, ..request.filter.clone() }).await?;
        // One more than is shown tells whether there is a next page.
        let mut rows = self.database.trace_rows(&filter, order, after.as_ref(), limit as i64 + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last().filter(|_| more) {
            Some(last) => {
                let id = TraceId(last.trace_id.into_bytes());
                Some(cursor::seal("traces", &query, &times, &(last.start_unix_nanos, last.duration_ns, id))?)
            }
            None => None,
        };
        Ok(TracePage { traces: rows.into_iter().map(TraceOverview::from).collect(), next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_read_and_written_as_hex() {
        let id: TraceId = "4BF92F3577b34da6a3ce929d0e0e4736".parse().expect("hex");
        assert_eq!(id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!("4bf92f35-77b3-4da6-a3ce-929d0e0e4736".parse::<TraceId>().expect("uuid"), id);
        for wrong in ["", "xyz", "4bf92f3577b34da6a3ce929d0e0e473", "00000000000000000000000000000000"] {
            let error = wrong.parse::<TraceId>().expect_err("not an id");
            assert_eq!(error.to_string(), "trace_id: expected 32 hexadecimal digits, not all zero");
        }
    }
}
