//! `otel_logs`.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tokio_postgres::Row;

use super::{DecodeError, Owner, Scratch, any, count, count_or_null, read_attributes, tree};
use crate::store::copy::{Micros, Rows};
use crate::store::fidelity::Reader;
use crate::store::residue::{Column, Residue};

/// The columns in the order in which [`encode`] writes them.
pub(crate) const COLUMNS: &[&str] = &[
    "time",
    "resource_id",
    "scope_id",
    "observed_delta_ns",
    "trace_id",
    "flags",
    "dropped_attributes_count",
    "time_ns",
    "severity_number",
    "time_is_observed",
    "span_id",
    "service_name",
    "severity_text",
    "event_name",
    "body",
    "body_json",
    "attributes",
    "residue",
    "template_id",
];

/// The time a log record is filed under: its own, else the observed one.
pub(crate) fn effective_time(log: &LogRecord) -> u64 {
    if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano }
}

/// The trace the record belongs to. An id of another length, or of zeros, means that it belongs to none.
pub(crate) fn valid_trace_id(log: &LogRecord) -> Option<[u8; 16]> {
    log.trace_id.as_slice().try_into().ok().filter(|id| *id != [0; 16])
}

/// Appends the record as a row.
pub(crate) fn encode(rows: &mut Rows, scratch: &mut Scratch, owner: Owner<'_>, template_id: i64, log: &LogRecord) {
    let mut residue = Residue::default();
    scratch.clear();

    scratch.attributes.attributes(&log.attributes);
    residue.attributes = scratch.attributes.hints().to_vec();
    let trace_id = valid_trace_id(log);
    if trace_id.is_none() {
        residue.trace_id.clone_from(&log.trace_id);
    }
    let severity_number = i16::try_from(log.severity_number).unwrap_or_else(|_| {
        residue.severity_number = Some(log.severity_number);
        if log.severity_number < 0 { i16::MIN } else { i16::MAX }
    });
    let severity_text = residue.text(Column::SeverityText, &log.severity_text);
    let event_name = residue.text(Column::EventName, &log.event_name);
    let mut body = None;
    if let Some(value) = &log.body {
        if let Some(Value::StringValue(text)) = &value.value {
            body = Some(residue.text(Column::Body, text));
        } else {
            scratch.details.value(Some(value.into()));
            residue.details = scratch.details.hints().to_vec();
        }
    }

    let (time, time_ns) = Micros::from_unix_nanos(effective_time(log));
    let observed_delta = (log.observed_time_unix_nano != 0)
        .then(|| log.observed_time_unix_nano.wrapping_sub(effective_time(log)) as i64);

    let mut row = rows.begin([0; 4], owner.number, COLUMNS.len() as i16);
    row.timestamp(time);
    row.owner();
    row.scope();
    row.int8_or_null(observed_delta);
    row.uuid_or_null(trace_id);
    row.int4(log.flags as i32);
    row.int4_or_null(count_or_null(log.dropped_attributes_count));
    row.int2(time_ns);
    row.int2(severity_number);
    row.boolean(log.time_unix_nano == 0);
    row.bytes_or_null(&log.span_id);
    row.text(owner.service_name);
    row.text_or_null(Some(severity_text.as_ref()).filter(|text| !text.is_empty()));
    row.text_or_null(Some(event_name.as_ref()).filter(|text| !text.is_empty()));
    row.text_or_null(body.as_deref());
    row.jsonb_or_null(!scratch.details.json().is_empty(), scratch.details.json());
    row.jsonb(scratch.attributes.json());
    row.bytes_or_null(&residue.to_bytes());
    row.int8(template_id);
    row.end();
}

/// Reads back what [`encode`] wrote. Columns are found by name.
pub(crate) fn decode(row: &Row) -> Result<LogRecord, DecodeError> {
    let mut residue = Residue::from_bytes(row.try_get("residue")?)?;
    let time = row.try_get::<_, Micros>("time")?.to_unix_nanos(row.try_get("time_ns")?);
    let observed_delta: Option<i64> = row.try_get("observed_delta_ns")?;
    let trace_id = match row.try_get::<_, Option<uuid::Uuid>>("trace_id")? {
        Some(id) => id.into_bytes().to_vec(),
        None => std::mem::take(&mut residue.trace_id),
    };
    let body = match (row.try_get::<_, Option<String>>("body")?, tree(row, "body_json")?) {
        (Some(text), _) => Some(any(Value::StringValue(residue.restore(Column::Body, text)))),
        (None, Some(tree)) => Reader::new(&residue.details)?.value(tree)?,
        (None, None) => None,
    };
    Ok(LogRecord {
        time_unix_nano: if row.try_get("time_is_observed")? { 0 } else { time },
        observed_time_unix_nano: observed_delta.map_or(0, |delta| time.wrapping_add(delta as u64)),
        severity_number: match residue.severity_number {
            Some(number) => number,
            None => row.try_get::<_, i16>("severity_number")?.into(),
        },
        severity_text: residue
            .restore(Column::SeverityText, row.try_get::<_, Option<String>>("severity_text")?.unwrap_or_default()),
        body,
        attributes: read_attributes(row, &residue.attributes)?,
        dropped_attributes_count: count(row, "dropped_attributes_count")?,
        flags: row.try_get::<_, i32>("flags")? as u32,
        trace_id,
        span_id: row.try_get::<_, Option<Vec<u8>>>("span_id")?.unwrap_or_default(),
        event_name: residue
            .restore(Column::EventName, row.try_get::<_, Option<String>>("event_name")?.unwrap_or_default()),
    })
}
