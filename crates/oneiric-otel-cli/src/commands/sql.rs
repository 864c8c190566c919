//! `sql`: one statement over the views, as a role that can do nothing else.

use std::io::{self, IsTerminal as _, Read as _};
use std::sync::Arc;

use anyhow::{Context as _, Error, Result};
use oneiric_otel::query::{QueryError, QueryService, SqlAnswer, SqlRequest};
use oneiric_otel::store::{SqlError, Truncated};
use serde_json::value::RawValue;

use super::Ending;
use crate::args::Global;
use crate::args::sql::{Format, Sql};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{failure, screen};

/// What is shown of the line in which an error stands.
const LINE_CHARACTERS: usize = 120;

pub(crate) async fn run(global: &Global, arguments: &Sql) -> Result<Ending> {
    let format = match (arguments.format, global.json) {
        (None, false) => Format::Table,
        (None, true) => Format::Json,
        (Some(format), json) if !json || format == Format::Json => format,
        _ => return Err(failure::advised("--json and --format say two things", "leave one of them out")),
    };
    let request = SqlRequest {
        params: arguments.params.iter().map(|value| value.as_str().into()).collect(),
        max_rows: arguments.limit as usize,
        ..SqlRequest::new(statement(&arguments.statement)?)
    };
    let backend = Backend::open_for_sql(global, &Arc::new(Progress::new())).await?;
    let answer = ask(global, &backend, &request).await;
    backend.release().await?;
    let answer = answer?;
    screen::print(&match format {
        Format::Table => table(&answer),
        Format::Csv => csv(&answer, io::stdout().is_terminal()),
        Format::Json => json_lines(&answer),
    })?;
    match answer.truncated {
        Some(Truncated::Rows) => failure::note(&format!("these are the first {} rows: see --limit", answer.rows.len())),
        Some(Truncated::Bytes) => failure::note(&format!(
            "these are the first {} rows: with the next there would be more than {} MiB",
            answer.rows.len(),
            request.max_bytes >> 20
        )),
        None => {}
    }
    Ok(Ending::Good)
}

async fn ask(global: &Global, backend: &Backend, request: &SqlRequest) -> Result<SqlAnswer> {
    let reader = backend.sql_reader(global).await?;
    let service = QueryService::new(backend.database().clone(), None).with_sql(reader.clone());
    let answer = service.custom_query(request).await;
    reader.close();
    answer.map_err(|error| explain(error, &request.sql, reader.target()))
}

fn statement(text: &str) -> Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut read = String::new();
    io::stdin().read_to_string(&mut read).context("cannot read the statement from stdin")?;
    Ok(read)
}

fn explain(error: QueryError, statement: &str, target: &str) -> Error {
    match error {
        QueryError::Sql(error) => {
            let place = error.position.map(|position| place(statement, position));
            let SqlError { detail, hint, .. } = &*error;
            let hints = [place.as_deref(), detail.as_deref(), hint.as_deref()].into_iter().flatten();
            let hints: Vec<&str> = hints.map(|hint| hint.trim_end_matches('.')).collect();
            let message = screen::clean(&error.to_string());
            if hints.is_empty() {
                Error::msg(message)
            } else {
                failure::advised(message, screen::clean(&hints.join("; ")))
            }
        }
        QueryError::Store(error) => failure::of_database(&error, target),
        other => Error::new(other),
    }
}

/// The line of a position, which counts characters from 1.
fn place(statement: &str, position: usize) -> String {
    let mut before = 0;
    for (line, number) in statement.split('\n').zip(1..) {
        let characters = line.chars().count() + 1;
        if position <= before + characters {
            let column = position - before;
            let from = column.saturating_sub(LINE_CHARACTERS / 2);
            let shown: String = line.chars().skip(from).take(LINE_CHARACTERS).collect();
            return format!("line {number}, column {column}: {}", shown.trim());
        }
        before += characters;
    }
    "at the end".to_owned()
}

/// A value as people read it: text without quotes, nothing for null.
fn show(value: &RawValue) -> String {
    let json = value.get();
    if json.starts_with('"') {
        return serde_json::from_str(json).unwrap_or_else(|_| json.to_owned());
    }
    if json == "null" { String::new() } else { json.to_owned() }
}

fn table(answer: &SqlAnswer) -> String {
    let names: Vec<String> = answer.columns.iter().map(|column| screen::clean(&column.name)).collect();
    let mut table = screen::table(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for row in &answer.rows {
        table.add_row(row.iter().map(|value| screen::clean(&show(value))));
    }
    let rows = if answer.rows.len() == 1 { "row" } else { "rows" };
    format!("{table}\n({} {rows})\n", answer.rows.len())
}

/// RFC 4180, but with the line ends of this system. What a terminal might mind is taken out only for a terminal: a file
/// gets what there is.
fn csv(answer: &SqlAnswer, for_terminal: bool) -> String {
    let field = |text: String| {
        let text = if for_terminal { screen::clean(&text) } else { text };
        if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    let mut lines = String::new();
    let mut line = |fields: Vec<String>| {
        lines.push_str(&fields.join(","));
        lines.push('\n');
    };
    line(answer.columns.iter().map(|column| field(column.name.clone())).collect());
    for row in &answer.rows {
        line(row.iter().map(|value| field(show(value))).collect());
    }
    lines
}

/// An object a row, its members in the order of the columns. A name that comes again gets a number.
fn json_lines(answer: &SqlAnswer) -> String {
    let mut names: Vec<String> = Vec::new();
    for column in &answer.columns {
        let numbered = (2..).map(|number| format!("{}_{number}", column.name));
        let free = std::iter::once(column.name.clone()).chain(numbered).find(|name| !names.contains(name));
        names.extend(free);
    }
    let names: Vec<String> = names.iter().map(|name| serde_json::Value::from(name.as_str()).to_string()).collect();
    let mut lines = String::new();
    for row in &answer.rows {
        let members: Vec<String> = names
            .iter()
            .zip(row)
            .map(|(name, value)| format!("{name}:{}", value.get().replace(['\n', '\r'], " ")))
            .collect();
        lines.push_str(&screen::escape(&format!("{{{}}}", members.join(","))));
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use oneiric_otel::store::SqlColumn;

    use super::*;

    fn answer(names: &[&str], values: &[&str]) -> SqlAnswer {
        let column = |name: &&str| SqlColumn { name: (*name).to_owned(), r#type: "text".to_owned() };
        let cell = |json: &&str| RawValue::from_string((*json).to_owned()).expect("JSON");
        SqlAnswer {
            columns: names.iter().map(column).collect(),
            rows: vec![values.iter().map(cell).collect()],
            truncated: None,
            elapsed_ms: 1.0,
        }
    }

    #[test]
    fn rows_are_printed_in_three_ways() {
        let answer = answer(&["a", "a", "b\u{1b}[2J"], &["\"x,\\\"y\\u001b[31m\"", "null", "{ \"k\":\n1}"]);
        assert_eq!(csv(&answer, false), "a,a,b\u{1b}[2J\n\"x,\"\"y\u{1b}[31m\",,\"{ \"\"k\"\":\n1}\"\n");
        assert_eq!(csv(&answer, true), "a,a,b\n\"x,\"\"y\",,\"{ \"\"k\"\": 1}\"\n");
        let lines = json_lines(&answer);
        assert_eq!(lines, "{\"a\":\"x,\\\"y\\u001b[31m\",\"a_2\":null,\"b\\u001b[2J\":{ \"k\": 1}}\n");
        let table = table(&answer);
        assert!(table.contains("x,\"y") && table.ends_with("\n(1 row)\n") && !table.contains('\u{1b}'), "{table}");
    }

    #[test]
    fn places_are_lines_and_columns() {
        assert_eq!(place("SELECT é, nam", 11), "line 1, column 11: SELECT é, nam");
        assert_eq!(place("SELECT 1,\n  nam", 13), "line 2, column 3: nam");
        assert_eq!(place("SELECT", 7), "line 1, column 7: SELECT");
        assert_eq!(place("x", 9), "at the end");
    }
}
