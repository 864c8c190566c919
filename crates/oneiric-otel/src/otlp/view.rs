//! Spans as those see them who hash and store them: borrowed, from a message or from the bytes of a request.
//!
//! What lies in a request as nearly everything does is read in place (`protobuf::borrowed`), and nothing of it is copied
//! before it stands in a row. Whatever is odd becomes a message first. From here on both look the same.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

/// A `Span`.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanView<'a> {
    pub(crate) trace_id: &'a [u8],
    pub(crate) span_id: &'a [u8],
    pub(crate) trace_state: &'a str,
    pub(crate) parent_span_id: &'a [u8],
    pub(crate) name: &'a str,
    pub(crate) kind: i32,
    pub(crate) start_time_unix_nano: u64,
    pub(crate) end_time_unix_nano: u64,
    pub(crate) attributes: Vec<AttributeView<'a>>,
    pub(crate) dropped_attributes_count: u32,
    pub(crate) events: Vec<EventView<'a>>,
    pub(crate) dropped_events_count: u32,
    pub(crate) links: Vec<LinkView<'a>>,
    pub(crate) dropped_links_count: u32,
    pub(crate) status: Option<StatusView<'a>>,
    pub(crate) flags: u32,
}

/// A `Span.Event`.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventView<'a> {
    pub(crate) time_unix_nano: u64,
    pub(crate) name: &'a str,
    pub(crate) attributes: Vec<AttributeView<'a>>,
    pub(crate) dropped_attributes_count: u32,
}

/// A `Span.Link`.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkView<'a> {
    pub(crate) trace_id: &'a [u8],
    pub(crate) span_id: &'a [u8],
    pub(crate) trace_state: &'a str,
    pub(crate) attributes: Vec<AttributeView<'a>>,
    pub(crate) dropped_attributes_count: u32,
    pub(crate) flags: u32,
}

/// A `Status`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StatusView<'a> {
    pub(crate) message: &'a str,
    pub(crate) code: i32,
}

/// A `KeyValue`.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttributeView<'a> {
    pub(crate) key: &'a str,
    /// None where there is none, which an empty one is not.
    pub(crate) value: Option<Held<'a>>,
    pub(crate) key_strindex: i32,
}

/// A value in place, or one that had to become a message.
#[derive(Debug, Clone)]
pub(crate) enum Held<'a> {
    InPlace(ValueView<'a>),
    Message(Box<AnyValue>),
}

/// An `AnyValue`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ValueView<'a> {
    Empty,
    String(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    Array(&'a ArrayValue),
    Map(&'a KeyValueList),
    Bytes(&'a [u8]),
    Strindex(i32),
}

/// An attribute, a message or a view.
pub(crate) trait Attribute {
    fn key(&self) -> &str;
    /// None where there is none, which an empty one is not.
    fn value(&self) -> Option<ValueView<'_>>;
    fn key_strindex(&self) -> i32;

    /// As a message.
    fn to_message(&self) -> KeyValue {
        let value = self.value().map(ValueView::to_message);
        KeyValue { key: self.key().to_owned(), value, key_strindex: self.key_strindex() }
    }
}

impl Attribute for KeyValue {
    fn key(&self) -> &str {
        &self.key
    }

    fn value(&self) -> Option<ValueView<'_>> {
        self.value.as_ref().map(ValueView::from)
    }

    fn key_strindex(&self) -> i32 {
        self.key_strindex
    }
}

impl Attribute for AttributeView<'_> {
    fn key(&self) -> &str {
        self.key
    }

    fn value(&self) -> Option<ValueView<'_>> {
        self.value.as_ref().map(|held| match held {
            Held::InPlace(value) => *value,
            Held::Message(value) => ValueView::from(value.as_ref()),
        })
    }

    fn key_strindex(&self) -> i32 {
        self.key_strindex
    }
}

impl<'a> From<&'a AnyValue> for ValueView<'a> {
    fn from(any: &'a AnyValue) -> Self {
        match &any.value {
            None => Self::Empty,
            Some(Value::StringValue(value)) => Self::String(value),
            Some(Value::BoolValue(value)) => Self::Bool(*value),
            Some(Value::IntValue(value)) => Self::Int(*value),
            Some(Value::DoubleValue(value)) => Self::Double(*value),
            Some(Value::ArrayValue(value)) => Self::Array(value),
            Some(Value::KvlistValue(value)) => Self::Map(value),
            Some(Value::BytesValue(value)) => Self::Bytes(value),
            Some(Value::StringValueStrindex(value)) => Self::Strindex(*value),
        }
    }
}

impl ValueView<'_> {
    /// As a message.
    pub(crate) fn to_message(self) -> AnyValue {
        let value = match self {
            Self::Empty => None,
            Self::String(value) => Some(Value::StringValue(value.to_owned())),
            Self::Bool(value) => Some(Value::BoolValue(value)),
            Self::Int(value) => Some(Value::IntValue(value)),
            Self::Double(value) => Some(Value::DoubleValue(value)),
            Self::Array(value) => Some(Value::ArrayValue(value.clone())),
            Self::Map(value) => Some(Value::KvlistValue(value.clone())),
            Self::Bytes(value) => Some(Value::BytesValue(value.to_vec())),
            Self::Strindex(value) => Some(Value::StringValueStrindex(value)),
        };
        AnyValue { value }
    }
}

// Messages are taken apart without `..`: a field that a new version of the protobuf files adds cannot be forgotten.

impl<'a> From<&'a Span> for SpanView<'a> {
    fn from(span: &'a Span) -> Self {
        let Span {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            name,
            kind,
            start_time_unix_nano,
            end_time_unix_nano,
            attributes,
            dropped_attributes_count,
            events,
            dropped_events_count,
            links,
            dropped_links_count,
            status,
            flags,
        } = span;
        Self {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            name,
            kind: *kind,
            start_time_unix_nano: *start_time_unix_nano,
            end_time_unix_nano: *end_time_unix_nano,
            attributes: views(attributes),
            dropped_attributes_count: *dropped_attributes_count,
            events: views(events),
            dropped_events_count: *dropped_events_count,
            links: views(links),
            dropped_links_count: *dropped_links_count,
            status: status.as_ref().map(StatusView::from),
            flags: *flags,
        }
    }
}

impl<'a> From<&'a Event> for EventView<'a> {
    fn from(event: &'a Event) -> Self {
        let Event { time_unix_nano, name, attributes, dropped_attributes_count } = event;
        Self {
            time_unix_nano: *time_unix_nano,
            name,
            attributes: views(attributes),
            dropped_attributes_count: *dropped_attributes_count,
        }
    }
}

impl<'a> From<&'a Link> for LinkView<'a> {
    fn from(link: &'a Link) -> Self {
        let Link { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags } = link;
        Self {
            trace_id,
            span_id,
            trace_state,
            attributes: views(attributes),
            dropped_attributes_count: *dropped_attributes_count,
            flags: *flags,
        }
    }
}

impl<'a> From<&'a Status> for StatusView<'a> {
    fn from(status: &'a Status) -> Self {
        let Status { message, code } = status;
        Self { message, code: *code }
    }
}

impl<'a> From<&'a KeyValue> for AttributeView<'a> {
    fn from(attribute: &'a KeyValue) -> Self {
        let KeyValue { key, value, key_strindex } = attribute;
        let value = value.as_ref().map(|value| Held::InPlace(ValueView::from(value)));
        Self { key, value, key_strindex: *key_strindex }
    }
}

fn views<'a, M, V: From<&'a M>>(messages: &'a [M]) -> Vec<V> {
    messages.iter().map(V::from).collect()
}

impl EventView<'_> {
    /// As a message.
    pub(crate) fn to_message(&self) -> Event {
        Event {
            time_unix_nano: self.time_unix_nano,
            name: self.name.to_owned(),
            attributes: self.attributes.iter().map(Attribute::to_message).collect(),
            dropped_attributes_count: self.dropped_attributes_count,
        }
    }
}

impl LinkView<'_> {
    /// As a message.
    pub(crate) fn to_message(&self) -> Link {
        Link {
            trace_id: self.trace_id.to_vec(),
            span_id: self.span_id.to_vec(),
            trace_state: self.trace_state.to_owned(),
            attributes: self.attributes.iter().map(Attribute::to_message).collect(),
            dropped_attributes_count: self.dropped_attributes_count,
            flags: self.flags,
        }
    }
}
