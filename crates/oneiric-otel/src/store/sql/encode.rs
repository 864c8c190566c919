//! Values of a caller, as text that PostgreSQL reads according to the type it expects at that place.

use std::error::Error;

use bytes::BytesMut;
use serde_json::Value;
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use super::SqlFailure;

/// A value in PostgreSQL's text form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter(Option<String>);

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// The values for `$1`, `$2` and so on.
pub(super) fn parameters(statement: &Statement, values: &[Value]) -> Result<Vec<Parameter>, SqlFailure> {
    let kinds = statement.params();
    if kinds.len() != values.len() {
        let accepted = match kinds.len() {
            0 => format!("no values: the statement has no $1, and {} came", values.len()),
            1 => format!("one value, for $1; {} came", values.len()),
            count => format!("{count} values, for $1 to ${count}; {} came", values.len()),
        };
        return Err(SqlFailure::Argument { name: "params", accepted });
    }
    kinds.iter().zip(values).zip(1_usize..).map(|((kind, value), number)| parameter(kind, value, number)).collect()
}

fn parameter(kind: &Type, value: &Value, number: usize) -> Result<Parameter, SqlFailure> {
    let is_json = [Type::JSON, Type::JSONB].contains(kind);
    Ok(Parameter(match value {
        Value::Null => None,
        // As PostgreSQL would read it between quotes.
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(_) | Value::Object(_) if is_json => Some(value.to_string()),
        Value::Array(elements) if matches!(kind.kind(), Kind::Array(_)) => {
            let mut text = String::new();
            array(&mut text, elements);
            Some(text)
        }
        Value::Array(_) | Value::Object(_) => {
            let found = if value.is_array() { "a list" } else { "an object" };
            return Err(SqlFailure::Argument {
                name: "params",
                accepted: format!("a value of type {} for ${number}, found {found}", kind.name()),
            });
        }
    }))
}

fn array(text: &mut String, elements: &[Value]) {
    text.push('{');
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match element {
            Value::Null => text.push_str("NULL"),
            Value::Array(elements) => array(text, elements),
            Value::String(element) => quoted(text, element),
            other => quoted(text, &other.to_string()),
        }
    }
    text.push('}');
}

fn quoted(text: &mut String, element: &str) {
    text.push('"');
    for c in element.chars() {
        if c == '"' || c == '\\' {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_what_the_server_reads() {
        let text = |kind: &Type, json: &str| {
            parameter(kind, &serde_json::from_str(json).expect("JSON"), 1).expect("accepted").0.unwrap_or_default()
        };
        assert_eq!(text(&Type::INT8, "9223372036854775807"), "9223372036854775807");
        assert_eq!(text(&Type::BOOL, "true"), "true");
        assert_eq!(text(&Type::INTERVAL, "\"1h\""), "1h");
        assert_eq!(text(&Type::JSONB, r#"{"a": [1, null]}"#), r#"{"a":[1,null]}"#);
        assert_eq!(text(&Type::TEXT_ARRAY, r#"["a", "b\"\\,{}", null, 1]"#), r#"{"a","b\"\\,{}",NULL,"1"}"#);
        assert_eq!(text(&Type::INT4_ARRAY, "[[1, 2], [3, 4]]"), r#"{{"1","2"},{"3","4"}}"#);
        assert!(matches!(parameter(&Type::TEXT, &Value::Null, 1), Ok(Parameter(None))));
        assert!(matches!(parameter(&Type::TEXT, &Value::Array(Vec::new()), 1), Err(SqlFailure::Argument { .. })));
    }
}
