//! Log records by words, severity, service, trace and time.
//!
//! Where the words or templates of a partition are indexed, the index answers. Partitions that are being written to have
//! no such index: they are looked through from the newest record back, and only so far in one answer. An answer says when
//! it stopped there, and its cursor goes on. Long values are cut, and a page ends early where records are large.

mod level;
mod meaning;
mod merge;
mod patterns;
mod place;
mod template_id;
mod terms;

use jiff::Timestamp;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde::Serialize;
use serde_json::{Map, Value};

use super::argument::service_argument;
use super::range::{check_order, from_unix_nanos, micros};
use super::trace::TraceId;
use super::value::LIST_VALUE_BYTES;
use super::{QueryError, QueryService, SpanId, check_limit, cursor};
use crate::derive::trace::cut;
use crate::store::logs::{LogFilter, LogKey, LogRow, LogRows, LogWords};
use crate::store::{Micros, StoreError, Stored};

pub use level::{LEVELS, Level};
pub use meaning::{LOG_FLOOR, LogsByMeaning, NearLogTemplate};
pub use patterns::{LogPattern, LogPatterns};
pub use template_id::TemplateId;
use terms::Terms;

/// Records of a slice that is looked through at once.
const SLICE_RECORDS: i64 = 20_000;
/// Slices of one answer at most.
const SLICES: usize = 20;

/// Characters of a question at most.
const MAX_QUESTION_CHARACTERS: usize = 1000;

/// Which logs are asked for. An empty request, but for its limit, means the newest of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogsRequest {
    /// Words, `"phrases"`, `-exclusions` and `prefixes*` that a record must have, in its body, its event name or its
    /// exception. Class names, hosts and paths are found by their parts.
    pub query: Option<String>,
    /// The trace the record belongs to.
    pub trace_id: Option<TraceId>,
    /// The span the record belongs to.
    pub span_id: Option<SpanId>,
    /// The lowest severity: `trace`, `debug`, `info`, `warn`, `error` or `fatal`.
    pub level: Option<String>,
    /// The service, by its whole name.
    pub service: Option<String>,
    /// At or after this time, to the microsecond.
    pub start: Option<Timestamp>,
    /// Before this time, to the microsecond.
    pub end: Option<Timestamp>,
    /// Of these templates: see [`LogEntry::template_id`].
    pub templates: Option<Vec<TemplateId>>,
    /// How many, 1 to 1000.
    pub limit: usize,
    /// [`LogPage::next`] of the page before. Later pages are about the time of the first.
    pub cursor: Option<String>,
}

impl LogsRequest {
    fn seal(&self, times: Times, key: LogKey) -> Result<String, QueryError> {
        cursor::seal("search_logs", &self.decisive(), &times, &place::write(key))
    }

    fn open(&self) -> Result<(Times, Option<LogKey>), QueryError> {
        let asked = (self.start, self.end);
        let (times, place) = cursor::open("search_logs", &self.decisive(), asked, self.cursor.as_deref())?;
        let key = place.map(|place: String| place::read(&place)).transpose()?;
        Ok((times, key))
    }

    /// What decides about records and their order, but times.
    fn decisive(&self) -> impl Serialize + '_ {
        let who = (&self.trace_id, &self.span_id, &self.service, &self.templates);
        (&self.query, &self.level, who)
    }
}

/// Start and end, as far as they are given.
type Times = (Option<Timestamp>, Option<Timestamp>);

/// Log records, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogPage {
    /// The records; fewer than asked for where they are large.
    pub logs: Vec<LogEntry>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
    /// Set where the search stopped at a bound before it had found enough: what is older was not looked at, and `next`
    /// goes on there.
    pub searched_back_to: Option<Timestamp>,
}

/// A log record in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntry {
    /// Names the record for [`QueryService::get_log`].
    pub id: String,
    /// When it happened, or when it was observed where nobody said.
    pub time: Timestamp,
    /// Service that wrote it.
    pub service_name: String,
    /// Class of its severity; none when it came without one.
    pub level: Option<Level>,
    /// Severity number of OpenTelemetry, 0 when unknown.
    pub severity_number: i16,
    /// Severity as its source calls it, the first 4 KiB.
    pub severity_text: Option<String>,
    /// Trace it belongs to.
    pub trace_id: Option<TraceId>,
    /// Span it belongs to.
    pub span_id: Option<SpanId>,
    /// Name of the event, the first 4 KiB.
    pub event_name: Option<String>,
    /// The first 4 KiB of the body; JSON where it is no string.
    pub body: Option<String>,
    /// Whether the body is JSON and not a string.
    pub body_is_json: bool,
    /// Bytes of the whole body.
    pub body_bytes: i32,
    /// Attributes. A long value is cut to its first 4 KiB: an object with `$cut` (its beginning as text), `$type` and
    /// `$length` (bytes of the whole).
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub attributes: Map<String, Value>,
    /// Whether values of `attributes` are cut.
    pub attributes_cut: bool,
    /// The template of the body; none where an older version stored the record.
    pub template_id: Option<TemplateId>,
}

impl From<LogRow> for LogEntry {
    fn from(row: LogRow) -> Self {
        let attributes = attributes(&row);
        Self {
            id: place::write(row.key),
            time: timestamp(row.key.time, row.key.time_ns),
            level: Level::of(row.severity_number, row.severity_text.as_deref()),
            service_name: row.service_name,
            severity_number: row.severity_number,
            severity_text: row.severity_text,
            trace_id: row.trace_id.map(|id| TraceId(id.into_bytes())),
            span_id: row.span_id.map(SpanId),
            event_name: row.event_name,
            body: row.body,
            body_is_json: row.body_is_json,
            body_bytes: row.body_bytes,
            attributes,
            attributes_cut: row.attributes_cut,
            template_id: row.template_id.map(TemplateId),
        }
    }
}

/// The attributes of a row. The database cuts by characters, lists by bytes.
fn attributes(row: &LogRow) -> Map<String, Value> {
    // The database gives an object.
    let mut attributes: Map<String, Value> = serde_json::from_str(&row.attributes).unwrap_or_default();
    for value in attributes.values_mut().filter(|_| row.attributes_cut) {
        if let Some(Value::String(start)) = value.get_mut("$cut") {
            *start = cut(start, LIST_VALUE_BYTES);
        }
    }
    attributes
}

/// What a search found.
struct Found {
    page: LogRows,
    /// Where it stopped, if it did before the end.
    stopped: Option<Micros>,
}

impl QueryService {
    /// Log records by words and by what else is known of them, the newest first.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a question without words, an unknown level, an end that is not after the
    /// start, a cursor that is not one, or a limit that cannot be. [`QueryError::Unknown`] for a service of which
    /// nothing was ever stored.
    pub async fn search_logs(&self, request: &LogsRequest) -> Result<LogPage, QueryError> {
        let limit = check_limit(request.limit)?;
        let (times, after) = request.open()?;
        let range = time_range(times.0, times.1)?;
        let filter = self.log_filter(request).await?;
        let Found { page, stopped } = self.find_logs(&filter, range, after, limit).await?;
        if let (Some(service), true) = (&request.service, page.rows.is_empty()) {
            self.check_service(service).await?;
        }
        let full = page.full || page.rows.len() >= limit;
        let next = match (page.rows.last(), stopped) {
            (Some(last), _) if full => Some(last.key),
            (_, stopped) => stopped.map(LogKey::before),
        };
        let next = next.map(|key| request.seal(times, key)).transpose()?;
        let searched_back_to = stopped.filter(|_| !full).map(|time| timestamp(time, 0));
        Ok(LogPage { logs: page.rows.into_iter().map(LogEntry::from).collect(), next, searched_back_to })
    }

    /// A log record, whole, by [`LogEntry::id`].
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for what is no id, [`QueryError::NotFound`] when the record is gone.
    pub async fn get_log(&self, id: &str) -> Result<Stored<LogRecord>, QueryError> {
        let record = self.database.log_record(place::read(id)?).await?;
        record.ok_or_else(|| QueryError::NotFound { what: format!("log record {id}") })
    }

    /// How the database finds the logs of a request between its start and its end, for tests of indexes and partitions.
    #[doc(hidden)]
    pub async fn explain_logs(&self, request: &LogsRequest) -> Result<String, QueryError> {
        let range = time_range(request.start, request.end)?;
        let filter = self.log_filter(request).await?;
        Ok(self.database.explain_log_rows(&filter, range, request.limit as i64).await?)
    }

    pub(super) async fn log_filter(&self, request: &LogsRequest) -> Result<LogFilter, QueryError> {
        let words = match &request.query {
            Some(question) => Some(self.log_words(question).await?),
            None => None,
        };
        Ok(LogFilter {
            service: service_argument(request.service.as_deref())?,
            level: request.level.as_deref().map(Level::read).transpose()?.map(Level::floor),
            trace_id: request.trace_id.map(|id| uuid::Uuid::from_bytes(id.0)),
            span_id: request.span_id.clone().map(|id| id.0),
            templates: request.templates.as_ref().map(|ids| ids.iter().map(|id| id.0).collect()),
            words,
        })
    }

    async fn log_words(&self, question: &str) -> Result<LogWords, QueryError> {
        let wrong = || QueryError::InvalidArgument {
            name: "query",
            accepted: format!(
                "words, \"phrases\", -exclusions or prefixes*, with a letter or digit and {MAX_QUESTION_CHARACTERS} \
                 characters at most, without NUL"
            ),
        };
        if question.contains('\0') || question.chars().count() > MAX_QUESTION_CHARACTERS {
            return Err(wrong());
        }
        let terms = Terms::read(question);
        if terms.is_empty() {
            return Err(wrong());
        }
        let query = self.database.log_words_query(&terms.words).await?;
        if query.is_none() && terms.substrings.is_empty() {
            return Err(wrong());
        }
        Ok(LogWords { query, like: terms.like(), unlike: terms.unlike() })
    }

    /// The first `limit` records of the range that pass the filter and come after `after`.
    async fn find_logs(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        after: Option<LogKey>,
        limit: usize,
    ) -> Result<Found, StoreError> {
        // What is at the time of `after` may come after it.
        let until = after.map_or(until, |key| until.min(Micros(key.time.0.saturating_add(1))));
        let mut found = Found { page: LogRows::default(), stopped: None };
        if filter.trace_id.is_some() || !filter.looks_at_rows() {
            self.database.log_rows(filter, (from, until), after, limit, &mut found.page).await?;
            return Ok(found);
        }
        let mut slices = SLICES;
        for partition in self.database.log_partitions(from, until).await? {
            let (from, mut until) = (partition.from, partition.until);
            loop {
                let boundary = if partition.finds(filter) {
                    None
                } else if slices == 0 {
                    found.stopped = Some(until);
                    return Ok(found);
                } else {
                    self.database.nth_log_time(filter, (from, until), SLICE_RECORDS).await?
                };
                slices -= usize::from(boundary.is_some());
                let slice = (boundary.unwrap_or(from), until);
                self.database.log_rows(filter, slice, after, limit, &mut found.page).await?;
                match boundary {
                    _ if found.page.full || found.page.rows.len() >= limit => return Ok(found),
                    Some(boundary) => until = boundary,
                    None => break,
                }
            }
        }
        Ok(found)
    }
}

/// The range as the database has it.
pub(super) fn time_range(start: Option<Timestamp>, end: Option<Timestamp>) -> Result<(Micros, Micros), QueryError> {
    check_order(("start", start), ("end", end))?;
    Ok((start.map_or(Micros::from_unix_nanos(0).0, micros), end.map_or(Micros(i64::MAX), micros)))
}

fn timestamp(time: Micros, nanos: i16) -> Timestamp {
    from_unix_nanos(time.to_unix_nanos(nanos))
}
