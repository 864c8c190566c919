//! Which log records are meant, as conditions of a statement.

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::super::residue::prefix;
use super::super::rows::INDEXED_TEXT_BYTES;

/// Values of a statement with their types.
pub(crate) type Values<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

/// The words of a row, as the index on closed partitions has them.
const WORDS: &str = "otel.otel_log_words(l.body, l.body_json, l.event_name, l.attributes)";

/// The places of a row in which words are looked for.
const PLACES: &[&str] = &[
    "l.body",
    "l.event_name",
    "l.body_json::text",
    "(l.attributes ->> 'exception.type')",
    "(l.attributes ->> 'exception.message')",
    "(l.attributes ->> 'exception.stacktrace')",
];

/// Which log records are meant. `None` lets all through.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogFilter {
    pub(crate) service: Option<String>,
    /// Severity number from which on, and the texts that stand for it where a record has no number.
    pub(crate) level: Option<(i16, Vec<&'static str>)>,
    pub(crate) trace_id: Option<Uuid>,
    pub(crate) span_id: Option<Vec<u8>>,
    pub(crate) templates: Option<Vec<i64>>,
    pub(crate) words: Option<LogWords>,
}

/// Words as the database compares them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogWords {
    /// A `tsquery`; none when only substrings are asked for.
    pub(crate) query: Option<String>,
    /// Patterns for ILIKE that every hit fits, in any of the places.
    pub(crate) like: Vec<String>,
    /// Patterns that no hit may fit.
    pub(crate) unlike: Vec<String>,
}

impl LogFilter {
    /// Whether rows must be looked at one by one where there is no index on words.
    pub(crate) fn looks_at_rows(&self) -> bool {
        self.level.is_some() || self.span_id.is_some() || self.templates.is_some() || self.words.is_some()
    }

    pub(crate) fn service(&self) -> Option<&str> {
        self.service.as_deref().map(|service| prefix(service, INDEXED_TEXT_BYTES))
    }
}

/// Conditions on `l`, and the values they speak of.
pub(crate) struct Conditions<'a> {
    pub(crate) sql: String,
    pub(crate) values: Values<'a>,
}

impl<'a> Conditions<'a> {
    pub(crate) fn add(&mut self, condition: &str, value: &'a (dyn ToSql + Sync), kind: Type) {
        self.values.push((value, kind));
        self.sql.push_str(" AND ");
        self.sql.push_str(&condition.replace('?', &format!("${}", self.values.len())));
    }
}

/// Adds what a filter says about `l`. `service` is [`LogFilter::service`] of it.
pub(crate) fn filter_by<'a>(conditions: &mut Conditions<'a>, filter: &'a LogFilter, service: Option<&'a &'a str>) {
    if let Some(service) = service {
        conditions.add("l.service_name = ?", service, Type::TEXT);
    }
    if let Some((number, texts)) = &filter.level {
        conditions.add("(l.severity_number >= ?", number, Type::INT2);
        conditions.values.push((texts, Type::TEXT_ARRAY));
        let texts = conditions.values.len();
        let or_text = format!(" OR (l.severity_number = 0 AND upper(l.severity_text) = ANY(${texts})))");
        conditions.sql.push_str(&or_text);
    }
    if let Some(trace_id) = &filter.trace_id {
        conditions.add("l.trace_id = ?", trace_id, Type::UUID);
    }
    if let Some(span_id) = &filter.span_id {
        conditions.add("l.span_id = ?", span_id, Type::BYTEA);
    }
    if let Some(templates) = &filter.templates {
        conditions.add("l.template_id = ANY(?)", templates, Type::INT8_ARRAY);
    }
    if let Some(words) = &filter.words {
        // The cheap look first: cutting a record into words takes fifty times as long.
        for pattern in &words.like {
            let anywhere: Vec<String> = PLACES.iter().map(|place| format!("{place} ILIKE ?")).collect();
            conditions.add(&format!("({})", anywhere.join(" OR ")), pattern, Type::TEXT);
        }
        for pattern in &words.unlike {
            let nowhere: Vec<String> = PLACES.iter().map(|place| format!("{place} ILIKE ?")).collect();
            conditions.add(&format!("({}) IS NOT TRUE", nowhere.join(" OR ")), pattern, Type::TEXT);
        }
        if let Some(query) = &words.query {
            conditions.add(&format!("{WORDS} @@ ?::text::tsquery"), query, Type::TEXT);
        }
    }
}
