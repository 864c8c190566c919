//! Failures as the user sees them: one line that says what happened, then hints what to do.

use std::fmt;
use std::io::{self, Write as _};

use anyhow::Error;
use oneiric_otel::store::StoreError;

/// An error with advice.
#[derive(Debug)]
struct Advised {
    message: String,
    hint: String,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}

/// A failure with one hint.
pub(crate) fn advised(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Advised { message: message.into(), hint: hint.into() })
}

/// A failure of the database, with what to do about it.
pub(crate) fn of_database(error: &StoreError, target: &str) -> Error {
    let text = error.to_string();
    let message = format!("database {target}: {text}");
    match database_hint(&text) {
        Some(hint) => advised(message, hint),
        None => Error::msg(message),
    }
}

fn database_hint(text: &str) -> Option<&'static str> {
    let state = text.split("(SQLSTATE ").nth(1).and_then(|rest| rest.get(..5)).unwrap_or_default();
    let hint = match state {
        "28P01" | "28000" => "check user and password in --database-url or OTEL_STORAGE_CONNECTION_STRING",
        "3D000" => "create the database, or name another one at the end of --database-url",
        "42501" => {
            "let the schema's owner run `oneiric-otel db migrate`, and `oneiric-otel db roles` for this role, or connect \
             as the owner"
        }
        "57P03" => "the server is starting, stopping or recovering; try again in a moment",
        "53300" => "the server allows no more connections; try again later or raise its max_connections",
        "" if text.starts_with("database URL") => {
            "a URL looks like postgresql://USER:PASSWORD@HOST:PORT/DATABASE; leave --database-url out to use the \
             embedded database"
        }
        "" if text.contains("connect") => {
            "check that PostgreSQL runs there and takes connections, and host and port in --database-url; leave it out \
             to use the embedded database"
        }
        _ => return None,
    };
    Some(hint)
}

/// Prints a failure to stderr. Nothing can be done if that fails too.
pub(crate) fn report(error: &Error) {
    let mut stderr = io::stderr().lock();
    let mut text = format!("error: {}\n", tell(error));
    for cause in error.chain() {
        if let Some(advised) = cause.downcast_ref::<Advised>() {
            text.push_str("hint: ");
            text.push_str(&advised.hint);
            text.push('\n');
        }
    }
    drop(stderr.write_all(text.as_bytes()));
}

/// Prints what is to be known beside an answer to stderr.
pub(crate) fn note(text: &str) {
    drop(io::stderr().lock().write_all(format!("note: {text}\n").as_bytes()));
}

/// An error and its causes. Some errors repeat their cause in their own text.
fn tell(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Whether the reader of our output is gone, which is no failure: `oneiric-otel traces | head` is fine.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let told = |cause: &str, error: &str| tell(&Error::msg(cause.to_owned()).context(error.to_owned()));
        assert_eq!(told("no such file", "cannot read x"), "cannot read x: no such file");
        assert_eq!(told("no such file", "cannot read x: no such file"), "cannot read x: no such file");
    }

    #[test]
    fn databases_get_a_hint_by_what_they_answer() {
        let hint = |text: &str| database_hint(text).unwrap_or_default();
        assert!(hint("password authentication failed for user \"x\" (SQLSTATE 28P01)").contains("password"));
        assert!(hint("database \"x\" does not exist (SQLSTATE 3D000)").contains("create the database"));
        assert!(hint("error connecting to server: Connection refused").contains("PostgreSQL runs there"));
        assert!(hint("database URL: expected it to begin with postgresql://").contains("looks like"));
        assert!(hint("the database system is in recovery mode (SQLSTATE 57P03)").contains("try again"));
        assert_eq!(database_hint("something else (SQLSTATE XX000)"), None);
    }
}
