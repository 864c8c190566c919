//! A user's statement inside one of ours: the server stops at the row limit, leaves out a row that is too large, and
//! turns into text what this program cannot read.
//!
//! The text was prepared alone before, so it is one whole statement: no comment, string or parenthesis of it reaches
//! beyond its end, which a line break sets apart.

use std::fmt::Write as _;

use tokio_postgres::Statement;
use tokio_postgres::types::Type;

use super::{SqlLimits, decode};

/// Statements that can be run.
pub(super) const ACCEPTED: &str = "one statement that returns rows: SELECT, VALUES, TABLE, WITH, EXPLAIN or SHOW, and \
                                   nothing after it but a semicolon";

pub(super) struct Wrapped {
    pub(super) text: String,
    /// Characters before the user's text.
    pub(super) prefix: usize,
}

/// The statement in its wrapping. In that, EXPLAIN and SHOW are errors of syntax.
pub(super) fn wrap(text: &str, statement: &Statement, limits: SqlLimits) -> Wrapped {
    let kinds: Vec<&Type> = statement.columns().iter().map(tokio_postgres::Column::type_).collect();
    let list = |column: &dyn Fn(usize) -> String| (1..=kinds.len()).map(column).collect::<Vec<_>>().join(", ");
    let sizes: Vec<String> = kinds.iter().zip(1..).filter_map(|(kind, number)| size(kind, number)).collect();
    let size = if sizes.is_empty() { "0".to_owned() } else { sizes.join(" + ") };
    let cases = list(&|number| format!("CASE WHEN fits THEN c{number} END"));
    let read = list(&|number| match kinds.get(number - 1) {
        Some(kind) if !decode::is_readable(kind) => format!("c{number}::text AS c{number}"),
        _ => format!("c{number}"),
    });
    let mut wrapped =
        format!("SELECT {cases}, fits FROM (SELECT *, {size} <= {} AS fits FROM (SELECT {read} FROM (", limits.bytes);
    let prefix = wrapped.chars().count();
    wrapped.push_str(text.trim_end_matches(|c: char| c == ';' || c.is_whitespace()));
    // LIMIT and OFFSET keep the planner from computing a column twice.
    let names = list(&|number| format!("c{number}"));
    write!(wrapped, "\n) AS s({names}) LIMIT {}) AS r OFFSET 0) AS q", limits.rows.saturating_add(1))
        .unwrap_or_default(); // Writing to a string cannot fail.
    Wrapped { text: wrapped, prefix }
}

/// Whether what cannot be wrapped is EXPLAIN or SHOW, which return little: by its first word, and by the columns that the
/// server said it has.
pub(super) fn is_bare(text: &str, statement: &Statement) -> bool {
    let columns: Vec<&str> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
    match first_word(text).to_ascii_lowercase().as_str() {
        "explain" => columns == ["QUERY PLAN"],
        "show" => columns.len() == 1 || columns == ["name", "setting", "description"],
        _ => false,
    }
}

/// An expression for the bytes of a column, unless they are few.
fn size(kind: &Type, number: usize) -> Option<String> {
    let fixed = [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::OID,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::UUID,
        Type::DATE,
        Type::TIME,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::INTERVAL,
        Type::CHAR,
        Type::NAME,
        Type::VOID,
    ];
    if fixed.contains(kind) {
        return None;
    }
    let is_text = [Type::TEXT, Type::VARCHAR, Type::BYTEA].contains(kind) || !decode::is_readable(kind);
    // The length of what is stored compressed is that of the whole, and costs no decompression.
    let function = if is_text { "octet_length" } else { "pg_column_size" };
    Some(format!("coalesce(pg_catalog.{function}(c{number}), 0)::bigint"))
}

/// The first word, behind comments. What ends a comment is what ends it for PostgreSQL.
fn first_word(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once(['\n', '\r']).map_or("", |(_, rest)| rest)
        } else if rest.starts_with("/*") {
            behind_comment(rest)
        } else {
            return rest.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        }
        .trim_start();
    }
}

/// What stands behind a comment, which can have others in it.
fn behind_comment(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut rest = text;
    loop {
        if let Some(inner) = rest.strip_prefix("/*") {
            depth += 1;
            rest = inner;
        } else if let Some(outer) = rest.strip_prefix("*/") {
            depth = depth.saturating_sub(1);
            rest = outer;
            if depth == 0 {
                return rest;
            }
        } else {
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return rest;
            }
            rest = characters.as_str();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_stands_behind_comments() {
        for (text, word) in [
            ("EXPLAIN SELECT 1", "EXPLAIN"),
            (" \n -- a\n/* b /* c */ d */ show all", "show"),
            ("/* explain", ""),
            ("-- explain", ""),
            ("(SELECT 1)", ""),
            ("", ""),
            ("/*/ x */ select", "select"),
            ("--\rSELECT 1 AS\nexplain", "SELECT"),
            ("-- a\r\nshow all", "show"),
        ] {
            assert_eq!(first_word(text), word, "{text}");
        }
    }
}
