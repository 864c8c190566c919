//! Values of attributes and bodies as JSON that people and programs read.
//!
//! Promise: what is written tells the types apart. Most values are plain JSON; what JSON cannot say is an object with one
//! key that begins with `$`:
//!
//! | value | JSON |
//! |---|---|
//! | string, boolean, list, map | the same |
//! | integer | number; `{"$int": "9223372036854775807"}` beyond 2^53, where JavaScript would round it |
//! | double | number, with a fraction or exponent; `{"$double": "NaN"}`, `"Infinity"`, `"-Infinity"` |
//! | bytes | `{"$bytes": "base64"}` |
//! | nothing | `null` |
//! | cut to its first 4 KiB | `{"$cut": "beginning", "$type": "string", "$length": 100000}` |
//! | a map with a key that begins with `$` | `{"$map": {...}}` |
//!
//! The length of a value that is cut is in bytes: of the text, of the bytes themselves, or of the list or map as JSON.

mod make;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::derive::trace::cut;

/// Bytes of a value that lists carry.
pub const LIST_VALUE_BYTES: usize = 4096;

/// Integers of this size and below are the same in JavaScript.
const EXACT_INTEGER: u64 = 1 << 53;

/// How much of long values a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All of them.
    Whole,
    /// Their first 4 KiB and their length.
    List,
}

impl Detail {
    fn allows(self, bytes: usize) -> bool {
        self == Self::Whole || bytes <= LIST_VALUE_BYTES
    }
}

/// A value of an attribute or the body of a log record.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// An empty value, or none at all.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A double, also one that JSON cannot say.
    Double(f64),
    /// A string.
    String(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    Array(Vec<AttributeValue>),
    /// A map.
    Map(Attributes),
    /// The beginning of a value that is too long for a list.
    Cut {
        /// Its first 4 KiB: of a text as it stands, of bytes as base64, of a list or map as JSON.
        start: String,
        /// `string`, `bytes`, `array` or `map`.
        kind: &'static str,
        /// Bytes of the whole.
        length: usize,
    },
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for AttributeValue {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, SchemaType};
        let about = "A value. What plain JSON cannot say is an object with one key that begins with $: $int (beyond 2^53), \
                     $double (NaN, Infinity, -Infinity), $bytes (base64), $map; of a value that is cut, $cut is its \
                     beginning, $type its type and $length its bytes.";
        ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some(about)).into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for AttributeValue {}

impl AttributeValue {
    /// The value as it came, long ones cut if `detail` says so.
    pub fn of(value: Option<AnyValue>, detail: Detail) -> Self {
        match value.and_then(|value| value.value) {
            None => Self::Null,
            Some(Value::BoolValue(flag)) => Self::Bool(flag),
            Some(Value::IntValue(number)) => Self::Int(number),
            Some(Value::DoubleValue(number)) => Self::Double(number),
            Some(Value::StringValueStrindex(index)) => Self::Int(index.into()),
            Some(Value::StringValue(text)) => Self::text(text, detail),
            Some(Value::BytesValue(bytes)) if detail.allows(bytes.len()) => Self::Bytes(bytes),
            Some(Value::BytesValue(bytes)) => {
                let beginning = bytes.get(..LIST_VALUE_BYTES / 4 * 3).unwrap_or(&bytes);
                Self::Cut { start: BASE64.encode(beginning), kind: "bytes", length: bytes.len() }
            }
            Some(Value::ArrayValue(array)) => {
                let value = |value| Self::of(Some(value), Detail::Whole);
                Self::Array(array.values.into_iter().map(value).collect()).shortened("array", detail)
            }
            Some(Value::KvlistValue(map)) => {
                Self::Map(Attributes::of(map.values, Detail::Whole)).shortened("map", detail)
            }
        }
    }

    /// A text, cut if `detail` says so.
    pub fn text(text: String, detail: Detail) -> Self {
        if detail.allows(text.len()) {
            return Self::String(text);
        }
        Self::Cut { start: cut(&text, LIST_VALUE_BYTES), kind: "string", length: text.len() }
    }

    fn shortened(self, kind: &'static str, detail: Detail) -> Self {
        if detail == Detail::Whole {
            return self;
        }
        // Keys are strings and NaN has its own form, so nothing here fails to be JSON.
        let json = serde_json::to_string(&self).unwrap_or_default();
        if detail.allows(json.len()) {
            return self;
        }
        Self::Cut { start: cut(&json, LIST_VALUE_BYTES), kind, length: json.len() }
    }

    /// The value as OTLP has it. None where it was cut, which is no value any more.
    pub(crate) fn into_otlp(self) -> Option<AnyValue> {
        let value = match self {
            Self::Null => return Some(AnyValue { value: None }),
            Self::Bool(flag) => Value::BoolValue(flag),
            Self::Int(number) => Value::IntValue(number),
            Self::Double(number) => Value::DoubleValue(number),
            Self::String(text) => Value::StringValue(text),
            Self::Bytes(bytes) => Value::BytesValue(bytes),
            Self::Array(values) => {
                let values = values.into_iter().map(Self::into_otlp).collect::<Option<_>>()?;
                Value::ArrayValue(ArrayValue { values })
            }
            Self::Map(map) => Value::KvlistValue(KeyValueList { values: map.into_otlp()? }),
            Self::Cut { .. } => return None,
        };
        Some(AnyValue { value: Some(value) })
    }

    /// Bytes of it in memory, about.
    pub(crate) fn weight(&self) -> usize {
        let inside = match self {
            Self::Null | Self::Bool(_) | Self::Int(_) | Self::Double(_) => 0,
            Self::String(text) | Self::Cut { start: text, .. } => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Array(values) => values.iter().map(Self::weight).sum(),
            Self::Map(map) => map.weight(),
        };
        inside + size_of::<Self>()
    }

    /// The text of a string, whole or cut; none for other values.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Cut { start: text, kind: "string", .. } => Some(text),
            _ => None,
        }
    }
}

impl Serialize for AttributeValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Int(number) if number.unsigned_abs() <= EXACT_INTEGER => serializer.serialize_i64(*number),
            Self::Int(number) => tagged(serializer, "$int", &number.to_string()),
            Self::Double(number) if number.is_finite() => serializer.serialize_f64(*number),
            Self::Double(number) if number.is_nan() => tagged(serializer, "$double", "NaN"),
            Self::Double(number) => tagged(serializer, "$double", if *number > 0.0 { "Infinity" } else { "-Infinity" }),
            Self::String(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => tagged(serializer, "$bytes", &BASE64.encode(bytes)),
            Self::Array(values) => serializer.collect_seq(values),
            Self::Map(map) if map.0.iter().any(|(key, _)| key.starts_with('$')) => tagged(serializer, "$map", map),
            Self::Map(map) => map.serialize(serializer),
            Self::Cut { start, kind, length } => {
                let mut map = serializer.serialize_map(Some(3))?;
                map.serialize_entry("$cut", start)?;
                map.serialize_entry("$type", kind)?;
                map.serialize_entry("$length", length)?;
                map.end()
            }
        }
    }
}

fn tagged<S: Serializer, T: Serialize + ?Sized>(serializer: S, tag: &str, value: &T) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(tag, value)?;
    map.end()
}

/// Attributes in the order in which they came, each key once: of equal keys the last one counts. A JSON object.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = Object))]
pub struct Attributes(pub Vec<(String, AttributeValue)>);

impl Attributes {
    /// The attributes as they came, long values cut if `detail` says so.
    pub fn of(attributes: Vec<KeyValue>, detail: Detail) -> Self {
        let mut last = std::collections::HashMap::with_capacity(attributes.len());
        for (place, attribute) in attributes.iter().enumerate() {
            last.insert(attribute.key.clone(), place);
        }
        let kept = attributes.into_iter().enumerate().filter(|(place, entry)| last.get(&entry.key) == Some(place));
        Self(kept.map(|(_, entry)| (entry.key, AttributeValue::of(entry.value, detail))).collect())
    }

    /// The attributes as OTLP has them. None where a value was cut.
    pub(crate) fn into_otlp(self) -> Option<Vec<KeyValue>> {
        let attribute = |(key, value): (String, AttributeValue)| {
            Some(KeyValue { key, value: Some(value.into_otlp()?), ..KeyValue::default() })
        };
        self.0.into_iter().map(attribute).collect()
    }

    /// Bytes of them in memory, about.
    pub(crate) fn weight(&self) -> usize {
        self.0.iter().map(|(key, value)| size_of::<String>() + key.len() + value.weight()).sum()
    }

    /// Adds an attribute; of equal keys the last one counts.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<AttributeValue>) {
        self.0.push((key.into(), value.into()));
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&AttributeValue> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn entry(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
    }

    fn json(value: Value, detail: Detail) -> String {
        serde_json::to_string(&AttributeValue::of(Some(any(value)), detail)).expect("json")
    }

    #[test]
    fn every_kind_of_value_has_its_own_json() {
        let string = |text: &str| Value::StringValue(text.to_owned());
        let map = |key: &str| Value::KvlistValue(KeyValueList { values: vec![entry(key, Value::BoolValue(true))] });
        for (value, expected) in [
            (string("a\"b\0"), r#""a\"b\u0000""#),
            (Value::BoolValue(false), "false"),
            (Value::IntValue(200), "200"),
            (Value::IntValue(i64::MAX), r#"{"$int":"9223372036854775807"}"#),
            (Value::IntValue(i64::MIN), r#"{"$int":"-9223372036854775808"}"#),
            (Value::DoubleValue(200.0), "200.0"),
            (Value::DoubleValue(f64::NAN), r#"{"$double":"NaN"}"#),
            (Value::DoubleValue(f64::NEG_INFINITY), r#"{"$double":"-Infinity"}"#),
            (Value::BytesValue(vec![0, 255]), r#"{"$bytes":"AP8="}"#),
            (Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: None }] }), "[null]"),
            (map("a"), r#"{"a":true}"#),
            (map("$int"), r#"{"$map":{"$int":true}}"#),
        ] {
            assert_eq!(json(value, Detail::List), expected);
        }
        assert_eq!(AttributeValue::of(None, Detail::List), AttributeValue::Null);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let inner = Attributes::from([("$int", "no number")]);
        for value in [
            AttributeValue::Null,
            true.into(),
            7.into(),
            i64::MIN.into(),
            7.0.into(),
            f64::NEG_INFINITY.into(),
            "a\0".into(),
            AttributeValue::Bytes(vec![0, 255]),
            vec![1, 2].into(),
            Attributes::from([("a", "b")]).into(),
            Attributes::default().into(),
            AttributeValue::Map(inner),
        ] {
            let json = serde_json::to_string(&value).expect("json");
            assert_eq!(serde_json::from_str::<AttributeValue>(&json).expect(&json), value);
        }
        let nan = serde_json::from_str(r#"{"$double":"NaN"}"#).expect("a value");
        assert!(matches!(nan, AttributeValue::Double(number) if number.is_nan()));
        for wrong in [
            r#"{"$int":"x"}"#,
            r#"{"$cut":"a","$type":"string","$length":9}"#,
            r#"{"a":1,"$int":"1"}"#,
            "18446744073709551615",
        ] {
            assert!(serde_json::from_str::<AttributeValue>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_carry_the_beginning_and_the_length_of_what_is_long() {
        let long = "ä".repeat(LIST_VALUE_BYTES);
        let AttributeValue::Cut { start, kind, length } =
            AttributeValue::of(Some(any(Value::StringValue(long.clone()))), Detail::List)
        else {
            panic!("cut")
        };
        assert_eq!((start.len(), kind, length), (LIST_VALUE_BYTES, "string", 2 * LIST_VALUE_BYTES));
        assert_eq!(
            AttributeValue::of(Some(any(Value::StringValue(long.clone()))), Detail::Whole),
            AttributeValue::String(long.clone())
        );
        let bytes = json(Value::BytesValue(vec![1; 10_000]), Detail::List);
        assert!(bytes.ends_with(r#""$type":"bytes","$length":10000}"#) && bytes.len() < 5000);
        let list = ArrayValue { values: vec![AnyValue { value: Some(Value::StringValue(long)) }] };
        let list = json(Value::ArrayValue(list), Detail::List);
        assert!(list.ends_with(r#""$type":"array","$length":8196}"#), "{list}");
    }

    #[test]
    fn of_equal_keys_the_last_counts_and_the_order_stays() {
        let attributes = ["b", "a", "b"].iter().zip(1..).map(|(key, n)| entry(key, Value::IntValue(n))).collect();
        let read = Attributes::of(attributes, Detail::Whole);
        assert_eq!(serde_json::to_string(&read).expect("json"), r#"{"a":2,"b":3}"#);
        assert_eq!(read.get("b"), Some(&AttributeValue::Int(3)));
    }
}
