//! Spans across traces: by service, operation, status, duration, attributes and time, in pages.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::filter::{AttributeFilter, TraceFilter};
use super::range::TimeRange;
use super::spans::{Renderer, SpanRecord};
use super::trace::TraceId;
use super::value::Detail;
use super::{QueryError, QueryService, check_limit, cursor};
use crate::store::Stored;
use crate::store::span_list::{SpanPlace, SpanRows};

/// Which spans are meant. An empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpanFilter {
    /// The service that sent it.
    pub service: Option<String>,
    /// Its name.
    pub operation: Option<String>,
    /// `error`, `ok` or `unset`.
    pub status: Option<String>,
    /// It took at least this long.
    pub min_duration: Option<Duration>,
    /// It took at most this long.
    pub max_duration: Option<Duration>,
    /// Each is met by the span or its resource.
    pub attributes: Vec<AttributeFilter>,
}

/// A page of spans is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpansRequest {
    /// Which.
    pub filter: SpanFilter,
    /// When they began. Later pages are about the time of the first.
    pub range: TimeRange,
    /// How many, 1 to 1000.
    pub limit: usize,
    /// [`SpanPage::next`] of the page before, from a request with the same filter.
    pub cursor: Option<String>,
}

/// Spans, those that began last first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SpanPage {
    /// The spans, long values cut; fewer than asked for where they are large.
    pub spans: Vec<SpanRecord>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// What a cursor remembers of the last span: start, trace and hash.
type Position = (u64, TraceId, i64);

impl QueryService {
    /// Spans that pass the filter, whatever traces they are of, in pages. Each is in one page once; what is stored meanwhile
    /// moves none.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a limit, cursor or filter that cannot be, [`QueryError::Unknown`] for a service of
    /// which nothing is stored.
    pub async fn find_spans(&self, request: &SpansRequest) -> Result<SpanPage, QueryError> {
        let limit = check_limit(request.limit)?;
        let asked = &request.filter;
        let (range, position): (TimeRange, Option<Position>) =
            cursor::open("spans", asked, request.range, request.cursor.as_deref())?;
        // What a trace's filter asks of the trace is asked of the span here; it is checked in the same way.
        let checked = self
            .row_filter(&TraceFilter {
                since: None,
                until: None,
                service: asked.service.clone(),
                operation: asked.operation.clone(),
                status: asked.status.clone(),
                min_duration: asked.min_duration,
                max_duration: asked.max_duration,
                attributes: asked.attributes.clone(),
            })
            .await?;
        let (start, end) = range.micros();
        let rows = SpanRows {
            start,
            end,
            service: asked.service.as_deref(),
            name: asked.operation.as_deref(),
            status: asked.status.as_deref(),
            min_duration_ns: checked.min_duration_ns,
            max_duration_ns: checked.max_duration_ns,
            attributes: &checked.attributes,
            after: position.map(|(start_unix_nanos, trace_id, hash)| SpanPlace {
                start_unix_nanos,
                trace_id: Uuid::from_bytes(trace_id.0),
                hash,
            }),
        };
        let (found, more) = self.database.span_rows(&rows, limit).await?;
        let next = match found.last().filter(|_| more) {
            Some(Stored { record: (last, _), .. }) => {
                let position: Position = (last.start_unix_nanos, TraceId(last.trace_id.into_bytes()), last.hash);
                Some(cursor::seal("spans", asked, &range, &position)?)
            }
            None => None,
        };
        let mut render = Renderer::new(Detail::List);
        let spans = found
            .into_iter()
            .map(|Stored { resource, scope, record: (place, record) }| {
                render.span(TraceId(place.trace_id.into_bytes()), Stored { resource, scope, record })
            })
            .collect();
        Ok(SpanPage { spans, next })
    }
}
