//! The Nezha Train-Ticket recordings as OTLP export requests: 517,503 span rows and 272,399 log rows of a real
//! microservice system with injected faults.
//!
//! Promises: one span or log record per row, in the order of the archives; the same bytes at every run; bounded
//! memory, whatever the archives unpack to (about 310 MB). Rows that repeat become records that repeat.
//!
//! A span has: trace and span id, parent (none where the row says `root`), name, start, end. No kind, no status, no
//! attributes: the recording has none. Its resource has `service.name` (the pod's name without its last two parts),
//! `k8s.deployment.name` (the same) and `k8s.pod.name`.
//!
//! A log record has: time, trace and span id, the line as a string body without its final newline, `severity_text` and
//! `severity_number` from the level in the line, and the attribute `log.iostream`. Its resource has, besides that of
//! the spans, `k8s.node.name` and `k8s.container.name`. Irregular rows are kept as one record each:
//! - 124 rows carry the time -6795364578871345152 (a clock that was never set, as Go counts it): the time that the
//!   container runtime noted in the same row is taken;
//! - 2 rows hold a whole line and then the torn end of another one: the whole line is the body, the torn end is the
//!   attribute `nezha.torn`. One of them is the row that has more than 8 columns for a reader of CSV.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde::Deserialize;

use crate::otlp::{attribute, text};
use batch::{Batch, LogBatch, SpanBatch};

mod batch;

/// The folder of this data set in the shared data.
pub const FOLDER: &str = "labelled/nezha-trainticket";
/// Span rows, repeats included.
pub const SPAN_ROWS: u64 = 517_503;
/// Different spans: what a store that ignores repeats holds.
pub const SPANS: u64 = 508_610;
/// Different trace ids.
pub const TRACES: u64 = 7_088;
/// Log rows, repeats included: what a store holds.
pub const LOG_ROWS: u64 = 272_399;

const TRACE_HEADER: &str = "TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano,Duration";
const LOG_HEADER: &str = "Timestamp,TimeUnixNano,Node,PodName,Container,TraceID,SpanID,Log";

/// The archives are compressed with a window of 2^27 bytes.
const WINDOW_LOG_MAX: u32 = 27;
/// Requests that wait for the consumer.
const AHEAD: usize = 2;

/// The spans as encoded `ExportTraceServiceRequest`s of at most 5,000 spans and about 4 MiB. `dir` is the folder with
/// `traces.tar.zst`. Conversion runs on a thread of its own, which ends with the iterator.
///
/// # Errors
/// An unreadable archive or row: the last item then says which file and line.
pub fn traces(dir: &Path) -> impl Iterator<Item = Result<Bytes>> + Send + use<> {
    convert::<SpanBatch>(dir, "traces.tar.zst", TRACE_HEADER, read_span)
}

/// The log records as encoded `ExportLogsServiceRequest`s, likewise, from `logs.tar.zst`.
pub fn logs(dir: &Path) -> impl Iterator<Item = Result<Bytes>> + Send + use<> {
    convert::<LogBatch>(dir, "logs.tar.zst", LOG_HEADER, read_log)
}

/// What a row says: where it comes from, and the record.
type Row<B> = (<B as Batch>::Source, <B as Batch>::Record);

fn convert<B: Batch>(
    dir: &Path,
    archive: &str,
    header: &'static str,
    read: fn(&str) -> Result<Row<B>>,
) -> std::sync::mpsc::IntoIter<Result<Bytes>> {
    let path = dir.join(archive);
    let (sender, receiver): (_, Receiver<Result<Bytes>>) = sync_channel(AHEAD);
    std::thread::spawn(move || {
        if let Err(error) = send_requests::<B>(&path, header, read, &sender) {
            // Nobody wants the error either if the consumer is gone.
            sender.send(Err(error.context(path.display().to_string()))).ok();
        }
    });
    receiver.into_iter()
}

fn send_requests<B: Batch>(
    path: &Path,
    header: &str,
    read: fn(&str) -> Result<Row<B>>,
    sender: &SyncSender<Result<Bytes>>,
) -> Result<()> {
    let file = std::fs::File::open(path)?;
    let mut decoder = zstd::Decoder::new(file)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut archive = tar::Archive::new(decoder);
    let mut batch = B::default();
    let mut line = String::new();
    for entry in archive.entries()? {
        let entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path()?.display().to_string();
        let mut lines = BufReader::with_capacity(1 << 16, entry);
        let mut number = 0;
        loop {
            line.clear();
            number += 1;
            if lines.read_line(&mut line).with_context(|| format!("{name}, line {number}"))? == 0 {
                break;
            }
            let row = line.strip_suffix('\n').unwrap_or(&line);
            if number == 1 {
                ensure!(row == header, "{name} has the columns {row}, expected are {header}");
                continue;
            }
            let (source, record) = read(row).with_context(|| format!("{name}, line {number}: {row}"))?;
            batch.push(source, record);
            if batch.is_full() && sender.send(Ok(std::mem::take(&mut batch).encode())).is_err() {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        sender.send(Ok(batch.encode())).ok();
    }
    Ok(())
}

/// Splits a row into `N` columns; further commas belong to the last one.
fn columns<const N: usize>(row: &str) -> Result<[&str; N]> {
    let mut columns = [""; N];
    let mut parts = row.splitn(N, ',');
    for column in &mut columns {
        *column = parts.next().with_context(|| format!("fewer than {N} columns"))?;
    }
    Ok(columns)
}

/// A row of a trace file. None of them is quoted.
fn read_span(row: &str) -> Result<(String, Span)> {
    let [trace_id, span_id, parent, pod, name, start, end, _duration] = columns(row)?;
    let span = Span {
        trace_id: hex::decode(trace_id).context("TraceID")?,
        span_id: hex::decode(span_id).context("SpanID")?,
        parent_span_id: if parent == "root" { Vec::new() } else { hex::decode(parent).context("ParentID")? },
        name: name.to_owned(),
        start_time_unix_nano: start.parse().context("StartTimeUnixNano")?,
        end_time_unix_nano: end.parse().context("EndTimeUnixNano")?,
        ..Span::default()
    };
    Ok((pod.to_owned(), span))
}

/// What the container runtime writes for each line.
#[derive(Deserialize)]
struct ContainerLine {
    log: String,
    stream: String,
    time: String,
}

/// A row of a log file: seven bare columns, then one quoted column up to the end of the line.
fn read_log(row: &str) -> Result<([String; 3], LogRecord)> {
    let [_timestamp, nanos, node, pod, container, trace_id, span_id, quoted] = columns(row)?;
    let log = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).context("Log is not quoted")?;
    let log = log.replace("\"\"", "\"");
    let mut objects = serde_json::Deserializer::from_str(&log).into_iter::<ContainerLine>();
    let line = objects.next().context("Log is empty")?.context("Log")?;
    let torn = log.get(objects.byte_offset()..).unwrap_or_default();

    let time_unix_nano = match nanos.parse() {
        Ok(nanos) => nanos,
        Err(_unset_clock) => {
            let time: jiff::Timestamp = line.time.parse().context("time in Log")?;
            u64::try_from(time.as_nanosecond()).context("time in Log")?
        }
    };
    let body = line.log.strip_suffix('\n').unwrap_or(&line.log);
    let (severity_text, severity_number) = level(body);
    let mut attributes = vec![attribute("log.iostream", line.stream)];
    if !torn.is_empty() {
        attributes.push(attribute("nezha.torn", torn));
    }
    let record = LogRecord {
        time_unix_nano,
        severity_number: severity_number.into(),
        severity_text: severity_text.to_owned(),
        body: Some(text(body)),
        attributes,
        trace_id: id(trace_id, 16),
        span_id: id(span_id, 8),
        ..LogRecord::default()
    };
    Ok(([node.to_owned(), pod.to_owned(), container.to_owned()], record))
}

/// An id of that many bytes, or none where the column holds anything else.
fn id(hex_digits: &str, bytes: usize) -> Vec<u8> {
    hex::decode(hex_digits).ok().filter(|id| id.len() == bytes).unwrap_or_default()
}

/// The level is the second word of a line, after the time of day.
fn level(line: &str) -> (&str, SeverityNumber) {
    let word = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    let number = match word {
        "TRACE" => SeverityNumber::Trace,
        "DEBUG" => SeverityNumber::Debug,
        "INFO" => SeverityNumber::Info,
        "WARN" => SeverityNumber::Warn,
        "ERROR" => SeverityNumber::Error,
        "FATAL" => SeverityNumber::Fatal,
        _ => return ("", SeverityNumber::Unspecified),
    };
    (word, number)
}

#[cfg(test)]
mod tests;
