//! Traces span by span: as records that people and programs read, and as the OTLP that came.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::range::from_unix_nanos;
use super::trace::{TraceId, TraceOverview};
use super::value::{AttributeValue, Attributes, Detail};
use super::{QueryError, QueryService};
use crate::otlp::view::SpanView;
use crate::otlp::{Group, ResourceEnvelope, ScopeEnvelope};
use crate::store::rows::span::{error_of, kind_name, status_name};
use crate::store::{Stored, service_name};

/// Spans of a trace that are read at once at most; [`QueryService::stream_trace`] has no such bound.
pub const MAX_TRACE_SPANS: usize = 100_000;

/// Bytes of rows of a trace that are read at once at most.
const MAX_TRACE_BYTES: usize = 128 << 20;

/// The id of a span as it came: 16 hexadecimal digits. An odd id of a parent or link has more or fewer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^([0-9a-f]{2})*$"))]
pub struct SpanId(pub Vec<u8>);

impl std::str::FromStr for SpanId {
    type Err = QueryError;

    /// Accepts 16 hexadecimal digits in either case.
    fn from_str(text: &str) -> Result<Self, QueryError> {
        let id = hex::decode(text.trim()).ok().filter(|id| id.len() == 8 && id.iter().any(|byte| *byte != 0));
        id.map(Self).ok_or_else(|| QueryError::InvalidArgument {
            name: "span_id",
            accepted: "16 hexadecimal digits, not all zero".to_owned(),
        })
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpanId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl SpanId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random::<[u8; 8]>().map(|byte| byte.max(1)).to_vec())
    }
}

/// A moment to the nanosecond, as RFC 3339 with nine digits in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
pub struct Moment(pub u64);

impl Moment {
    /// The time of the system's clock.
    pub fn now() -> Self {
        std::time::SystemTime::now().into()
    }

    /// As a timestamp.
    pub fn timestamp(self) -> Timestamp {
        from_unix_nanos(self.0)
    }
}

impl From<std::time::SystemTime> for Moment {
    /// A time before 1970 is 1970, one after 2554 is the last that there is.
    fn from(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time: Timestamp = String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)?;
        let nanos = u64::try_from(time.as_nanosecond());
        nanos.map(Self).map_err(|_| serde::de::Error::custom("expected a time from 1970 to 2554"))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.9}", self.timestamp()))
    }
}

/// A span with whose it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SpanRecord {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// The id of the span that it was begun in; none for a root.
    pub parent_span_id: Option<SpanId>,
    /// `service.name` of the resource.
    pub service_name: String,
    /// The operation.
    pub name: AttributeValue,
    /// `internal`, `server`, `client`, `producer`, `consumer`, `unspecified`, or a number that has no name yet.
    pub kind: String,
    /// When it began.
    pub start_time: Moment,
    /// When it ended.
    pub end_time: Moment,
    /// End - start in nanoseconds; negative when the sender said so.
    pub duration_ns: i64,
    /// How it ended.
    pub status: StatusRecord,
    /// `error.type`, or the type of the last exception.
    pub error_type: Option<String>,
    /// Message of the last exception, or of the status.
    #[cfg_attr(feature = "openapi", schema(value_type = AttributeValue))]
    pub error_message: Option<AttributeValue>,
    /// Attributes.
    pub attributes: Attributes,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
    /// Events in the order in which they came.
    pub events: Vec<EventRecord>,
    /// Events that the sender left out.
    pub dropped_events_count: u32,
    /// Links to other spans.
    pub links: Vec<LinkRecord>,
    /// Links that the sender left out.
    pub dropped_links_count: u32,
    /// W3C trace state.
    pub trace_state: String,
    /// W3C trace flags and more.
    pub flags: u32,
    /// Who sent it.
    pub resource: Arc<ResourceRecord>,
    /// Which instrumentation made it.
    pub scope: Arc<ScopeRecord>,
}

/// How a span ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusRecord {
    /// `unset`, `ok`, `error`, or a number that has no name yet.
    pub code: String,
    /// What the sender said about it.
    pub message: AttributeValue,
}

/// Something that happened in a span.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventRecord {
    /// When.
    pub time: Moment,
    /// What.
    pub name: AttributeValue,
    /// Attributes.
    pub attributes: Attributes,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
}

/// Another span that a span has to do with.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkRecord {
    /// Its trace, in hexadecimal digits as it came.
    pub trace_id: String,
    /// Its id.
    pub span_id: SpanId,
    /// W3C trace state.
    pub trace_state: String,
    /// Attributes of the link.
    pub attributes: Attributes,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
    /// Flags of the link.
    pub flags: u32,
}

/// Who sent a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResourceRecord {
    /// `service.name`, or `unknown_service`.
    pub service_name: String,
    /// Attributes.
    pub attributes: Attributes,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
    /// The conventions of the attributes.
    pub schema_url: String,
}

/// Which instrumentation made a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScopeRecord {
    /// Name of the instrumentation.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Attributes.
    pub attributes: Attributes,
    /// Attributes that the sender left out.
    pub dropped_attributes_count: u32,
    /// The conventions of the attributes.
    pub schema_url: String,
}

/// A trace with its spans.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TraceRecord {
    /// The trace.
    pub trace_id: TraceId,
    /// What is known of it as a whole; none while it waits to be derived, which takes seconds.
    pub overview: Option<TraceOverview>,
    /// Its spans in order of their start.
    pub spans: Vec<SpanRecord>,
    /// Whether there are more spans than these.
    pub spans_cut: bool,
}

/// Spans of a trace in order of their start, read as they are taken.
pub type SpanStream = BoxStream<'static, Result<SpanRecord, QueryError>>;

impl QueryService {
    /// The spans of a trace one after the other, in bounded memory however many there are. Dropping the stream ends the
    /// reading.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when no span of the trace is stored.
    pub async fn stream_trace(&self, trace_id: TraceId, detail: Detail) -> Result<SpanStream, QueryError> {
        let mut render = Renderer::new(detail);
        let spans = self.stream_trace_otlp(trace_id).await?;
        Ok(spans.map_ok(move |stored| render.span(trace_id, stored)).boxed())
    }

    /// The spans of a trace as they came, bit by bit, one after the other.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when no span of the trace is stored.
    pub async fn stream_trace_otlp(
        &self,
        trace_id: TraceId,
    ) -> Result<BoxStream<'static, Result<Stored<Span>, QueryError>>, QueryError> {
        let spans = self.database.stream_trace_spans(trace_id.0).await?;
        let mut spans = spans.map_err(QueryError::from).boxed().peekable();
        if std::pin::Pin::new(&mut spans).peek().await.is_none() {
            return Err(QueryError::NotFound { what: format!("trace {trace_id}") });
        }
        Ok(spans.boxed())
    }

    /// The spans of a trace as they came, as an OTLP request has them; `otlp::json::encode` and `otlp::protobuf::encode`
    /// write it. The flag says whether there are more spans than [`MAX_TRACE_SPANS`] or 128 MiB of them.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when no span of the trace is stored.
    pub async fn get_trace_otlp(&self, trace_id: TraceId) -> Result<(Vec<Group<Span>>, bool), QueryError> {
        let (stored, cut) = self.some_spans(trace_id, MAX_TRACE_SPANS).await?;
        Ok((grouped(stored), cut))
    }

    /// A trace with its first `limit` spans (1 to [`MAX_TRACE_SPANS`], and not more than 128 MiB of them), long values cut:
    /// [`Self::get_span`] has them whole.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when no span of the trace is stored, [`QueryError::InvalidArgument`] for another limit.
    pub async fn get_trace(&self, trace_id: TraceId, limit: usize) -> Result<TraceRecord, QueryError> {
        if limit == 0 || limit > MAX_TRACE_SPANS {
            let accepted = format!("a number from 1 to {MAX_TRACE_SPANS}");
            return Err(QueryError::InvalidArgument { name: "limit", accepted });
        }
        let (stored, spans_cut) = self.some_spans(trace_id, limit).await?;
        let mut render = Renderer::new(Detail::List);
        let spans = stored.into_iter().map(|stored| render.span(trace_id, stored)).collect();
        let overview = self.overview_of(trace_id).await?;
        Ok(TraceRecord { trace_id, overview, spans, spans_cut })
    }

    /// The spans with this id, whole; there is more than one when different spans were sent with one id.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] when there is none.
    pub async fn get_span(&self, trace_id: TraceId, span_id: &SpanId) -> Result<Vec<SpanRecord>, QueryError> {
        let stored = self.database.span_by_id(trace_id.0, &span_id.0).await?;
        if stored.is_empty() {
            return Err(QueryError::NotFound { what: format!("span {span_id} of trace {trace_id}") });
        }
        let mut render = Renderer::new(Detail::Whole);
        Ok(stored.into_iter().map(|stored| render.span(trace_id, stored)).collect())
    }

    /// The first spans of a trace, and whether there are more.
    pub(super) async fn some_spans(
        &self,
        trace_id: TraceId,
        limit: usize,
    ) -> Result<(Vec<Stored<Span>>, bool), QueryError> {
        bounded(self.stream_trace_otlp(trace_id).await?, limit).await
    }

    /// What is known of a trace as a whole, if it was derived.
    pub(super) async fn overview_of(&self, trace_id: TraceId) -> Result<Option<TraceOverview>, QueryError> {
        match self.get_trace_summary(trace_id).await {
            Ok(overview) => Ok(Some(overview)),
            Err(QueryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// At most `limit` of the spans, and whether there are more.
async fn bounded(
    mut spans: BoxStream<'static, Result<Stored<Span>, QueryError>>,
    limit: usize,
) -> Result<(Vec<Stored<Span>>, bool), QueryError> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while let Some(span) = spans.try_next().await? {
        bytes += prost::Message::encoded_len(&span.record);
        if taken.len() == limit || (bytes > MAX_TRACE_BYTES && !taken.is_empty()) {
            return Ok((taken, true));
        }
        taken.push(span);
    }
    Ok((taken, false))
}

/// Records of one resource and scope together, scopes of one resource as neighbours, in the order in which they come.
fn grouped(stored: Vec<Stored<Span>>) -> Vec<Group<Span>> {
    let mut resources: HashMap<*const ResourceEnvelope, usize> = HashMap::new();
    let mut places: HashMap<(usize, *const ScopeEnvelope), usize> = HashMap::new();
    let mut groups: Vec<(usize, Group<Span>)> = Vec::new();
    for Stored { resource, scope, record } in stored {
        let resources_seen = resources.len();
        let owner = *resources.entry(Arc::as_ptr(&resource)).or_insert(resources_seen);
        let place = *places.entry((owner, Arc::as_ptr(&scope))).or_insert_with(|| {
            groups.push((owner, Group { resource, scope, records: Vec::new() }));
            groups.len() - 1
        });
        groups[place].1.records.push(record);
    }
    groups.sort_by_key(|(owner, _)| *owner);
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Resources or scopes that are remembered while spans are turned into records.
const REMEMBERED: usize = 1000;

/// Turns stored records into what is shown. Records of one resource share it.
pub(super) struct Renderer {
    detail: Detail,
    resources: Rendered<ResourceEnvelope, ResourceRecord>,
    scopes: Rendered<ScopeEnvelope, ScopeRecord>,
}

/// What envelopes became, by their address: each entry keeps its envelope, so that no other gets that address.
type Rendered<E, R> = HashMap<usize, (Arc<E>, Arc<R>)>;

fn rendered<E, R>(known: &mut Rendered<E, R>, envelope: Arc<E>, render: impl FnOnce(&E) -> R) -> Arc<R> {
    let address = Arc::as_ptr(&envelope).addr();
    if let Some((_, record)) = known.get(&address) {
        return Arc::clone(record);
    }
    if known.len() >= REMEMBERED {
        known.clear();
    }
    let record = Arc::new(render(&envelope));
    known.insert(address, (envelope, Arc::clone(&record)));
    record
}

impl Renderer {
    pub(super) fn new(detail: Detail) -> Self {
        Self { detail, resources: HashMap::new(), scopes: HashMap::new() }
    }

    pub(super) fn resource(&mut self, envelope: Arc<ResourceEnvelope>) -> Arc<ResourceRecord> {
        let detail = self.detail;
        rendered(&mut self.resources, envelope, |envelope| {
            let service_name = service_name(envelope);
            let ResourceEnvelope { resource, schema_url } = envelope.clone();
            let resource = resource.unwrap_or_default();
            ResourceRecord {
                service_name,
                attributes: Attributes::of(resource.attributes, detail),
                dropped_attributes_count: resource.dropped_attributes_count,
                schema_url,
            }
        })
    }

    pub(super) fn scope(&mut self, envelope: Arc<ScopeEnvelope>) -> Arc<ScopeRecord> {
        let detail = self.detail;
        rendered(&mut self.scopes, envelope, |envelope| {
            let ScopeEnvelope { scope, schema_url } = envelope.clone();
            let scope = scope.unwrap_or_default();
            ScopeRecord {
                name: scope.name,
                version: scope.version,
                attributes: Attributes::of(scope.attributes, detail),
                dropped_attributes_count: scope.dropped_attributes_count,
                schema_url,
            }
        })
    }

    pub(super) fn span(&mut self, trace_id: TraceId, stored: Stored<Span>) -> SpanRecord {
        let Stored { resource, scope, record: span } = stored;
        let detail = self.detail;
        let (resource, scope) = (self.resource(resource), self.scope(scope));
        let view = SpanView::from(&span);
        let (error_type, error_message) = error_of(&view);
        let (error_type, error_message) = (error_type.map(str::to_owned), error_message.map(str::to_owned));
        let status = span.status.unwrap_or_default();
        SpanRecord {
            trace_id,
            span_id: SpanId(span.span_id),
            parent_span_id: (!span.parent_span_id.is_empty()).then_some(SpanId(span.parent_span_id)),
            service_name: resource.service_name.clone(),
            name: AttributeValue::text(span.name, detail),
            kind: kind_name(span.kind),
            start_time: Moment(span.start_time_unix_nano),
            end_time: Moment(span.end_time_unix_nano),
            duration_ns: span.end_time_unix_nano.wrapping_sub(span.start_time_unix_nano).cast_signed(),
            status: StatusRecord {
                code: status_name(status.code),
                message: AttributeValue::text(status.message, detail),
            },
            error_type,
            error_message: error_message.map(|message| AttributeValue::text(message, detail)),
            attributes: Attributes::of(span.attributes, detail),
            dropped_attributes_count: span.dropped_attributes_count,
            events: span.events.into_iter().map(|event| event_record(event, detail)).collect(),
            dropped_events_count: span.dropped_events_count,
            links: span.links.into_iter().map(|link| link_record(link, detail)).collect(),
            dropped_links_count: span.dropped_links_count,
            trace_state: span.trace_state,
            flags: span.flags,
            resource,
            scope,
        }
    }
}

fn event_record(event: Event, detail: Detail) -> EventRecord {
    EventRecord {
        time: Moment(event.time_unix_nano),
        name: AttributeValue::text(event.name, detail),
        attributes: Attributes::of(event.attributes, detail),
        dropped_attributes_count: event.dropped_attributes_count,
    }
}

fn link_record(link: Link, detail: Detail) -> LinkRecord {
    LinkRecord {
        trace_id: hex::encode(&link.trace_id),
        span_id: SpanId(link.span_id),
        trace_state: link.trace_state,
        attributes: Attributes::of(link.attributes, detail),
        dropped_attributes_count: link.dropped_attributes_count,
        flags: link.flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_ids_are_read_as_hex() {
        assert_eq!("00F067AA0BA902B7".parse::<SpanId>().expect("hex").to_string(), "00f067aa0ba902b7");
        for wrong in ["", "0", "00f067aa0ba902", "0000000000000000", "zzzzzzzzzzzzzzzz"] {
            let error = wrong.parse::<SpanId>().expect_err("not an id");
            assert_eq!(error.to_string(), "span_id: expected 16 hexadecimal digits, not all zero");
        }
    }

    #[test]
    fn moments_have_nine_digits_over_the_whole_range() {
        for (nanos, expected) in [
            (0, "\"1970-01-01T00:00:00.000000000Z\""),
            (1_795_176_000_000_000_001, "\"2026-11-20T12:00:00.000000001Z\""),
            (u64::MAX, "\"2554-07-21T23:34:33.709551615Z\""),
        ] {
            assert_eq!(serde_json::to_string(&Moment(nanos)).expect("json"), expected);
        }
    }
}
