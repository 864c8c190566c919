//! The types that settings have: how each is read, checked and shown.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::connection_url;
use super::raw::Raw;

/// The values that a setting accepts. Shown as the end of "expected ...".
#[derive(Debug, Clone, Copy)]
pub enum Accepts {
    /// A whole number between these, both included. [`u64::MAX`] is no bound.
    Integer {
        /// The least.
        least: u64,
        /// The greatest.
        most: u64,
    },
    /// A number between these, both included.
    Number {
        /// The least.
        least: f64,
        /// The greatest.
        most: f64,
    },
    /// True or false.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A text.
    Text {
        /// What it must be, for a person.
        what: &'static str,
        /// Whether a text is that.
        is_good: fn(&str) -> bool,
    },
}

impl Accepts {
    fn has_integer(self, value: u64) -> bool {
        matches!(self, Self::Integer { least, most } if (least..=most).contains(&value))
    }

    fn has_text(self, value: &str) -> bool {
        match self {
            Self::Text { is_good, .. } => is_good(value),
            Self::Word(words) => words.contains(&value),
            _ => false,
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { least, most: u64::MAX } => write!(f, "a whole number from {least} up"),
            Self::Integer { least, most } => write!(f, "a whole number from {least} to {most}"),
            Self::Number { least, most } => write!(f, "a number from {least} to {most}"),
            Self::Switch => f.write_str("true or false"),
            Self::Word([word]) => f.write_str(word),
            Self::Word([first @ .., last]) => write!(f, "{} or {last}", first.join(", ")),
            Self::Word([]) => f.write_str("nothing"),
            Self::Text { what, .. } => f.write_str(what),
        }
    }
}

/// A value as it may be shown to anybody: a secret is only said to be there.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// Not set.
    Unset,
    /// A switch.
    Switch(bool),
    /// A whole number.
    Integer(u64),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// Several texts.
    List(Vec<String>),
    /// Set, and a secret.
    Hidden,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("not set"),
            Self::Switch(on) => on.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::List(texts) if texts.is_empty() => f.write_str("none"),
            Self::List(texts) => f.write_str(&texts.join(",")),
            Self::Hidden => f.write_str("(hidden)"),
        }
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unset => serializer.serialize_none(),
            Self::Switch(on) => serializer.serialize_bool(*on),
            Self::Integer(number) => serializer.serialize_u64(*number),
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(texts) => texts.serialize(serializer),
            Self::Hidden => serializer.collect_str(self),
        }
    }
}

/// A text that is never shown: neither by Debug nor in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it is meant.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A `postgresql://` URL. Shown without its password, or not at all where that cannot be told from the rest.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// A URL, checked with the settings that it is part of.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, to connect with.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL without its password, and the password. None if the two cannot be told apart.
    pub fn split_password(&self) -> Option<connection_url::Public> {
        connection_url::split_password(&self.0)
    }

    /// Whether there is a password in it, or may be.
    pub fn may_have_password(&self) -> bool {
        self.split_password().is_none_or(|public| public.password.is_some())
    }

    pub(super) fn is_one(url: &str) -> bool {
        let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
        rest.is_some_and(|rest| !rest.is_empty())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&connection_url::show(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a field of the settings can be.
pub(super) trait Value: Sized {
    /// Whether what was found is kept out of errors.
    const IS_SECRET: bool = false;
    /// Whether nothing of it may be shown.
    const IS_WHOLLY_SECRET: bool = false;

    /// The value, if it is of this type.
    fn read(raw: &Raw) -> Option<Self>;

    fn is_within(&self, accepts: Accepts) -> bool;

    fn show(&self) -> Shown;
}

impl<V: Value> Value for Option<V> {
    const IS_SECRET: bool = V::IS_SECRET;
    const IS_WHOLLY_SECRET: bool = V::IS_WHOLLY_SECRET;

    fn read(raw: &Raw) -> Option<Self> {
        V::read(raw).map(Some)
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        self.as_ref().is_none_or(|value| value.is_within(accepts))
    }

    fn show(&self) -> Shown {
        self.as_ref().map_or(Shown::Unset, Value::show)
    }
}

impl Value for bool {
    fn read(raw: &Raw) -> Option<Self> {
        if let Raw::Switch(on) = raw {
            return Some(*on);
        }
        match raw.said()?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        matches!(accepts, Accepts::Switch)
    }

    fn show(&self) -> Shown {
        Shown::Switch(*self)
    }
}

macro_rules! whole_numbers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            fn read(raw: &Raw) -> Option<Self> {
                match raw {
                    Raw::Integer(number) => Self::try_from(*number).ok(),
                    // A sign is no digit.
                    _ => raw.said().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok(),
                }
            }

            fn is_within(&self, accepts: Accepts) -> bool {
                u64::try_from(*self).is_ok_and(|number| accepts.has_integer(number))
            }

            fn show(&self) -> Shown {
                Shown::Integer(u64::try_from(*self).unwrap_or(u64::MAX))
            }
        }
    )+};
}

whole_numbers!(u32, u64, usize);

impl Value for f64 {
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(number) => Some(*number as Self),
            Raw::Number(number) => Some(*number),
            _ => raw.said()?.parse().ok(),
        }
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        matches!(accepts, Accepts::Number { least, most } if (least..=most).contains(self))
    }

    fn show(&self) -> Shown {
        Shown::Number(*self)
    }
}

impl Value for String {
    fn read(raw: &Raw) -> Option<Self> {
        raw.text().map(str::to_owned)
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        accepts.has_text(self)
    }

    fn show(&self) -> Shown {
        Shown::Text(self.clone())
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Said(path) => Some(Self::from(path)),
            _ => raw.text().map(Self::from),
        }
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        accepts.has_text(&self.to_string_lossy())
    }

    fn show(&self) -> Shown {
        Shown::Text(self.display().to_string())
    }
}

/// Separated by commas where there is only text.
impl Value for Vec<String> {
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::List(values) => {
                values.iter().map(|value| if let Raw::Text(text) = value { Some(text.clone()) } else { None }).collect()
            }
            Raw::Text(text) => Some(vec![text.clone()]),
            _ => Some(raw.said()?.split(',').map(|part| part.trim().to_owned()).collect()),
        }
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        self.iter().all(|text| accepts.has_text(text))
    }

    fn show(&self) -> Shown {
        Shown::List(self.clone())
    }
}

impl Value for Secret {
    const IS_SECRET: bool = true;
    const IS_WHOLLY_SECRET: bool = true;

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().map(Self::new)
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        accepts.has_text(&self.0)
    }

    fn show(&self) -> Shown {
        Shown::Hidden
    }
}

impl Value for DatabaseUrl {
    const IS_SECRET: bool = true;

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().map(Self::new)
    }

    fn is_within(&self, accepts: Accepts) -> bool {
        accepts.has_text(&self.0)
    }

    fn show(&self) -> Shown {
        Shown::Text(self.to_string())
    }
}

/// An enum whose variants are words.
macro_rules! words {
    ($(#[doc = $doc:literal])+ pub enum $name:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ $variant,)+
        }

        impl $name {
            /// The words, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::settings::value::Value for $name {
            fn read(raw: &$crate::settings::raw::Raw) -> Option<Self> {
                match raw.text()? {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn is_within(&self, accepts: $crate::settings::value::Accepts) -> bool {
                matches!(accepts, $crate::settings::value::Accepts::Word(_))
            }

            fn show(&self) -> $crate::settings::value::Shown {
                $crate::settings::value::Shown::Text(self.as_str().to_owned())
            }
        }
    };
}
pub(super) use words;
