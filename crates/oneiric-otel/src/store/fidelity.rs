//! OTLP values in jsonb, without loss.
//!
//! jsonb is what people query, but it cannot say everything OTLP can: it sorts keys and drops all but the last of equal
//! ones, knows no bytes, no NUL, no NaN, no -0.0, and no difference between an absent and an empty value. So a value is
//! written twice: *naturally* as JSON, and, only where that is not enough, as *hints* that turn the natural form back
//! into the exact one.
//!
//! # Invariant
//! For every list of attributes `a`: `read(write(a).json after a trip through jsonb, write(a).hints) == a`, by bits.
//!
//! # Hints
//! Nodes are numbered in the order in which jsonb gives them back (keys by length, then by bytes): every map and every
//! value is a node. A hint is `varint((node - previous node) << 3 | kind)` and a payload:
//!
//! | kind | payload | meaning |
//! |---|---|---|
//! | 0 permutation | rank, or positions | the map's keys came in another order than jsonb's |
//! | 1 value | varint length, `AnyValue` | the exact value; the natural one is only an approximation |
//! | 2 absent | - | the key had no value at all (jsonb shows null, which otherwise means an empty value) |
//! | 3 bytes | - | the string is base64 of bytes |
//! | 4 double | - | the integral number is a double |
//! | 5 map | varint length, `KeyValueList` | the exact map: equal keys, NUL in a key |
//!
//! A permutation of up to 20 keys is its rank in as few bytes as `n!` needs, of more keys a list of u16 positions. Below
//! a node with a `value` or `map` hint nothing is numbered.

mod keys;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};

use super::tree::Tree;
use crate::otlp::view::{Attribute, ValueView};
use keys::{KnownKeys, permutation_bytes, read_permutation};

const PERMUTATION: u64 = 0;
const VALUE: u64 = 1;
const ABSENT: u64 = 2;
const BYTES: u64 = 3;
const DOUBLE: u64 = 4;
const MAP: u64 = 5;

/// Stored values cannot be turned back: somebody changed the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored value and its hints do not fit together")]
pub(crate) struct Mismatch;

/// Writes values as JSON and collects the hints. One writer per jsonb column.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    json: Vec<u8>,
    hints: Vec<u8>,
    next_node: u64,
    last_hinted: u64,
    /// Above zero while the natural form of something that has an exact hint is written.
    muted: u32,
    keys: KnownKeys,
}

impl Writer {
    /// Forgets everything but keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.json.clear();
        self.hints.clear();
        self.next_node = 0;
        self.last_hinted = 0;
    }

    /// The natural form.
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// The hints, empty where the natural form says it all.
    pub(crate) fn hints(&self) -> &[u8] {
        &self.hints
    }

    /// Appends JSON of the caller's own, between values.
    pub(crate) fn raw(&mut self, json: &str) {
        self.json.extend_from_slice(json.as_bytes());
    }

    /// Appends a JSON string; NUL becomes U+FFFD. Returns whether it is exact.
    pub(crate) fn string(&mut self, text: &str) -> bool {
        write_string(&mut self.json, text)
    }

    /// Appends a number.
    pub(crate) fn number(&mut self, number: impl itoa::Integer) {
        self.raw(itoa::Buffer::new().format(number));
    }

    /// Appends attributes as a JSON object.
    pub(crate) fn attributes(&mut self, attributes: &[impl Attribute]) {
        let node = self.take_node();
        self.map(node, attributes);
    }

    /// Appends any value.
    pub(crate) fn value(&mut self, value: Option<ValueView<'_>>) {
        let node = self.take_node();
        let Some(value) = value else {
            self.hint(node, ABSENT);
            return self.raw("null");
        };
        match value {
            ValueView::Empty => self.raw("null"),
            ValueView::String(text) => {
                if !self.string(text) {
                    self.exact_value(node, value);
                }
            }
            ValueView::Bool(flag) => self.raw(if flag { "true" } else { "false" }),
            ValueView::Int(number) => self.number(number),
            ValueView::Double(number) => self.double(node, number),
            ValueView::Array(array) => {
                self.raw("[");
                for (i, element) in array.values.iter().enumerate() {
                    if i > 0 {
                        self.raw(",");
                    }
                    self.value(Some(element.into()));
                }
                self.raw("]");
            }
            ValueView::Map(map) => self.map(node, &map.values),
            ValueView::Bytes(bytes) => {
                self.hint(node, BYTES);
                self.raw("\"");
                self.raw(&BASE64.encode(bytes));
                self.raw("\"");
            }
            ValueView::Strindex(index) => {
                self.exact_value(node, value);
                self.number(index);
            }
        }
    }

    fn double(&mut self, node: u64, number: f64) {
        use std::io::Write as _;
        let value = ValueView::Double(number);
        if number.is_nan() {
            self.exact_value(node, value);
            return self.raw("\"NaN\"");
        }
        if number.is_infinite() {
            self.exact_value(node, value);
            return self.raw(if number > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
        }
        if number == 0.0 && number.is_sign_negative() {
            self.exact_value(node, value);
            return self.raw("0.0");
        }
        // From 1e16 on Rust writes an exponent, and jsonb expands it to an integer without a fraction.
        if number.abs() >= 1e16 {
            self.hint(node, DOUBLE);
        }
        write!(self.json, "{number:?}").expect("writing to memory does not fail");
    }

    fn map(&mut self, node: u64, entries: &[impl Attribute]) {
        let keys = self.keys.take(entries);
        let irregular = keys.irregular || entries.iter().any(|entry| entry.key_strindex() != 0);
        if irregular {
            let exact = KeyValueList { values: entries.iter().map(Attribute::to_message).collect() };
            self.exact(node, MAP, &exact);
            self.muted += 1;
        } else if !keys.permutation.is_empty() && self.muted == 0 {
            self.hint(node, PERMUTATION);
            self.hints.extend_from_slice(&keys.permutation);
        }

        self.raw("{");
        for (position, json) in keys.in_order() {
            self.json.extend_from_slice(json);
            self.value(entries[position].value());
        }
        self.raw("}");
        if irregular {
            self.muted -= 1;
        }
        self.keys.keep(keys);
    }

    fn take_node(&mut self) -> u64 {
        if self.muted == 0 {
            self.next_node += 1;
        }
        self.next_node
    }

    fn hint(&mut self, node: u64, kind: u64) {
        if self.muted > 0 {
            return;
        }
        prost::encoding::encode_varint((node - self.last_hinted) << 3 | kind, &mut self.hints);
        self.last_hinted = node;
    }

    fn exact_value(&mut self, node: u64, value: ValueView<'_>) {
        self.exact(node, VALUE, &value.to_message());
    }

    fn exact(&mut self, node: u64, kind: u64, message: &impl prost::Message) {
        self.hint(node, kind);
        if self.muted == 0 {
            message.encode_length_delimited(&mut self.hints).expect("a vector grows as needed");
        }
    }
}

/// Turns natural values back into exact ones. Ask in the order in which they were written.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    hints: &'a [u8],
    node: u64,
    /// The next hint: its node and kind.
    pending: Option<(u64, u64)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(hints: &'a [u8]) -> Result<Self, Mismatch> {
        let mut reader = Self { hints, node: 0, pending: None };
        reader.advance(0)?;
        Ok(reader)
    }

    /// The attributes that were written as `tree`.
    pub(crate) fn attributes(&mut self, tree: Tree) -> Result<Vec<KeyValue>, Mismatch> {
        self.node += 1;
        let kind = self.take()?;
        self.map(kind, tree)
    }

    /// The value that was written as `tree`.
    pub(crate) fn value(&mut self, tree: Tree) -> Result<Option<AnyValue>, Mismatch> {
        self.node += 1;
        let kind = self.take()?;
        let value = match (kind, tree) {
            (Some(ABSENT), Tree::Null) => {
                self.advance(self.node)?;
                return Ok(None);
            }
            (Some(VALUE), _) => {
                let value = self.message::<AnyValue>()?;
                self.advance(self.node)?;
                return Ok(Some(value));
            }
            (Some(BYTES), Tree::String(text)) => {
                self.advance(self.node)?;
                Some(Value::BytesValue(BASE64.decode(text).map_err(|_| Mismatch)?))
            }
            (Some(DOUBLE), Tree::Double(number)) => {
                self.advance(self.node)?;
                Some(Value::DoubleValue(number))
            }
            (Some(DOUBLE), Tree::Integer(number)) => {
                self.advance(self.node)?;
                Some(Value::DoubleValue(number as f64))
            }
            (kind @ (None | Some(PERMUTATION | MAP)), tree @ Tree::Object(_)) => {
                Some(Value::KvlistValue(KeyValueList { values: self.map(kind, tree)? }))
            }
            (None, Tree::Null) => None,
            (None, Tree::Bool(flag)) => Some(Value::BoolValue(flag)),
            (None, Tree::Integer(number)) => Some(Value::IntValue(i64::try_from(number).map_err(|_| Mismatch)?)),
            (None, Tree::Double(number)) => Some(Value::DoubleValue(number)),
            (None, Tree::String(text)) => Some(Value::StringValue(text)),
            (None, Tree::Array(elements)) => {
                let mut values = Vec::with_capacity(elements.len());
                for element in elements {
                    values.push(self.value(element)?.ok_or(Mismatch)?);
                }
                Some(Value::ArrayValue(ArrayValue { values }))
            }
            _ => return Err(Mismatch),
        };
        Ok(Some(AnyValue { value }))
    }

    fn map(&mut self, kind: Option<u64>, tree: Tree) -> Result<Vec<KeyValue>, Mismatch> {
        let Tree::Object(entries) = tree else { return Err(Mismatch) };
        let order = match kind {
            Some(MAP) => {
                let exact = self.message::<KeyValueList>()?;
                self.advance(self.node)?;
                return Ok(exact.values);
            }
            Some(PERMUTATION) => {
                let order = self.permutation(entries.len())?;
                self.advance(self.node)?;
                Some(order)
            }
            None => None,
            Some(_) => return Err(Mismatch),
        };
        let mut values = Vec::with_capacity(entries.len());
        for (key, tree) in entries {
            values.push(KeyValue { key, value: self.value(tree)?, key_strindex: 0 });
        }
        let Some(order) = order else { return Ok(values) };
        let mut original = vec![KeyValue::default(); values.len()];
        for (value, position) in values.into_iter().zip(order) {
            *original.get_mut(position as usize).ok_or(Mismatch)? = value;
        }
        Ok(original)
    }

    fn permutation(&mut self, count: usize) -> Result<Vec<u32>, Mismatch> {
        Ok(read_permutation(self.bytes(permutation_bytes(count))?, count))
    }

    /// The kind of the hint for the current node, if there is one. Its payload is next in `hints`.
    fn take(&mut self) -> Result<Option<u64>, Mismatch> {
        match self.pending {
            Some((node, kind)) if node == self.node => Ok(Some(kind)),
            Some((node, _)) if node < self.node => Err(Mismatch),
            _ => Ok(None),
        }
    }

    fn advance(&mut self, from: u64) -> Result<(), Mismatch> {
        if self.hints.is_empty() {
            self.pending = None;
            return Ok(());
        }
        let head = prost::encoding::decode_varint(&mut self.hints).map_err(|_| Mismatch)?;
        self.pending = Some((from + (head >> 3), head & 7));
        Ok(())
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Mismatch> {
        let (head, rest) = self.hints.split_at_checked(count).ok_or(Mismatch)?;
        self.hints = rest;
        Ok(head)
    }

    fn message<M: prost::Message + Default>(&mut self) -> Result<M, Mismatch> {
        M::decode_length_delimited(&mut self.hints).map_err(|_| Mismatch)
    }
}

/// Appends a JSON string. NUL, which jsonb refuses, becomes U+FFFD. Returns whether the string is exact.
fn write_string(json: &mut Vec<u8>, text: &str) -> bool {
    json.push(b'"');
    let bytes = text.as_bytes();
    // Without a branch in it the loop takes many bytes at a time.
    if !bytes.iter().fold(false, |found, byte| found | matches!(byte, b'"' | b'\\' | 0..0x20)) {
        json.extend_from_slice(bytes);
        json.push(b'"');
        return true;
    }
    let mut exact = true;
    let mut start = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0 => {
                exact = false;
                "\u{fffd}".as_bytes()
            }
            1..0x20 => {
                json.extend_from_slice(&bytes[start..i]);
                json.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                start = i + 1;
                continue;
            }
            _ => continue,
        };
        json.extend_from_slice(&bytes[start..i]);
        json.extend_from_slice(escape);
        start = i + 1;
    }
    json.extend_from_slice(&bytes[start..]);
    json.push(b'"');
    exact
}

#[cfg(test)]
mod tests;
