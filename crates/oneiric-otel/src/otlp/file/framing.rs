//! Protobuf messages that are preceded by their lengths.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use super::window::Window;
use super::{FileError, TOO_LONG};

/// The longest prefix, a varint of 64 bits.
pub(super) const PREFIX_BYTES: usize = 10;

/// How lengths are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Four bytes, big-endian.
    Fixed,
    /// A varint.
    Varint,
}

impl Framing {
    /// The length that stands at the beginning of `rest`, which is moved behind it.
    fn take_length(self, rest: &mut Bytes) -> Option<u64> {
        match self {
            Self::Fixed => rest.try_get_u32().ok().map(u64::from),
            Self::Varint => prost::decode_length_delimiter(rest).ok().map(|length| length as u64),
        }
    }

    /// The messages of a file; None unless they fill it exactly. Of a beginning of a file the last message may go on
    /// behind it.
    pub(super) fn split(self, bytes: &Bytes, whole: bool) -> Option<Vec<Bytes>> {
        let mut rest = bytes.clone();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            if !whole && rest.len() < PREFIX_BYTES {
                break;
            }
            let length = usize::try_from(self.take_length(&mut rest)?).ok()?;
            if length > rest.len() {
                if whole {
                    return None;
                }
                break;
            }
            messages.push(rest.split_to(length));
        }
        Some(messages)
    }
}

/// The messages of a file that is too large to be looked at as a whole.
#[derive(Debug)]
pub(super) struct Messages<R> {
    window: Window<R>,
    framing: Framing,
    /// The longest message that is given out.
    limit: usize,
    given: u64,
}

impl<R: Read> Messages<R> {
    pub(super) fn new(window: Window<R>, framing: Framing, limit: usize) -> Self {
        Self { window, framing, limit, given: 0 }
    }

    fn read_next(&mut self) -> io::Result<Option<Result<Bytes, String>>> {
        self.window.fill(PREFIX_BYTES)?;
        let mut rest = self.window.bytes().clone();
        if rest.is_empty() {
            return Ok(None);
        }
        let before = rest.len();
        let Some(length) = self.framing.take_length(&mut rest) else {
            self.window.close();
            return Ok(Some(Err("there is no length, the rest of the file is skipped".to_owned())));
        };
        self.window.pass(before - rest.len());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let too_long = length > self.limit;
        let missing = if too_long { self.skip(length)? } else { self.take_missing(length)? };
        if missing {
            self.window.close();
            return Ok(Some(Err(format!("the file ends before the {length} bytes of the message"))));
        }
        if too_long {
            return Ok(Some(Err(format!("it has {length} bytes; {TOO_LONG}"))));
        }
        let message = self.window.bytes().slice(..length);
        self.window.pass(length);
        Ok(Some(Ok(message)))
    }

    /// Brings a message into view. Whether it is not there as a whole.
    fn take_missing(&mut self, length: usize) -> io::Result<bool> {
        self.window.fill(length)?;
        Ok(self.window.bytes().len() < length)
    }

    /// Passes a message piece by piece. Whether it is not there as a whole.
    fn skip(&mut self, length: usize) -> io::Result<bool> {
        let mut left = length;
        loop {
            let seen = left.min(self.window.bytes().len());
            self.window.pass(seen);
            left -= seen;
            if left == 0 || self.window.ended() {
                return Ok(left > 0);
            }
            self.window.grow()?;
        }
    }
}

impl<R: Read> Iterator for Messages<R> {
    /// A message and where it stands.
    type Item = Result<(Bytes, String), FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = format!("message {}", self.given + 1);
        let next = self.read_next().unwrap_or_else(|error| {
            self.window.close();
            Some(Err(super::unread(&error)))
        })?;
        self.given += 1;
        Some(match next {
            Ok(message) => Ok((message, at)),
            Err(reason) => Err(FileError { at, reason }),
        })
    }
}
