//! The JSON values of a file, one after the other, whatever separates them.

use std::fmt;

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{ACCEPTED, FileError};

/// After so many unreadable places a file is given up: it is not what it was taken for, and looking on costs time that
/// grows with the square of its size.
const UNREADABLE_LIMIT: usize = 1000;

/// One JSON value.
#[derive(Debug)]
pub(super) struct Item {
    /// The value without the space around it.
    pub(super) body: Bytes,
    /// Where it begins.
    pub(super) at: String,
}

/// Gives out the values of a file. The elements of an array at the top stand for themselves.
#[derive(Debug)]
pub(super) struct Values {
    bytes: Bytes,
    position: usize,
    /// The line of `position`, from 1.
    line: usize,
    /// Elements of an array that are not given out yet, the next one last.
    elements: Vec<Item>,
    unreadable: usize,
}

/// Whether it begins as a JSON object or array does. A protobuf request can begin with the bytes of a line feed and a
/// brace, but the tags and lengths that follow at once are bytes that JSON text never has.
pub(super) fn looks_like_json(bytes: &[u8]) -> bool {
    let is_text = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r');
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) && bytes.iter().take(32).all(is_text)
}

impl Values {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, position: 0, line: 1, elements: Vec::new(), unreadable: 0 }
    }

    /// Moves on, counting lines.
    fn advance(&mut self, to: usize) {
        let passed = self.bytes.get(self.position..to).unwrap_or_default();
        self.line += passed.split(|byte| *byte == b'\n').skip(1).count();
        self.position = to;
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    /// Where reading goes on after a value that cannot be read: the next line that begins with an object or an array.
    /// The lines inside a value that is laid out over several are indented.
    fn resume(&self) -> usize {
        let rest = self.rest();
        let next = rest.windows(2).position(|pair| matches!(pair, b"\n{" | b"\n["));
        self.position + next.map_or(rest.len(), |found| found + 1)
    }
}

impl Iterator for Values {
    type Item = Result<Item, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(element) = self.elements.pop() {
            return Some(Ok(element));
        }
        let start = self.bytes.len() - self.rest().trim_ascii_start().len();
        self.advance(start);
        if self.rest().is_empty() {
            return None;
        }
        let at = format!("line {}", self.line);
        let mut stream = serde_json::Deserializer::from_slice(self.rest()).into_iter::<&RawValue>();
        let error = match stream.next()? {
            Ok(value) => {
                let body = self.bytes.slice_ref(value.get().as_bytes());
                let end = self.position + stream.byte_offset();
                drop(stream);
                self.advance(end);
                match elements(&body) {
                    None => return Some(Ok(Item { body, at })),
                    Some(found) => {
                        let place = |(index, body)| Item { body, at: format!("{at}, element {}", index + 1) };
                        self.elements = found.into_iter().enumerate().map(place).collect();
                        self.elements.reverse();
                        return self.next();
                    }
                }
            }
            Err(error) => error,
        };
        drop(stream);
        self.unreadable += 1;
        if self.unreadable == UNREADABLE_LIMIT {
            self.advance(self.bytes.len());
            let reason = format!("{UNREADABLE_LIMIT} places are not JSON, the rest of the file is skipped; {ACCEPTED}");
            return Some(Err(FileError { at, reason }));
        }
        self.advance(self.resume());
        let reason = if error.is_eof() {
            "the JSON value that begins here does not end".to_owned()
        } else {
            // The position that serde_json adds counts from the beginning of the value.
            let text = error.to_string();
            let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
            format!("the JSON value that begins here cannot be read: {reason}")
        };
        Some(Err(FileError { at, reason }))
    }
}

/// The elements of an array; None for any other value.
fn elements(value: &Bytes) -> Option<Vec<Bytes>> {
    if value.first() != Some(&b'[') {
        return None;
    }
    let elements: Vec<&RawValue> = serde_json::from_slice(value).ok()?;
    Some(elements.into_iter().map(|element| value.slice_ref(element.get().as_bytes())).collect())
}

/// The keys of an object; for any other value what it is.
pub(super) fn keys(value: &[u8]) -> Result<Vec<String>, &'static str> {
    let mut json = serde_json::Deserializer::from_slice(value);
    match json.deserialize_any(Keys) {
        Ok(Some(keys)) => Ok(keys),
        Ok(None) => Err("a list in a list"),
        Err(_) => Err("a JSON value that is no object"),
    }
}

/// Collects the keys of an object and looks at no value. None for a list.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Option<Vec<String>>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = fields.next_key()? {
            fields.next_value::<IgnoredAny>()?;
            keys.push(key);
        }
        Ok(Some(keys))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(E::custom("a text"))
    }
}
