//! A protobuf message as a JSON object: what [`super::tables`] implements for each message.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};

/// A message of OTLP that has a table of its JSON fields.
pub trait Message: Default {
    /// The name of the message in the protobuf files, for error texts.
    const NAME: &'static str;

    /// Reads the fields of an object. Unknown ones are skipped; null counts as absent; a field that occurs twice and two
    /// members of one oneof are errors.
    fn read_fields<'de, A: MapAccess<'de>>(fields: A) -> Result<Self, A::Error>;

    /// Writes the fields that differ from their default.
    fn write_fields<M: SerializeMap>(&self, fields: &mut M) -> Result<(), M::Error>;
}

/// A message that is written as OTLP/JSON wherever serde writes, such as inside the answer of an API.
#[derive(Debug, Clone, Copy)]
pub struct AsJson<'a, M>(pub &'a M);

impl<M: Message> Serialize for AsJson<'_, M> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        write_message(self.0, json)
    }
}

pub(super) fn write_message<M: Message, S: Serializer>(message: &M, json: S) -> Result<S::Ok, S::Error> {
    let mut fields = json.serialize_map(None)?;
    message.write_fields(&mut fields)?;
    fields.end()
}

/// Reads an object as `M`.
pub(super) struct MessageVisitor<M>(PhantomData<M>);

impl<M> MessageVisitor<M> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, M: Message> DeserializeSeed<'de> for MessageVisitor<M> {
    type Value = M;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<M, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, M: Message> Visitor<'de> for MessageVisitor<M> {
    type Value = M;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} as an object", M::NAME)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<M, A::Error> {
        M::read_fields(fields)
    }
}

/// Reads a key and looks it up, so that no key is copied.
pub(super) struct Key<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Key<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        json.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Key<F> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<T, E> {
        Ok((self.0)(key))
    }
}

/// The fields of an object that have been met, by their place in its table.
#[derive(Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// Notes a field. Protobuf leaves it open what a repeated key means: taking either value would lose the other
    /// without a word, so it is an error.
    pub(super) fn note<E: Error>(&mut self, place: u32, key: &'static str) -> Result<(), E> {
        let bit = 1 << place;
        if self.0 & bit != 0 {
            return Err(E::duplicate_field(key));
        }
        self.0 |= bit;
        Ok(())
    }
}
