//! What fuzz targets see of the store: values to jsonb and back, and how a connection URL is taken apart.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

use super::fidelity::{Reader, Writer};
use super::residue::{Column, Residue};
use super::tls::take_parameters;
use super::tree::Tree;

/// Attributes, and a value beside them in the same column, as JSON `[attributes, value]` and the hints for both.
pub fn write(attributes: &[KeyValue], value: Option<&AnyValue>) -> (Vec<u8>, Vec<u8>) {
    let mut writer = Writer::default();
    writer.raw("[");
    writer.attributes(attributes);
    writer.raw(",");
    writer.value(value);
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

/// A connection URL without what it says about TLS: what the driver gets. None for one that is refused.
pub fn for_the_driver(url: &str) -> Option<String> {
    take_parameters(url).ok().map(|(url, _)| url)
}
