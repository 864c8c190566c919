//! How one value of a protobuf field is written in JSON: a codec per way of writing, used by the tables of
//! [`super::tables`].
//!
//! Reading accepts what the protobuf JSON mapping and OTLP accept and names what it expected otherwise; writing gives
//! the one form that every reader accepts.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use super::message::{Message, MessageVisitor, write_message};

/// A way to write values of one type.
pub(super) trait Codec {
    /// The type in the protobuf message.
    type Value;

    /// Reads one value that is not null.
    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<Self::Value, D::Error>;

    /// Whether a field with this value is left out.
    fn is_default(value: &Self::Value) -> bool;

    /// Writes one value.
    fn write<S: Serializer>(value: &Self::Value, json: S) -> Result<S::Ok, S::Error>;
}

/// A value to be written by codec `C`.
pub(super) struct Written<'a, C: Codec>(pub(super) &'a C::Value);

impl<C: Codec> Serialize for Written<'_, C> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        C::write(self.0, json)
    }
}

/// Reads a value by codec `C`.
struct Value<C>(PhantomData<C>);

impl<'de, C: Codec> DeserializeSeed<'de> for Value<C> {
    type Value = C::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<C::Value, D::Error> {
        C::read(json)
    }
}

/// Reads a value by codec `C`, or null, which stands for a field that is not there.
pub(super) struct Nullable<C>(PhantomData<C>);

impl<C> Nullable<C> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, C: Codec> DeserializeSeed<'de> for Nullable<C> {
    type Value = Option<C::Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de, C: Codec> Visitor<'de> for Nullable<C> {
    type Value = Option<C::Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value or null")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        C::read(json).map(Some)
    }
}

/// A text.
pub(super) struct Text;

impl Codec for Text {
    type Value = String;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
        String::deserialize(json)
    }

    fn is_default(value: &String) -> bool {
        value.is_empty()
    }

    fn write<S: Serializer>(value: &String, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(value)
    }
}

/// `true` or `false`.
pub(super) struct Bool;

impl Codec for Bool {
    type Value = bool;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
        bool::deserialize(json)
    }

    fn is_default(value: &bool) -> bool {
        !value
    }

    fn write<S: Serializer>(value: &bool, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_bool(*value)
    }
}

/// A trace or span id: hex digits of either case, any number of whole bytes. Its length is judged later, with the record
/// at hand.
pub(super) struct Id;

impl Codec for Id {
    type Value = Vec<u8>;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<u8>, D::Error> {
        json.deserialize_str(Id)
    }

    fn is_default(value: &Vec<u8>) -> bool {
        value.is_empty()
    }

    fn write<S: Serializer>(value: &Vec<u8>, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(&hex::encode(value))
    }
}

impl Visitor<'_> for Id {
    type Value = Vec<u8>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an id as a string of hex digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        hex::decode(text).map_err(|error| match error {
            hex::FromHexError::OddLength => {
                E::custom(format_args!("id {text:?} has an odd number of hex digits; two make a byte"))
            }
            _ if is_base64_id(text) => E::custom(format_args!("id {text:?} looks like base64; OTLP/JSON ids are hex")),
            _ => E::custom(format_args!("id {text:?} is not hex; OTLP/JSON ids are hex digits, two for each byte")),
        })
    }
}

/// Whether it is the base64 of 16 or 8 bytes, as generic protobuf JSON writers give for ids.
fn is_base64_id(text: &str) -> bool {
    decode_base64(text).is_ok_and(|bytes| bytes.len() == 16 || bytes.len() == 8)
}

/// Bytes as base64, written with the standard alphabet and padding; the URL alphabet and no padding are read too.
pub(super) struct Base64;

const BASE64: GeneralPurpose = base64_engine(&base64::alphabet::STANDARD);
const BASE64_URL: GeneralPurpose = base64_engine(&base64::alphabet::URL_SAFE);

const fn base64_engine(alphabet: &base64::alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let engine = if text.contains(['-', '_']) { &BASE64_URL } else { &BASE64 };
    engine.decode(text)
}

impl Codec for Base64 {
    type Value = Vec<u8>;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<u8>, D::Error> {
        json.deserialize_str(Base64)
    }

    fn is_default(value: &Vec<u8>) -> bool {
        value.is_empty()
    }

    fn write<S: Serializer>(value: &Vec<u8>, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(&BASE64.encode(value))
    }
}

impl Visitor<'_> for Base64 {
    type Value = Vec<u8>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("bytes as a base64 string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        decode_base64(text).map_err(|error| E::custom(format_args!("bytes are base64: {error}")))
    }
}

/// A whole number of at most 32 bits: written as a number, read from a number or a decimal string.
pub(super) struct Narrow<T>(PhantomData<T>);

/// A whole number of 64 bits: written as a decimal string, since a number in JSON is a double to many readers; read from
/// a number or a decimal string.
pub(super) struct Wide<T>(PhantomData<T>);

/// The integers of protobuf.
pub(super) trait Integer: TryFrom<i128> + FromStr + fmt::Display + Serialize + Default + PartialEq {
    /// Said when something else is found.
    const EXPECTED: &'static str;
}

impl Integer for i32 {
    const EXPECTED: &'static str = "a 32-bit integer as a number or a decimal string";
}

impl Integer for u32 {
    const EXPECTED: &'static str = "an unsigned 32-bit integer as a number or a decimal string";
}

impl Integer for i64 {
    const EXPECTED: &'static str = "a 64-bit integer as a decimal string or a number";
}

impl Integer for u64 {
    const EXPECTED: &'static str = "an unsigned 64-bit integer as a decimal string or a number";
}

impl<T: Integer> Codec for Narrow<T> {
    type Value = T;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
        json.deserialize_any(IntegerVisitor(PhantomData))
    }

    fn is_default(value: &T) -> bool {
        *value == T::default()
    }

    fn write<S: Serializer>(value: &T, json: S) -> Result<S::Ok, S::Error> {
        value.serialize(json)
    }
}

impl<T: Integer> Codec for Wide<T> {
    type Value = T;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<T, D::Error> {
        json.deserialize_any(IntegerVisitor(PhantomData))
    }

    fn is_default(value: &T) -> bool {
        *value == T::default()
    }

    fn write<S: Serializer>(value: &T, json: S) -> Result<S::Ok, S::Error> {
        json.collect_str(value)
    }
}

struct IntegerVisitor<T>(PhantomData<T>);

impl<T: Integer> Visitor<'_> for IntegerVisitor<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(T::EXPECTED)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number.into()).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::try_from(number.into()).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    /// `1.0` and `1e3` are whole numbers to protobuf.
    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        whole(number).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        if let Ok(number) = text.parse() {
            return Ok(number);
        }
        let number = decimal(text).and_then(whole);
        number.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The number as an integer, if it is one and in range.
fn whole<T: Integer>(number: f64) -> Option<T> {
    // The cast saturates, which is out of the range of every `T`.
    if number.fract() == 0.0 { T::try_from(number as i128).ok() } else { None }
}

/// An enum: an integer, known or not. OTLP forbids the names that generic protobuf JSON prefers.
pub(super) struct Enum;

impl Codec for Enum {
    type Value = i32;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<i32, D::Error> {
        json.deserialize_any(Enum)
    }

    fn is_default(value: &i32) -> bool {
        *value == 0
    }

    fn write<S: Serializer>(value: &i32, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_i32(*value)
    }
}

impl Visitor<'_> for Enum {
    type Value = i32;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an enum as its number")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<i32, E> {
        i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i32, E> {
        i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<i32, E> {
        whole(number).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i32, E> {
        Err(E::custom(format_args!("enum {text:?} is a string; OTLP/JSON enums are written as their number")))
    }
}

/// A double: written as a number, or as `"NaN"`, `"Infinity"` and `"-Infinity"`; read from these and from decimal
/// strings. The payload of a NaN has no JSON form: every NaN is read as the one canonical NaN.
pub(super) struct Double;

impl Codec for Double {
    type Value = f64;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<f64, D::Error> {
        json.deserialize_any(Double)
    }

    /// -0.0 is not the default: protobuf keeps it too.
    fn is_default(value: &f64) -> bool {
        value.to_bits() == 0
    }

    fn write<S: Serializer>(value: &f64, json: S) -> Result<S::Ok, S::Error> {
        if value.is_nan() {
            json.serialize_str("NaN")
        } else if *value == f64::INFINITY {
            json.serialize_str("Infinity")
        } else if *value == f64::NEG_INFINITY {
            json.serialize_str("-Infinity")
        } else {
            json.serialize_f64(*value)
        }
    }
}

impl Visitor<'_> for Double {
    type Value = f64;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a number, a decimal string, \"NaN\", \"Infinity\" or \"-Infinity\"")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
        Ok(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
        match text {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => decimal(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// A finite number in decimal notation; Rust alone would also read `inf` and `nan`.
fn decimal(text: &str) -> Option<f64> {
    let is_decimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    if !is_decimal {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A field with presence.
pub(super) struct Maybe<C>(PhantomData<C>);

impl<C: Codec> Codec for Maybe<C> {
    type Value = Option<C::Value>;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<Self::Value, D::Error> {
        C::read(json).map(Some)
    }

    fn is_default(value: &Self::Value) -> bool {
        value.is_none()
    }

    fn write<S: Serializer>(value: &Self::Value, json: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => C::write(value, json),
            None => json.serialize_none(),
        }
    }
}

/// A list. Its elements may not be null.
pub(super) struct List<C>(PhantomData<C>);

impl<C: Codec> Codec for List<C> {
    type Value = Vec<C::Value>;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(Self(PhantomData))
    }

    fn is_default(value: &Self::Value) -> bool {
        value.is_empty()
    }

    fn write<S: Serializer>(value: &Self::Value, json: S) -> Result<S::Ok, S::Error> {
        let mut list = json.serialize_seq(Some(value.len()))?;
        for element in value {
            list.serialize_element(&Written::<C>(element))?;
        }
        list.end()
    }
}

impl<'de, C: Codec> Visitor<'de> for List<C> {
    type Value = Vec<C::Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(Value::<C>(PhantomData))? {
            elements.push(element);
        }
        Ok(elements)
    }
}

/// A message.
pub(super) struct Sub<M>(PhantomData<M>);

impl<M: Message> Codec for Sub<M> {
    type Value = M;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<M, D::Error> {
        json.deserialize_map(MessageVisitor::new())
    }

    /// A message that is there is written even when it is empty: absent and empty are not the same.
    fn is_default(_: &M) -> bool {
        false
    }

    fn write<S: Serializer>(value: &M, json: S) -> Result<S::Ok, S::Error> {
        write_message(value, json)
    }
}

/// A message in a list in which null stands for the empty message, as the values of an array are written by some.
pub(super) struct SubOrNull<M>(PhantomData<M>);

impl<M: Message> Codec for SubOrNull<M> {
    type Value = M;

    fn read<'de, D: Deserializer<'de>>(json: D) -> Result<M, D::Error> {
        Nullable::<Sub<M>>::new().deserialize(json).map(Option::unwrap_or_default)
    }

    fn is_default(value: &M) -> bool {
        Sub::is_default(value)
    }

    fn write<S: Serializer>(value: &M, json: S) -> Result<S::Ok, S::Error> {
        Sub::write(value, json)
    }
}
