//! Values made by applications: from Rust's own, and read from the JSON that this crate writes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{AttributeValue, Attributes};

impl<K: Into<String>, V: Into<AttributeValue>> FromIterator<(K, V)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<K: Into<String>, V: Into<AttributeValue>, const N: usize> From<[(K, V); N]> for Attributes {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

macro_rules! values_from {
    ($($type:ty => $kind:ident),*) => {$(
        impl From<$type> for AttributeValue {
            fn from(value: $type) -> Self {
                Self::$kind(value.into())
            }
        }
    )*};
}

values_from!(bool => Bool, i32 => Int, u32 => Int, i64 => Int, f32 => Double, f64 => Double, &str => String,
             String => String, Attributes => Map);

impl<V: Into<AttributeValue>> From<Vec<V>> for AttributeValue {
    fn from(values: Vec<V>) -> Self {
        Self::Array(values.into_iter().map(Into::into).collect())
    }
}

impl<'de> Deserialize<'de> for AttributeValue {
    /// Reads what is written, but for a value that was cut: half a value is none.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = AttributeValue;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value, or an object with one of the keys $int, $double, $bytes, $map")
            }

            fn visit_unit<E>(self) -> Result<AttributeValue, E> {
                Ok(AttributeValue::Null)
            }

            fn visit_none<E>(self) -> Result<AttributeValue, E> {
                Ok(AttributeValue::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<AttributeValue, D::Error> {
                AttributeValue::deserialize(deserializer)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<AttributeValue, E> {
                Ok(AttributeValue::Bool(flag))
            }

            fn visit_i64<E>(self, number: i64) -> Result<AttributeValue, E> {
                Ok(AttributeValue::Int(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<AttributeValue, E> {
                i64::try_from(number)
                    .map(AttributeValue::Int)
                    .map_err(|_| E::custom("expected an integer of 64 bits with sign"))
            }

            fn visit_f64<E>(self, number: f64) -> Result<AttributeValue, E> {
                Ok(AttributeValue::Double(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<AttributeValue, E> {
                Ok(AttributeValue::String(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AttributeValue, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(AttributeValue::Array(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AttributeValue, A::Error> {
                let mut entries: Vec<(String, AttributeValue)> = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !key.starts_with('$') {
                        entries.push((key, map.next_value()?));
                        continue;
                    }
                    let value = match key.as_str() {
                        // A map whose own keys may look like ours.
                        "$map" => Some(AttributeValue::Map(map.next_value()?)),
                        _ => untag(&key, map.next_value()?),
                    };
                    let alone = entries.is_empty() && map.next_key::<String>()?.is_none();
                    return value.filter(|_| alone).ok_or_else(|| {
                        de::Error::custom(format!("{key}: expected a whole value, in an object without other keys"))
                    });
                }
                Ok(AttributeValue::Map(Attributes(entries)))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The value that an object with one key and a text stands for.
fn untag(tag: &str, text: String) -> Option<AttributeValue> {
    match (tag, text) {
        ("$int", digits) => digits.parse().ok().map(AttributeValue::Int),
        ("$double", name) => match name.as_str() {
            "NaN" => Some(AttributeValue::Double(f64::NAN)),
            "Infinity" => Some(AttributeValue::Double(f64::INFINITY)),
            "-Infinity" => Some(AttributeValue::Double(f64::NEG_INFINITY)),
            _ => None,
        },
        ("$bytes", text) => BASE64.decode(text).ok().map(AttributeValue::Bytes),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Attributes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of attributes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Attributes(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
