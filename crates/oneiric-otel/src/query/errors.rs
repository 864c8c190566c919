//! Failures: traces by the error they ended with, and groups of traces that failed alike.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::argument::service_argument;
use super::pattern::Pattern;
use super::range::{TimeRange, micros, timestamp};
use super::trace::{TraceId, TraceOverview, TracePage};
use super::{QueryError, QueryService, check_limit, cursor};
use crate::store::errors::{ErrorFilter, GroupFilter, GroupRow};

/// Traces with an error are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorTracesRequest {
    /// What the error's message or its type is like, in either case: `%` is any text, `_` any character, `\\` goes before
    /// a character that stands for itself. Without `%` and `_` a part of it.
    pub pattern: String,
    /// A service that took part.
    pub service: Option<String>,
    /// When the traces began. Later pages are about the time of the first.
    pub range: TimeRange,
    /// How many traces, 1 to 1000.
    pub limit: usize,
    /// [`TracePage::next`] of the page before.
    pub after: Option<String>,
}

/// Groups of failing traces are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorGroupsRequest {
    /// When the traces began. Later pages are about the time of the first, and so is `new_since`.
    pub range: TimeRange,
    /// A service that took part.
    pub service: Option<String>,
    /// From when on a shape counts as new: no trace had it before.
    pub new_since: Option<Timestamp>,
    /// Only groups that are new; needs `new_since`.
    pub only_new: bool,
    /// The length of a step of the trend, in whole seconds; chosen if not given.
    pub step: Option<Duration>,
    /// How many groups, 1 to 1000.
    pub limit: usize,
    /// [`ErrorGroups::next`] of the page before.
    pub after: Option<String>,
}

/// Groups of failing traces, the largest first; of equally large ones that with the smaller shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorGroups {
    /// The groups.
    pub groups: Vec<ErrorGroup>,
    /// When the first step of every trend begins.
    pub start_time: Timestamp,
    /// Seconds of a step of the trends.
    pub step_seconds: u64,
    /// The cursor of the next page; none after the last. Traces that come or go between two pages change counts, and by
    /// that the order: a group may then be missing from the pages or stand on two of them.
    pub next: Option<String>,
}

/// Traces that failed alike: their description is the same text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorGroup {
    /// Names the shape, as long as its traces are kept.
    pub shape: ShapeId,
    /// The sentence that describes each of them.
    pub text: Option<String>,
    /// How many began in the time asked about.
    pub count: i64,
    /// Start of the first of them, to the microsecond.
    pub first_seen: Timestamp,
    /// Start of the last of them, to the microsecond.
    pub last_seen: Timestamp,
    /// Start of the first trace of this shape at any time, as far as traces are kept.
    pub first_ever: Timestamp,
    /// Whether no trace had this shape before `new_since`; none when that was not asked.
    pub is_new: Option<bool>,
    /// How many began in each step.
    pub trend: Vec<i64>,
    /// All services that took part in any of them, sorted.
    pub services: Vec<String>,
    /// Type of the error of the example.
    pub error_type: Option<String>,
    /// Message of the error of the example; ids and numbers in it may differ from trace to trace.
    pub error_message: Option<String>,
    /// The one that began last.
    pub example: TraceOverview,
}

/// The id of a shape: a number, written as text so that every reader of JSON keeps all of its digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^-?[0-9]+$"))]
pub struct ShapeId(pub i64);

impl std::fmt::Display for ShapeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ShapeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl QueryService {
    /// Traces by the error that their failure came from, or that their logs tell of: those that began last first.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a pattern, limit or cursor that cannot be, [`QueryError::Unknown`] for a
    /// service of which nothing is stored.
    pub async fn get_traces_by_error(&self, request: &ErrorTracesRequest) -> Result<TracePage, QueryError> {
        let pattern = Pattern::parse("pattern", &request.pattern)?;
        let limit = check_limit(request.limit)?;
        let query = (&request.pattern, &request.service);
        let (range, after): (TimeRange, _) =
            cursor::open("traces_by_error", &query, request.range, request.after.as_deref())?;
        let service = service_argument(request.service.as_deref())?;
        if let Some(service) = &request.service {
            self.check_service(service).await?;
        }
        let (start, end) = range.micros();
        let filter = ErrorFilter {
            start,
            end,
            service: service.as_deref(),
            pattern: (pattern.operator(), pattern.operand()),
            literals: pattern.literals(),
            before: after.map(|(start, id): (u64, TraceId)| (start, Uuid::from_bytes(id.0))),
        };
        // One more tells whether there is another page.
        let mut rows = self.database.traces_with_error(&filter, limit as i64 + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if more => {
                let position = (last.start_unix_nanos, TraceId(last.trace_id.into_bytes()));
                Some(cursor::seal("traces_by_error", &query, &range, &position)?)
            }
            _ => None,
        };
        Ok(TracePage { traces: rows.into_iter().map(TraceOverview::from).collect(), next })
    }

    /// Failing traces grouped by their shape.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a limit, step or cursor that cannot be, or `only_new` without `new_since`;
    /// [`QueryError::Unknown`] for a service of which nothing is stored.
    pub async fn error_groups(&self, request: &ErrorGroupsRequest) -> Result<ErrorGroups, QueryError> {
        let limit = check_limit(request.limit)?;
        let service = service_argument(request.service.as_deref())?;
        if request.only_new && request.new_since.is_none() {
            return Err(QueryError::InvalidArgument {
                name: "new_since",
                accepted: "a time, because only new groups are asked for".to_owned(),
            });
        }
        if let Some(service) = &request.service {
            self.check_service(service).await?;
        }
        let asked = (request.range, request.new_since);
        let ((range, new_since), after) =
            cursor::open("error_groups", &decisive(request), asked, request.after.as_deref())?;
        let request = &ErrorGroupsRequest { range, new_since, ..request.clone() };
        let (step, steps) = request.range.steps(request.step)?;
        let (start, end) = request.range.micros();
        let new_since = request.new_since.map(micros);
        let filter =
            GroupFilter { start, end, service: service.as_deref(), new_since: new_since.filter(|_| request.only_new) };
        let ask = async {
            // One more tells whether there is another page.
            let rows = self.database.error_groups(&filter, step.as_secs_f64(), after, limit as i64 + 1).await?;
            answer_groups(request, rows, (step, steps), limit)
        };
        self.cached("error_groups", request, request.range.end(), ask).await
    }
}

/// What decides about groups and their order, but times.
fn decisive(request: &ErrorGroupsRequest) -> impl Serialize + '_ {
    (&request.service, request.only_new, request.step)
}

fn answer_groups(
    request: &ErrorGroupsRequest,
    mut rows: Vec<GroupRow>,
    (step, steps): (Duration, usize),
    limit: usize,
) -> Result<ErrorGroups, QueryError> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = match rows.last() {
        Some(last) if more => {
            let times = (request.range, request.new_since);
            Some(cursor::seal("error_groups", &decisive(request), &times, &(last.count, last.shape))?)
        }
        _ => None,
    };
    let groups = rows.into_iter().map(|row| group(row, steps, request.new_since)).collect();
    Ok(ErrorGroups { groups, start_time: request.range.start(), step_seconds: step.as_secs(), next })
}

fn group(row: GroupRow, steps: usize, new_since: Option<Timestamp>) -> ErrorGroup {
    let mut trend = vec![0; steps];
    for (step, count) in row.trend {
        if let Some(place) = usize::try_from(step).ok().and_then(|step| trend.get_mut(step)) {
            *place = count;
        }
    }
    let example = TraceOverview::from(row.newest);
    let first_ever = timestamp(row.first_ever.map_or(row.first, |ever| ever.min(row.first)));
    ErrorGroup {
        shape: ShapeId(row.shape),
        text: example.text.clone(),
        count: row.count,
        first_seen: timestamp(row.first),
        last_seen: timestamp(row.last),
        first_ever,
        is_new: new_since.map(|since| first_ever >= since),
        trend,
        services: row.services,
        error_type: example.error_type.clone(),
        error_message: example.error_message.clone(),
        example,
    }
}
