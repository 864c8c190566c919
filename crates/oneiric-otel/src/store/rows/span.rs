//! `otel_spans`.

use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use prost::Message as _;
use tokio_postgres::Row;

use super::{
    DecodeError, Owner, Scratch, count, count_or_null, elements, enum_name, enum_number, find, find_text,
    read_attributes, read_hex, read_number, read_text, tree,
};
use crate::otlp::view::{EventView, LinkView, SpanView, ValueView};
use crate::store::copy::{Micros, Rows};
use crate::store::fidelity::{Reader, Writer};
use crate::store::residue::{Column, Residue, prefix, without_nul};
use crate::store::tree::Tree;

/// The columns in the order in which [`encode`] writes them.
pub(crate) const COLUMNS: &[&str] = &[
    "start_time",
    "resource_id",
    "scope_id",
    "duration_ns",
    "span_hash",
    "trace_id",
    "flags",
    "dropped_attributes_count",
    "dropped_events_count",
    "dropped_links_count",
    "start_ns",
    "http_status_code",
    "span_id",
    "parent_span_id",
    "service_name",
    "name",
    "kind",
    "status",
    "status_message",
    "error_type",
    "error_message",
    "trace_state",
    "attributes",
    "events",
    "links",
    "residue",
];

const KINDS: &[&str] = &["unspecified", "internal", "server", "client", "producer", "consumer"];
const STATUSES: &[&str] = &["unset", "ok", "error"];
const ERROR: i32 = 2;

/// Promoted messages are for lists; the whole text stays in the record.
const MESSAGE_BYTES: usize = 4096;

/// Appends the span as a row. The caller has checked that its own ids are valid.
pub(crate) fn encode(rows: &mut Rows, scratch: &mut Scratch, owner: Owner<'_>, hash: i64, span: &SpanView<'_>) {
    let mut residue = Residue::default();
    scratch.clear();

    let name = residue.text(Column::Name, span.name);
    let trace_state = residue.text(Column::TraceState, span.trace_state);
    let status_message = span.status.map(|status| residue.text(Column::StatusMessage, status.message));
    scratch.attributes.attributes(&span.attributes);
    residue.attributes = scratch.attributes.hints().to_vec();
    if write_events(&mut scratch.details, &span.events) {
        residue.details = scratch.details.hints().to_vec();
    } else {
        let events = span.events.iter().map(EventView::to_message).collect();
        residue.exact_details = Span { events, ..Span::default() }.encode_to_vec();
    }
    if write_links(&mut scratch.links, &span.links) {
        residue.links = scratch.links.hints().to_vec();
    } else {
        let links = span.links.iter().map(LinkView::to_message).collect();
        residue.exact_links = Span { links, ..Span::default() }.encode_to_vec();
    }

    let (start_time, start_ns) = Micros::from_unix_nanos(span.start_time_unix_nano);
    let status = span.status.map_or(0, |status| status.code);
    let (error_type, error_message) = error_of(span);

    let trace_id: [u8; 16] = span.trace_id.try_into().unwrap_or_default();
    let (high, low) = trace_id.split_at(8);
    let half = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap_or_default());
    let key = [start_time.ordered(), half(high), half(low), hash as u64];
    let mut row = rows.begin(key, owner.number, COLUMNS.len() as i16);
    row.timestamp(start_time);
    row.owner();
    row.scope();
    row.int8(span.end_time_unix_nano.wrapping_sub(span.start_time_unix_nano) as i64);
    row.int8(hash);
    row.uuid(trace_id);
    row.int4(span.flags as i32);
    row.int4_or_null(count_or_null(span.dropped_attributes_count));
    row.int4_or_null(count_or_null(span.dropped_events_count));
    row.int4_or_null(count_or_null(span.dropped_links_count));
    row.int2(start_ns);
    row.int2_or_null(http_status_code(span));
    row.bytes(span.span_id);
    row.bytes_or_null(span.parent_span_id);
    row.text(owner.service_name);
    row.text(&name);
    row.text(&enum_name(KINDS, span.kind));
    row.text(&enum_name(STATUSES, status));
    row.text_or_null(status_message.as_deref());
    row.text_or_null(error_type.map(|text| without_nul(prefix(text, super::INDEXED_TEXT_BYTES))).as_deref());
    row.text_or_null(error_message.map(|text| without_nul(prefix(text, MESSAGE_BYTES))).as_deref());
    row.text_or_null(Some(trace_state.as_ref()).filter(|state| !state.is_empty()));
    row.jsonb(scratch.attributes.json());
    row.jsonb_or_null(!span.events.is_empty(), scratch.details.json());
    row.jsonb_or_null(!span.links.is_empty(), scratch.links.json());
    row.bytes_or_null(&residue.to_bytes());
    row.end();
}

/// Reads back what [`encode`] wrote. Columns are found by name.
pub(crate) fn decode(row: &Row) -> Result<Span, DecodeError> {
    let mut residue = Residue::from_bytes(row.try_get("residue")?)?;
    let start_time_unix_nano = row.try_get::<_, Micros>("start_time")?.to_unix_nanos(row.try_get("start_ns")?);
    let duration: i64 = row.try_get("duration_ns")?;
    let code = enum_number(STATUSES, row.try_get("status")?)?;
    let status = row
        .try_get::<_, Option<String>>("status_message")?
        .map(|message| Status { message: residue.restore(Column::StatusMessage, message), code });
    let events = if residue.exact_details.is_empty() {
        read_events(tree(row, "events")?, &residue.details)?
    } else {
        Span::decode(residue.exact_details.as_slice())?.events
    };
    let links = if residue.exact_links.is_empty() {
        read_links(tree(row, "links")?, &residue.links)?
    } else {
        Span::decode(residue.exact_links.as_slice())?.links
    };
    Ok(Span {
        trace_id: row.try_get::<_, uuid::Uuid>("trace_id")?.into_bytes().to_vec(),
        span_id: row.try_get("span_id")?,
        trace_state: residue
            .restore(Column::TraceState, row.try_get::<_, Option<String>>("trace_state")?.unwrap_or_default()),
        parent_span_id: row.try_get::<_, Option<Vec<u8>>>("parent_span_id")?.unwrap_or_default(),
        flags: row.try_get::<_, i32>("flags")? as u32,
        name: residue.restore(Column::Name, row.try_get("name")?),
        kind: enum_number(KINDS, row.try_get("kind")?)?,
        start_time_unix_nano,
        end_time_unix_nano: start_time_unix_nano.wrapping_add(duration as u64),
        attributes: read_attributes(row, &residue.attributes)?,
        dropped_attributes_count: count(row, "dropped_attributes_count")?,
        events,
        dropped_events_count: count(row, "dropped_events_count")?,
        links,
        dropped_links_count: count(row, "dropped_links_count")?,
        status,
    })
}

/// The kind's name, as the column has it.
pub(crate) fn kind_name(kind: i32) -> String {
    enum_name(KINDS, kind).into_owned()
}

/// The name of a status code, as the column has it.
pub(crate) fn status_name(code: i32) -> String {
    enum_name(STATUSES, code).into_owned()
}

/// Writes `[{"name", "time_unix_nano", "attributes", "dropped_attributes_count"}]`. Returns whether it is exact.
fn write_events(json: &mut Writer, events: &[EventView<'_>]) -> bool {
    let mut exact = true;
    json.raw("[");
    for (i, event) in events.iter().enumerate() {
        json.raw(if i > 0 { ",{\"name\":" } else { "{\"name\":" });
        exact &= json.string(event.name);
        json.raw(",\"time_unix_nano\":");
        json.number(event.time_unix_nano);
        json.raw(",\"attributes\":");
        json.attributes(&event.attributes);
        if event.dropped_attributes_count != 0 {
            json.raw(",\"dropped_attributes_count\":");
            json.number(event.dropped_attributes_count);
        }
        json.raw("}");
    }
    json.raw("]");
    exact
}

fn read_events(events: Option<Tree>, hints: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let mut reader = Reader::new(hints)?;
    let mut read = Vec::new();
    for mut event in elements(events)? {
        read.push(Event {
            time_unix_nano: read_number(&event.take("time_unix_nano"))?,
            name: read_text(event.take("name"))?,
            attributes: reader.attributes(event.take("attributes"))?,
            dropped_attributes_count: read_number(&event.take("dropped_attributes_count"))?,
        });
    }
    Ok(read)
}

/// Writes `[{"trace_id", "span_id", "attributes", "trace_state", "flags", "dropped_attributes_count"}]`, ids in hex.
/// Returns whether it is exact.
fn write_links(json: &mut Writer, links: &[LinkView<'_>]) -> bool {
    let mut exact = true;
    json.raw("[");
    for (i, link) in links.iter().enumerate() {
        json.raw(if i > 0 { ",{\"trace_id\":" } else { "{\"trace_id\":" });
        json.string(&hex::encode(link.trace_id));
        json.raw(",\"span_id\":");
        json.string(&hex::encode(link.span_id));
        json.raw(",\"attributes\":");
        json.attributes(&link.attributes);
        if !link.trace_state.is_empty() {
            json.raw(",\"trace_state\":");
            exact &= json.string(link.trace_state);
        }
        for (name, number) in [("flags", link.flags), ("dropped_attributes_count", link.dropped_attributes_count)] {
            if number != 0 {
                json.raw(",");
                json.string(name);
                json.raw(":");
                json.number(number);
            }
        }
        json.raw("}");
    }
    json.raw("]");
    exact
}

fn read_links(links: Option<Tree>, hints: &[u8]) -> Result<Vec<Link>, DecodeError> {
    let mut reader = Reader::new(hints)?;
    let mut read = Vec::new();
    for mut link in elements(links)? {
        read.push(Link {
            trace_id: read_hex(&link.take("trace_id"))?,
            span_id: read_hex(&link.take("span_id"))?,
            trace_state: read_text(link.take("trace_state"))?,
            attributes: reader.attributes(link.take("attributes"))?,
            dropped_attributes_count: read_number(&link.take("dropped_attributes_count"))?,
            flags: read_number(&link.take("flags"))?,
        });
    }
    Ok(read)
}

fn http_status_code(span: &SpanView<'_>) -> Option<i16> {
    let code = match find(&span.attributes, &["http.response.status_code", "http.status_code"])? {
        ValueView::Int(code) => code,
        ValueView::String(code) => code.parse().ok()?,
        _ => return None,
    };
    i16::try_from(code).ok()
}

/// Type and message of the span's error: its own attribute or status, else its last exception.
pub(crate) fn error_of<'a>(span: &'a SpanView<'_>) -> (Option<&'a str>, Option<&'a str>) {
    let exception = span.events.iter().rev().find(|event| event.name == "exception");
    let of_exception = |key| exception.and_then(|event| find_text(&event.attributes, &[key]));
    let status_message =
        span.status.filter(|status| status.code == ERROR && !status.message.is_empty()).map(|status| status.message);
    let error_type = find_text(&span.attributes, &["error.type"]).or_else(|| of_exception("exception.type"));
    let error_message = of_exception("exception.message")
        .or(status_message)
        .or_else(|| find_text(&span.attributes, &["exception.message", "error.message"]));
    (error_type, error_message)
}
