//! The envelope of an OTLP/JSON request: split into slices, and written around records.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use super::message::{AsJson, Key, Seen};
use crate::otlp::Group;
use crate::otlp::envelope::{UnreadResource, UnreadScope};
use crate::otlp::record::{Names, Record};

/// Splits a request into its parts.
///
/// # Errors
/// What is wrong and where, when the text is not one JSON value or a list of the envelope is not a list of objects.
pub(super) fn split(text: &str, names: Names) -> Result<Vec<UnreadResource<&RawValue>>, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Object(Envelope(names)).deserialize(&mut json).and_then(|resources| json.end().map(|()| resources));
    read.map_err(|error| match super::locate(text, Object(Envelope(names))).strip_prefix('.') {
        Some(path) => format!("{path}: {error}"),
        None => error.to_string(),
    })
}

/// An object of the envelope, none of which is long: each has one list or text per key.
trait Fields<'de>: Copy {
    type Value;
    /// The keys that matter.
    fn keys(self) -> [&'static str; 3];
    fn name(self) -> &'static str;
    fn empty(self) -> Self::Value;
    /// Reads the value of the key at this place among [`Fields::keys`].
    fn read<A: MapAccess<'de>>(self, place: usize, fields: &mut A, into: &mut Self::Value) -> Result<(), A::Error>;
}

/// The request itself.
#[derive(Clone, Copy)]
struct Envelope(Names);

/// An element of `resourceSpans` or its like.
#[derive(Clone, Copy)]
struct ResourceGroup(Names);

/// An element of `scopeSpans` or its like.
#[derive(Clone, Copy)]
struct ScopeGroup(Names);

impl<'de> Fields<'de> for Envelope {
    type Value = Vec<UnreadResource<&'de RawValue>>;

    fn keys(self) -> [&'static str; 3] {
        [self.0.resources, "", ""]
    }

    fn name(self) -> &'static str {
        "an export request"
    }

    fn empty(self) -> Self::Value {
        Vec::new()
    }

    fn read<A: MapAccess<'de>>(self, _: usize, fields: &mut A, into: &mut Self::Value) -> Result<(), A::Error> {
        *into = fields.next_value_seed(Elements(Object(ResourceGroup(self.0))))?;
        Ok(())
    }
}

impl<'de> Fields<'de> for ResourceGroup {
    type Value = UnreadResource<&'de RawValue>;

    fn keys(self) -> [&'static str; 3] {
        ["resource", self.0.scopes, "schemaUrl"]
    }

    fn name(self) -> &'static str {
        self.0.resources
    }

    fn empty(self) -> Self::Value {
        UnreadResource { resource: None, scopes: Vec::new(), schema_url: None }
    }

    fn read<A: MapAccess<'de>>(self, place: usize, fields: &mut A, into: &mut Self::Value) -> Result<(), A::Error> {
        match place {
            0 => into.resource = fields.next_value()?,
            1 => into.scopes = fields.next_value_seed(Elements(Object(ScopeGroup(self.0))))?,
            _ => into.schema_url = fields.next_value()?,
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for ScopeGroup {
    type Value = UnreadScope<&'de RawValue>;

    fn keys(self) -> [&'static str; 3] {
        ["scope", self.0.records, "schemaUrl"]
    }

    fn name(self) -> &'static str {
        self.0.scopes
    }

    fn empty(self) -> Self::Value {
        UnreadScope { scope: None, records: Vec::new(), schema_url: None }
    }

    fn read<A: MapAccess<'de>>(self, place: usize, fields: &mut A, into: &mut Self::Value) -> Result<(), A::Error> {
        match place {
            0 => into.scope = fields.next_value()?,
            1 => into.records = fields.next_value_seed(Elements(PhantomData::<&'de RawValue>))?,
            _ => into.schema_url = fields.next_value()?,
        }
        Ok(())
    }
}

/// Reads an object by its [`Fields`].
#[derive(Clone, Copy)]
struct Object<F>(F);

impl<'de, F: Fields<'de>> DeserializeSeed<'de> for Object<F> {
    type Value = F::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, F: Fields<'de>> Visitor<'de> for Object<F> {
    type Value = F::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} as an object", self.0.name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let keys = self.0.keys();
        let find = |key: &str| keys.iter().position(|known| !known.is_empty() && *known == key);
        let mut value = self.0.empty();
        let mut seen = Seen::default();
        while let Some(place) = fields.next_key_seed(Key(find))? {
            let Some(place) = place else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            seen.note(place as u32, keys[place])?;
            self.0.read(place, &mut fields, &mut value)?;
        }
        Ok(value)
    }
}

/// Reads a list whose elements `S` reads; null is the empty list.
#[derive(Clone, Copy)]
struct Elements<S>(S);

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for Elements<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for Elements<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(self.0)? {
            elements.push(element);
        }
        Ok(elements)
    }
}

/// Groups that are written as an export request wherever serde writes.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a, R>(pub &'a [Group<R>]);

impl<R: Record> Serialize for Request<'_, R> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let by_resource = self.0.chunk_by(|left, right| Arc::ptr_eq(&left.resource, &right.resource));
        let mut fields = json.serialize_map(Some(1))?;
        fields.serialize_entry(R::NAMES.resources, &Sequence(by_resource.map(WrittenResource)))?;
        fields.end()
    }
}

/// The groups of one resource.
struct WrittenResource<'a, R>(&'a [Group<R>]);

impl<R: Record> Serialize for WrittenResource<'_, R> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut fields = json.serialize_map(None)?;
        let envelope = self.0.first().map(|group| &group.resource);
        if let Some(resource) = envelope.and_then(|envelope| envelope.resource.as_ref()) {
            fields.serialize_entry("resource", &AsJson(resource))?;
        }
        fields.serialize_entry(R::NAMES.scopes, &Sequence(self.0.iter().map(WrittenScope)))?;
        if let Some(envelope) = envelope.filter(|envelope| !envelope.schema_url.is_empty()) {
            fields.serialize_entry("schemaUrl", &envelope.schema_url)?;
        }
        fields.end()
    }
}

struct WrittenScope<'a, R>(&'a Group<R>);

impl<R: Record> Serialize for WrittenScope<'_, R> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let Group { scope, records, .. } = self.0;
        let mut fields = json.serialize_map(None)?;
        if let Some(scope) = &scope.scope {
            fields.serialize_entry("scope", &AsJson(scope))?;
        }
        fields.serialize_entry(R::NAMES.records, &Sequence(records.iter().map(AsJson)))?;
        if !scope.schema_url.is_empty() {
            fields.serialize_entry("schemaUrl", &scope.schema_url)?;
        }
        fields.end()
    }
}

/// An iterator that is written as a list.
struct Sequence<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Sequence<I> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut list = json.serialize_seq(None)?;
        for element in self.0.clone() {
            list.serialize_element(&element)?;
        }
        list.end()
    }
}
