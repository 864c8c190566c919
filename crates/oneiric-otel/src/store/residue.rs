//! What the columns of a row cannot say.

use prost::Message as _;

/// The `residue` column of a row: everything that makes the record read back equal the record that came, and that has
/// no column of its own. Absent (NULL) where the columns say it all.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Residue {
    /// Hints for `attributes`: see [`super::fidelity`].
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) attributes: Vec<u8>,
    /// Hints for `events`, `body_json`, `exemplars` or `metadata`.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) details: Vec<u8>,
    /// Hints for `links`.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) links: Vec<u8>,
    /// The record with nothing but its events, or its exemplars, where jsonb cannot carry them.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) exact_details: Vec<u8>,
    /// The span with nothing but its links, where jsonb cannot carry them.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) exact_links: Vec<u8>,
    /// Texts that contain NUL, which a text column refuses.
    #[prost(message, repeated, tag = "6")]
    pub(crate) texts: Vec<ExactText>,
    /// A log's trace id that is not 16 bytes, or all zero.
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) trace_id: Vec<u8>,
    /// A log's severity number beyond a smallint.
    #[prost(sint32, optional, tag = "8")]
    pub(crate) severity_number: Option<i32>,
}

/// A text column's exact value.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExactText {
    #[prost(enumeration = "Column", tag = "1")]
    pub(crate) column: i32,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// The text columns that can meet a NUL. The numbers are stored: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Column {
    Name = 0,
    StatusMessage = 1,
    TraceState = 2,
    SeverityText = 3,
    EventName = 4,
    Body = 5,
    Unit = 6,
    Description = 7,
}

impl Residue {
    /// The text as a column can hold it: NUL becomes U+FFFD, and the exact text is kept here.
    pub(crate) fn text<'a>(&mut self, column: Column, text: &'a str) -> std::borrow::Cow<'a, str> {
        if !text.contains('\0') {
            return text.into();
        }
        self.texts.push(ExactText { column: column as i32, value: text.to_owned() });
        without_nul(text)
    }

    /// The inverse of [`Self::text`].
    pub(crate) fn restore(&mut self, column: Column, stored: String) -> String {
        match self.texts.iter_mut().find(|exact| exact.column == column as i32) {
            Some(exact) => std::mem::take(&mut exact.value),
            None => stored,
        }
    }

    /// The column's bytes; empty means NULL.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Reads the column.
    pub(crate) fn from_bytes(bytes: Option<&[u8]>) -> Result<Self, super::fidelity::Mismatch> {
        Self::decode(bytes.unwrap_or_default()).map_err(|_| super::fidelity::Mismatch)
    }
}

/// A text that PostgreSQL accepts.
pub(crate) fn without_nul(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// The start of a text, at most `bytes` long and cut between characters: for columns under a btree.
pub(crate) fn prefix(text: &str, bytes: usize) -> &str {
    let end = text.floor_char_boundary(bytes.min(text.len()));
    text.get(..end).unwrap_or_default()
}
