//! The JSON values of a file, one after the other, whatever separates them.

use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::window::Window;
use super::{ACCEPTED, FileError, TOO_LONG};

/// After so many unreadable places a file is given up: it is not what it was taken for, and each place may be looked for
/// the end of a value as far as the longest value goes.
const UNREADABLE_LIMIT: usize = 1000;

/// So many bytes of a file's beginning tell whether it is JSON.
pub(super) const TELLING_BYTES: usize = 64;

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
pub(super) struct Values<R> {
    window: Window<R>,
    /// The longest value that is given out.
    limit: usize,
    /// The line of the window's beginning, from 1.
    line: usize,
    /// The array at the top that is being read.
    array: Option<Array>,
    unreadable: usize,
}

/// An array at the top.
#[derive(Debug)]
struct Array {
    /// Where it begins.
    at: String,
    /// Elements that were read.
    elements: usize,
    /// Whether an element stands right before, so that a comma or the end has to come.
    after_element: bool,
}

/// Whether it begins as a JSON object or array does. A protobuf request can begin with the bytes of a line feed and a
/// brace, but the tags and lengths that follow at once are bytes that JSON text never has.
pub(super) fn looks_like_json(bytes: &[u8]) -> bool {
    let is_text = |byte: &u8| *byte >= b' ' || matches!(byte, b'\t' | b'\n' | b'\r');
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) && bytes.iter().take(32).all(is_text)
}

impl<R: Read> Values<R> {
    pub(super) fn new(window: Window<R>, limit: usize) -> Self {
        Self { window, limit, line: 1, array: None, unreadable: 0 }
    }

    /// Moves on, counting lines.
    fn pass(&mut self, count: usize) {
        let passed = self.window.bytes().get(..count).unwrap_or_default();
        self.line += passed.split(|byte| *byte == b'\n').skip(1).count();
        self.window.pass(count);
    }

    /// Moves on to what is no space, and says what it is; None at the end.
    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            let bytes = self.window.bytes();
            let space = bytes.len() - bytes.trim_ascii_start().len();
            let first = bytes.get(space).copied();
            self.pass(space);
            if first.is_some() || self.window.ended() {
                return Ok(first);
            }
            self.window.grow()?;
        }
    }

    fn read_next(&mut self) -> io::Result<Option<Result<Item, FileError>>> {
        loop {
            let first = self.skip_space()?;
            let Some(array) = &mut self.array else {
                match first {
                    None => return Ok(None),
                    Some(b'[') => {
                        let at = format!("line {}", self.line);
                        self.array = Some(Array { at, elements: 0, after_element: false });
                        self.pass(1);
                        continue;
                    }
                    Some(_) => {}
                }
                let at = format!("line {}", self.line);
                return Ok(Some(self.read_value(at)?));
            };
            match first {
                Some(b']') => {
                    self.array = None;
                    self.pass(1);
                }
                Some(b',') if array.after_element => {
                    array.after_element = false;
                    self.pass(1);
                }
                Some(_) if !array.after_element => {
                    array.elements += 1;
                    array.after_element = true;
                    let at = format!("{}, element {}", array.at, array.elements);
                    return Ok(Some(self.read_value(at)?));
                }
                // It was cut off. What comes now stands for itself.
                _ => {
                    let at = std::mem::take(&mut array.at);
                    self.array = None;
                    let reason = "the array that begins here does not end".to_owned();
                    return Ok(Some(Err(FileError { at, reason })));
                }
            }
        }
    }

    /// Reads the value that begins the window, and moves on.
    fn read_value(&mut self, at: String) -> io::Result<Result<Item, FileError>> {
        let reason = loop {
            let bytes = self.window.bytes().clone();
            let mut stream = serde_json::Deserializer::from_slice(&bytes).into_iter::<&RawValue>();
            let may_grow = !self.window.ended() && bytes.len() <= self.limit;
            match stream.next() {
                Some(Ok(value)) => {
                    let end = stream.byte_offset();
                    // The digits of a number may go on behind the window.
                    let is_closed = end < bytes.len() || matches!(bytes.last(), Some(b'}' | b']' | b'"'));
                    if !is_closed && may_grow {
                        self.window.grow()?;
                        continue;
                    }
                    let body = bytes.slice_ref(value.get().as_bytes());
                    self.pass(end);
                    if body.len() > self.limit {
                        let reason = format!("the JSON value that begins here has {} bytes; {TOO_LONG}", body.len());
                        return Ok(Err(FileError { at, reason }));
                    }
                    return Ok(Ok(Item { body, at }));
                }
                Some(Err(error)) if error.is_eof() || may_grow && is_cut_in_number(&bytes) => {
                    if may_grow {
                        self.window.grow()?;
                        continue;
                    }
                    if self.window.ended() {
                        break "the JSON value that begins here does not end".to_owned();
                    }
                    break format!("the JSON value that begins here does not end soon; {TOO_LONG}");
                }
                Some(Err(error)) => {
                    // The position that serde_json adds counts from the beginning of the value.
                    let text = error.to_string();
                    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
                    break format!("the JSON value that begins here cannot be read: {reason}");
                }
                // There is something: the window does not begin with space.
                None => break "the JSON value that begins here cannot be read".to_owned(),
            }
        };
        self.unreadable += 1;
        if self.unreadable == UNREADABLE_LIMIT {
            self.array = None;
            self.window.close();
            let reason = format!("{UNREADABLE_LIMIT} places are not JSON, the rest of the file is skipped; {ACCEPTED}");
            return Ok(Err(FileError { at, reason }));
        }
        self.resume()?;
        Ok(Err(FileError { at, reason }))
    }

    /// Moves to where reading goes on after a value that cannot be read: the next line that begins with an object or
    /// an array. The lines inside a value that is laid out over several are indented.
    fn resume(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.window.bytes();
            if let Some(found) = bytes.windows(2).position(|pair| matches!(pair, b"\n{" | b"\n[")) {
                self.pass(found + 1);
                if let Some(array) = &mut self.array {
                    array.after_element = false;
                }
                return Ok(());
            }
            if self.window.ended() {
                self.array = None;
                self.window.close();
                return Ok(());
            }
            // The last byte may be the line feed before a value.
            self.pass(bytes.len().saturating_sub(1));
            self.window.grow()?;
        }
    }
}

impl<R: Read> Iterator for Values<R> {
    type Item = Result<Item, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().unwrap_or_else(|error| {
            self.array = None;
            self.window.close();
            Some(Err(FileError { at: format!("line {}", self.line), reason: super::unread(&error) }))
        })
    }
}

/// Whether it ends where the next byte decides about a number. serde_json calls a number that is cut off there a wrong one.
fn is_cut_in_number(bytes: &[u8]) -> bool {
    matches!(bytes.last(), Some(b'-' | b'+' | b'.' | b'e' | b'E'))
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
