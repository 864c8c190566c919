//! What fuzz targets see of the store: values to jsonb and back, records to rows, and how a connection URL is taken apart.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::copy::{OwnerIds, Rows};
use super::fidelity::{Reader, Writer};
use super::residue::{Column, Residue};
use super::rows::{Owner, Scratch, log, metric, span};
use super::tls::take_parameters;
use super::tree::Tree;
use crate::otlp::canonical::Hash128;
use crate::otlp::point::Point;
use crate::otlp::view::{SpanView, ValueView};

/// Attributes, and a value beside them in the same column, as JSON `[attributes, value]` and the hints for both.
pub fn write(attributes: &[KeyValue], value: Option<&AnyValue>) -> (Vec<u8>, Vec<u8>) {
    let mut writer = Writer::default();
    writer.raw("[");
    writer.attributes(attributes);
    writer.raw(",");
    writer.value(value.map(ValueView::from));
    writer.raw("]");
    (writer.json().to_vec(), writer.hints().to_vec())
}

/// The inverse of [`write`]; None for what it does not write.
pub fn read(json: &str, hints: &[u8]) -> Option<(Vec<KeyValue>, Option<AnyValue>)> {
    let Tree::Array(mut both) = Tree::parse(json).ok()? else { return None };
    let (value, attributes) = (both.pop()?, both.pop()?);
    let mut reader = Reader::new(hints).ok()?;
    Some((reader.attributes(attributes).ok()?, reader.value(value).ok()?))
}

/// Reads the residue of a row and the hints in it against `json`; whether all of them fit.
pub fn read_residue(residue: &[u8], json: &str) -> bool {
    let Ok(mut residue) = Residue::from_bytes(Some(residue)) else { return false };
    let fits = [&residue.attributes, &residue.details, &residue.links].map(|hints| read(json, hints).is_some());
    let _ = residue.restore(Column::Name, String::new());
    fits.iter().all(|fits| *fits)
}

/// The columns of a row by name, as they are copied; None is NULL.
pub type Columns = Vec<(&'static str, Option<Vec<u8>>)>;

const OWNER: Owner<'_> = Owner { number: 0, service_name: "service" };
const SCOPED: OwnerIds = OwnerIds::Scoped { resource: -1, scope: -2 };

/// The row of a span.
pub fn span_row(record: &Span) -> Columns {
    let mut rows = Rows::default();
    span::encode(&mut rows, &mut Scratch::default(), OWNER, -3, &SpanView::from(record));
    columns(&rows, SCOPED, span::COLUMNS)
}

/// The row of a log record.
pub fn log_row(record: &LogRecord) -> Columns {
    let mut rows = Rows::default();
    log::encode(&mut rows, &mut Scratch::default(), OWNER, -3, record);
    columns(&rows, SCOPED, log::COLUMNS)
}

/// The row of a data point.
pub fn point_row(point: Point<'_>) -> Columns {
    let mut rows = Rows::default();
    let series = metric::StreamRef { hash: Hash128([7; 16]), number: 0 };
    metric::encode(&mut rows, &mut Scratch::default(), series, -3, point);
    columns(&rows, OwnerIds::Series(-1), metric::COLUMNS)
}

/// Takes the one row apart as PostgreSQL does.
///
/// # Panics
/// When it is not in the format of COPY BINARY.
fn columns(rows: &Rows, owner: OwnerIds, names: &[&'static str]) -> Columns {
    let mut row = rows.bytes(0..rows.len()).to_vec();
    owner.fill_in(&mut row);
    let (count, mut rest) = row.split_first_chunk().expect("a count of columns");
    assert_eq!(usize::try_from(i16::from_be_bytes(*count)), Ok(names.len()), "the count of columns");
    let mut take = |name: &&'static str| {
        let (length, after) = rest.split_first_chunk().expect("a length");
        rest = after;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return (*name, None) };
        let (value, after) = rest.split_at(length);
        rest = after;
        (*name, Some(value.to_vec()))
    };
    let columns = names.iter().map(&mut take).collect();
    assert!(rest.is_empty(), "bytes behind the last column");
    columns
}

/// Attributes from the columns `attributes` and `residue`.
pub fn read_attributes(json: &str, residue: &[u8]) -> Option<Vec<KeyValue>> {
    let residue = Residue::from_bytes(Some(residue)).ok()?;
    Reader::new(&residue.attributes).ok()?.attributes(Tree::parse(json).ok()?).ok()
}

/// A connection URL without what it says about TLS: what the driver gets. None for one that is refused.
pub fn for_the_driver(url: &str) -> Option<String> {
    take_parameters(url).ok().map(|(url, _)| url)
}
