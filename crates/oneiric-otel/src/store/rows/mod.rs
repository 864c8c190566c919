//! Records to rows and back, one file per table.
//!
//! `encode` writes a record straight into a COPY buffer; `decode` reads the same columns back into the record. Neither
//! looks anything up: where ids of resource, scope and series belong, room is left for them.

pub(crate) mod log;
pub(crate) mod metric;
pub(crate) mod span;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::fidelity::{Mismatch, Reader, Writer};
use super::residue::{prefix, without_nul};
use super::tree::Tree;
use crate::otlp::view::{Attribute, ValueView};

/// Under a btree a text column holds this many bytes at most; the full text stays in the record.
pub(crate) const INDEXED_TEXT_BYTES: usize = 256;

/// Whose record it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Which of its batch's owners it is.
    pub(crate) number: u32,
    /// At most [`INDEXED_TEXT_BYTES`], without NUL.
    pub(crate) service_name: &'a str,
}

/// A service's name as the columns hold it.
pub(crate) fn service_column(name: &str) -> String {
    without_nul(prefix(name, INDEXED_TEXT_BYTES)).into_owned()
}

/// Buffers reused from record to record.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    attributes: Writer,
    details: Writer,
    links: Writer,
}

impl Scratch {
    fn clear(&mut self) {
        self.attributes.clear();
        self.details.clear();
        self.links.clear();
    }
}

/// A row that is not as this program writes it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("stored json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("stored protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("column: {0}")]
    Column(#[from] tokio_postgres::Error),
}

/// jsonb as text, undecoded.
struct JsonText<'a>(&'a str);

impl<'a> FromSql<'a> for JsonText<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match raw.split_first() {
            Some((1, json)) => Ok(Self(std::str::from_utf8(json)?)),
            _ => Err("unknown version of the jsonb wire format".into()),
        }
    }

    tokio_postgres::types::accepts!(JSONB);
}

fn tree(row: &Row, column: &str) -> Result<Option<Tree>, DecodeError> {
    let Some(json) = row.try_get::<_, Option<JsonText<'_>>>(column)? else { return Ok(None) };
    Ok(Some(Tree::parse(json.0)?))
}

fn read_attributes(row: &Row, hints: &[u8]) -> Result<Vec<KeyValue>, DecodeError> {
    let tree = tree(row, "attributes")?.unwrap_or(Tree::Object(Vec::new()));
    Ok(Reader::new(hints)?.attributes(tree)?)
}

/// A count of the message as a nullable column: null is zero.
fn count_or_null(count: u32) -> Option<i32> {
    (count != 0).then_some(count as i32)
}

fn count(row: &Row, column: &str) -> Result<u32, DecodeError> {
    Ok(row.try_get::<_, Option<i32>>(column)?.unwrap_or(0) as u32)
}

/// The first of `keys` that the attributes have. Order `keys` from the current name to the oldest.
pub(crate) fn find<'a>(attributes: &'a [impl Attribute], keys: &[&str]) -> Option<ValueView<'a>> {
    let value = |key: &&str| attributes.iter().find(|attribute| attribute.key() == *key)?.value();
    keys.iter().filter_map(value).find(|value| *value != ValueView::Empty)
}

fn find_text<'a>(attributes: &'a [impl Attribute], keys: &[&str]) -> Option<&'a str> {
    match find(attributes, keys)? {
        ValueView::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// An id as hex in JSON; any length.
fn read_hex(tree: &Tree) -> Result<Vec<u8>, DecodeError> {
    match tree {
        Tree::Null => Ok(Vec::new()),
        Tree::String(text) => Ok(hex::decode(text).map_err(|_| Mismatch)?),
        _ => Err(Mismatch.into()),
    }
}

fn read_text(tree: Tree) -> Result<String, DecodeError> {
    match tree {
        Tree::Null => Ok(String::new()),
        Tree::String(text) => Ok(text),
        _ => Err(Mismatch.into()),
    }
}

fn read_number<T: TryFrom<i128> + Default>(tree: &Tree) -> Result<T, DecodeError> {
    match tree {
        Tree::Null => Ok(T::default()),
        Tree::Integer(number) => Ok(T::try_from(*number).map_err(|_| Mismatch)?),
        _ => Err(Mismatch.into()),
    }
}

fn elements(tree: Option<Tree>) -> Result<Vec<Tree>, DecodeError> {
    match tree {
        None => Ok(Vec::new()),
        Some(Tree::Array(elements)) => Ok(elements),
        Some(_) => Err(Mismatch.into()),
    }
}

/// An OTLP enum in SQL: its name, or the number that has no name yet.
fn enum_name(names: &'static [&'static str], number: i32) -> std::borrow::Cow<'static, str> {
    match usize::try_from(number).ok().and_then(|number| names.get(number)) {
        Some(name) => (*name).into(),
        None => number.to_string().into(),
    }
}

fn enum_number(names: &[&str], text: &str) -> Result<i32, DecodeError> {
    match names.iter().position(|name| *name == text) {
        Some(number) => Ok(number as i32),
        None => Ok(text.parse().map_err(|_| Mismatch)?),
    }
}

/// A value's members inside an `AnyValue`.
fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}
