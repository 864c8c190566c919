//! Which traces are meant: by time, service, status, duration and attributes.
//!
//! An attribute filter looks at the attributes of spans and of their resources. A trace passes if *one* of its spans, or
//! that span's resource, matches; several filters may be met by different spans, so `db.system=redis` and
//! `http.route=/pay` finds the request to /pay that went to redis. Old and new names of the semantic conventions are
//! one, and so are the types of a value: `200` is the integer, the double and the string.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::QueryError;
use super::argument::{name_argument, service_argument};
use super::pattern::Pattern;
use super::range::{check_order, unix_nanos};
use crate::conventions::same_names;
use crate::store::attributes::{AttributeCondition, AttributeTest};
use crate::store::search::RowFilter;

/// Attribute filters of one query at most.
const MAX_ATTRIBUTE_FILTERS: usize = 20;
/// Bytes of a filter's key or value at most.
const MAX_FILTER_BYTES: usize = 4096;

/// Characters that end a key in the short form, and the one that takes this meaning from them.
const KEY_ENDS: [char; 6] = ['=', '!', '<', '>', '~', '\\'];

/// Which traces are meant. An empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TraceFilter {
    /// Began at or after this time.
    pub since: Option<Timestamp>,
    /// Began before this time.
    pub until: Option<Timestamp>,
    /// A service that took part.
    pub service: Option<String>,
    /// Name of the root span.
    pub operation: Option<String>,
    /// `error`, `ok` or `unset`.
    pub status: Option<String>,
    /// Took at least this long.
    pub min_duration: Option<Duration>,
    /// Took at most this long.
    pub max_duration: Option<Duration>,
    /// Each is met by one of the trace's spans, or that span's resource.
    pub attributes: Vec<AttributeFilter>,
}

/// What an attribute must be. Its short form, as [`FromStr`] reads and [`fmt::Display`] writes it:
///
/// | form | the attribute |
/// |---|---|
/// | `key` | is there |
/// | `key=value` | is the value, or a list that has it |
/// | `key!=value` | is there and is another value |
/// | `key>n` `key>=n` `key<n` `key<=n` | is a number, or a text that is one, on that side of `n` |
/// | `key~pattern` | contains the pattern, in either case; with `%` (any text) or `_` (one character) it is as a whole like the pattern; `\` takes their meaning away |
///
/// In the key `\` goes before `= ! < > ~ \`. The value is everything after the operator, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeFilter {
    /// Name of the attribute, by a current or a former convention.
    pub key: String,
    /// How it is compared.
    pub operator: AttributeOperator,
    /// With what; empty for [`AttributeOperator::Exists`].
    pub value: String,
}

/// How an attribute is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeOperator {
    /// It is there.
    Exists,
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `~`
    Like,
}

impl AttributeOperator {
    /// Two characters before one: the first that fits is meant.
    const SIGNS: [(&'static str, Self); 7] = [
        ("!=", Self::NotEqual),
        (">=", Self::GreaterOrEqual),
        ("<=", Self::LessOrEqual),
        ("=", Self::Equal),
        (">", Self::Greater),
        ("<", Self::Less),
        ("~", Self::Like),
    ];

    /// As it stands in the short form; empty for [`Self::Exists`].
    pub fn sign(self) -> &'static str {
        Self::SIGNS.iter().find(|(_, operator)| *operator == self).map_or("", |(sign, _)| sign)
    }
}

impl FromStr for AttributeFilter {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let mut key = String::new();
        let mut rest = text.chars();
        loop {
            let here = rest.as_str();
            if let Some((sign, operator)) = AttributeOperator::SIGNS.iter().find(|(sign, _)| here.starts_with(sign)) {
                let value = here.strip_prefix(sign).unwrap_or_default().to_owned();
                return Self { key: key.trim().to_owned(), operator: *operator, value }.checked();
            }
            match rest.next() {
                None => {
                    let operator = AttributeOperator::Exists;
                    return Self { key: key.trim().to_owned(), operator, value: String::new() }.checked();
                }
                Some('\\') => key.push(rest.next().ok_or_else(|| wrong("a character after \\ in the key"))?),
                Some(character) => key.push(character),
            }
        }
    }
}

impl fmt::Display for AttributeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.key.chars() {
            if KEY_ENDS.contains(&character) {
                f.write_str("\\")?;
            }
            write!(f, "{character}")?;
        }
        write!(f, "{}{}", self.operator.sign(), self.value)
    }
}

impl Serialize for AttributeFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl AttributeFilter {
    fn checked(self) -> Result<Self, QueryError> {
        self.condition().map(|_| self)
    }

    /// The filter as the store wants it.
    pub(crate) fn condition(&self) -> Result<AttributeCondition, QueryError> {
        if self.key.is_empty() || self.key.len() > MAX_FILTER_BYTES || self.value.len() > MAX_FILTER_BYTES {
            return Err(wrong(
                "a key, or key=value, key!=value, key>n, key>=n, key<n, key<=n or key~pattern, of at most 4096 bytes each",
            ));
        }
        if self.key.contains('\0') || self.value.contains('\0') {
            return Err(wrong("text without NUL"));
        }
        let names = same_names(&self.key);
        let test = match self.operator {
            AttributeOperator::Exists if self.value.is_empty() => AttributeTest::Exists,
            AttributeOperator::Exists => return Err(wrong("no value where the key has only to be there")),
            AttributeOperator::Equal => AttributeTest::Equal(documents(&names, &self.value)),
            AttributeOperator::NotEqual => AttributeTest::NotEqual(documents(&names, &self.value)),
            AttributeOperator::Like => {
                let pattern = Pattern::parse("attribute", &self.value)?;
                AttributeTest::Like { operator: pattern.operator(), operand: pattern.operand() }
            }
            AttributeOperator::Greater
            | AttributeOperator::GreaterOrEqual
            | AttributeOperator::Less
            | AttributeOperator::LessOrEqual => {
                let number = number(self.value.trim())
                    .ok_or_else(|| wrong(&format!("a number after {} (got {:?})", self.operator.sign(), self.value)))?;
                AttributeTest::Compare { operator: self.operator.sign(), number }
            }
        };
        Ok(AttributeCondition::new(names.into_iter().map(str::to_owned).collect(), test))
    }
}

fn wrong(accepted: &str) -> QueryError {
    QueryError::InvalidArgument { name: "attribute", accepted: accepted.to_owned() }
}

/// What attributes contain, as JSON, when one of the names has the value or a list with it.
pub(super) fn documents(names: &[&str], value: &str) -> Vec<String> {
    let forms = forms(value);
    let mut documents = Vec::with_capacity(names.len() * forms.len() * 2);
    for name in names {
        let key = serde_json::Value::from(*name);
        documents.extend(forms.iter().map(|form| format!("{{{key}:{form}}}")));
        documents.extend(forms.iter().map(|form| format!("{{{key}:[{form}]}}")));
    }
    documents
}

/// The JSON values that a text may have been stored as: itself, and the number or boolean that it reads as.
fn forms(text: &str) -> Vec<String> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut forms = vec![quoted(text)];
    let mut add = |form: String| {
        if !forms.contains(&form) {
            forms.push(form);
        }
    };
    let plain = text.trim();
    if let Some(number) = number(plain) {
        // Of a number the integral form, and the one with a fraction, may have come as a text.
        let whole = number.strip_suffix(".0").unwrap_or(&number);
        add(quoted(whole));
        if whole.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            add(quoted(&format!("{whole}.0")));
        }
        add(number);
    } else if let Ok(infinite) = plain.parse::<f64>()
        && infinite.is_infinite()
    {
        add(quoted(if infinite > 0.0 { "Infinity" } else { "-Infinity" }));
    }
    for (word, value) in [("true", true), ("false", false)] {
        if plain.eq_ignore_ascii_case(word) {
            add(quoted(word));
            add(value.to_string());
        }
    }
    forms
}

/// A finite number as JSON writes it; integers keep every digit.
fn number(text: &str) -> Option<String> {
    if let Ok(integer) = text.parse::<i128>() {
        return Some(integer.to_string());
    }
    let double = text.parse::<f64>().ok().filter(|double| double.is_finite())?;
    Some(format!("{double:?}"))
}

/// The filter as the store wants it.
pub(super) fn row_filter(filter: &TraceFilter) -> Result<RowFilter, QueryError> {
    check_order(("since", filter.since), ("until", filter.until))?;
    if let Some(status) = &filter.status
        && !["error", "ok", "unset"].contains(&status.as_str())
    {
        return Err(QueryError::InvalidArgument { name: "status", accepted: "error, ok or unset".to_owned() });
    }
    let service = service_argument(filter.service.as_deref())?;
    let operation = filter.operation.as_deref().map(|name| name_argument("operation", name)).transpose()?;
    let duration = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    if let (Some(min), Some(max)) = (filter.min_duration, filter.max_duration)
        && max < min
    {
        return Err(QueryError::InvalidArgument {
            name: "max_duration",
            accepted: "a duration not below min_duration".to_owned(),
        });
    }
    if filter.attributes.len() > MAX_ATTRIBUTE_FILTERS {
        return Err(wrong(&format!("at most {MAX_ATTRIBUTE_FILTERS} filters")));
    }
    Ok(RowFilter {
        since_unix_nanos: filter.since.map(unix_nanos),
        until_unix_nanos: filter.until.map(unix_nanos),
        service,
        operation,
        status: filter.status.clone(),
        min_duration_ns: filter.min_duration.map(duration),
        max_duration_ns: filter.max_duration.map(duration),
        attributes: filter.attributes.iter().map(AttributeFilter::condition).collect::<Result<_, _>>()?,
        except: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> AttributeFilter {
        text.parse().expect(text)
    }

    #[test]
    fn the_short_form_is_read() {
        for (text, key, operator, value) in [
            ("http.route", "http.route", AttributeOperator::Exists, ""),
            ("k=a=b", "k", AttributeOperator::Equal, "a=b"),
            ("k=", "k", AttributeOperator::Equal, ""),
            (" k !=v", "k", AttributeOperator::NotEqual, "v"),
            ("k>=10", "k", AttributeOperator::GreaterOrEqual, "10"),
            ("k>1e3", "k", AttributeOperator::Greater, "1e3"),
            ("k<-0.5", "k", AttributeOperator::Less, "-0.5"),
            ("k<= 5", "k", AttributeOperator::LessOrEqual, " 5"),
            ("k~a%", "k", AttributeOperator::Like, "a%"),
            ("wow!", "wow!", AttributeOperator::Exists, ""),
            (r"a\=b=c", "a=b", AttributeOperator::Equal, "c"),
        ] {
            assert_eq!(
                read(text),
                AttributeFilter { key: key.to_owned(), operator, value: value.to_owned() },
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_by_name() {
        for text in ["", "=v", "k>many", "k<", "k>NaN", "k>1e999", r"k\", r"k~a\", "k~", "k=\0"] {
            let error = text.parse::<AttributeFilter>().expect_err(text).to_string();
            assert!(error.starts_with("attribute: expected "), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(key in "[a-z.=!<>~\\\\]{1,8}", sign in 0usize..7, value in "[^\0]{0,8}") {
            let (sign, operator) = AttributeOperator::SIGNS[sign];
            let filter = AttributeFilter { key, operator, value };
            if filter.condition().is_ok() {
                let text = filter.to_string();
                prop_assert_eq!(text.parse::<AttributeFilter>().expect("its own form"), filter, "{} {}", sign, text);
            }
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".*") {
            let _read = text.parse::<AttributeFilter>();
        }
    }

    #[test]
    fn types_of_values_do_not_matter() {
        assert_eq!(forms("200"), [r#""200""#, r#""200.0""#, "200"]);
        assert_eq!(forms("1.0"), [r#""1.0""#, r#""1""#, "1.0"]);
        assert_eq!(forms("0.5"), [r#""0.5""#, "0.5"]);
        assert_eq!(forms("True"), [r#""True""#, r#""true""#, "true"]);
        assert_eq!(forms("9223372036854775807").last().map(String::as_str), Some("9223372036854775807"));
        assert_eq!(forms("inf"), [r#""inf""#, r#""Infinity""#]);
        assert_eq!(forms("a\"b"), [r#""a\"b""#]);
    }
}
