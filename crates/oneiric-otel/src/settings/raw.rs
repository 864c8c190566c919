//! A value as a source states it, before anybody knows which setting it is for.

use std::ffi::{OsStr, OsString};
use std::fmt;

use super::connection_url;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// What stands in a file, a variable or on a command line.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// A key of a file without a value.
    Nothing,
    Switch(bool),
    Integer(i128),
    Number(f64),
    /// A text of a file.
    Text(String),
    List(Vec<Raw>),
    /// In the order of the file.
    Table(Vec<(String, Raw)>),
    /// What a variable or a command line says, where everything is text.
    Said(OsString),
}

impl Raw {
    /// The text, wherever it comes from.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Said(text) => text.to_str(),
            _ => None,
        }
    }

    /// The text of a source that has nothing but text.
    pub(super) fn said(&self) -> Option<&str> {
        if let Self::Said(text) = self { text.to_str() } else { None }
    }

    /// Whether the source has the key and says nothing about it.
    pub(super) fn says_nothing(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Said(text) => text.as_os_str() == OsStr::new(""),
            _ => false,
        }
    }

    /// How it is told in an error. Long texts are cut, and passwords in URLs left out.
    pub(super) fn describe(&self) -> String {
        const CHARACTERS: usize = 80;
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Switch(on) => on.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Text(text) => {
                format!("the text {:?}", connection_url::show(text).chars().take(CHARACTERS).collect::<String>())
            }
            Self::Said(text) => {
                let shown = connection_url::show(&text.to_string_lossy());
                format!("{:?}", shown.chars().take(CHARACTERS).collect::<String>())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Switch(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(i128::try_from(value).map_or(Raw::Number(value as f64), Raw::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Raw::Table(table))
    }
}
