//! Reading log records for questions: newest first, from a place on, by words, severity, service, trace and template.
//!
//! A log record has no key. What tells two with the same time apart is where the row lies (`ctid`): rows are never
//! updated, so it stays until the table is rewritten, and the time says the partition.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;
use super::partitions::PartitionIndex;
use super::residue::prefix;
use super::rows::INDEXED_TEXT_BYTES;

/// Values of a statement with their types.
type Values<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

/// Bytes of a body, and of each attribute of a record with large ones, in a list.
const LISTED_BYTES: i32 = 4096;
/// Attributes that take more are cut value by value.
const LISTED_ATTRIBUTES_BYTES: i32 = 65_536;

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

/// Where a row stands in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogKey {
    pub(crate) time: Micros,
    pub(crate) time_ns: i16,
    /// Block and place in it.
    pub(crate) row: (u32, u16),
}

impl LogKey {
    /// The key that is before all rows of this time and after all earlier ones.
    pub(crate) fn before(time: Micros) -> Self {
        Self { time, time_ns: -1, row: (0, 0) }
    }

    /// Where the row lies, as PostgreSQL writes it.
    pub(crate) fn place(&self) -> String {
        format!("({},{})", self.row.0, self.row.1)
    }
}

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

    fn service(&self) -> Option<&str> {
        self.service.as_deref().map(|service| prefix(service, INDEXED_TEXT_BYTES))
    }
}

/// A log record in a list.
#[derive(Debug, Clone)]
pub(crate) struct LogRow {
    pub(crate) key: LogKey,
    pub(crate) service_name: String,
    pub(crate) severity_number: i16,
    pub(crate) severity_text: Option<String>,
    pub(crate) trace_id: Option<Uuid>,
    pub(crate) span_id: Option<Vec<u8>>,
    pub(crate) event_name: Option<String>,
    /// The beginning of the body; JSON when it is no string.
    pub(crate) body: Option<String>,
    pub(crate) body_is_json: bool,
    pub(crate) body_bytes: i32,
    /// A JSON object.
    pub(crate) attributes: String,
    pub(crate) attributes_cut: bool,
    pub(crate) template_id: Option<i64>,
}

impl LogRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let body: Option<String> = row.try_get(8)?;
        Ok(Self {
            key: LogKey { time: row.try_get(0)?, time_ns: row.try_get(1)?, row: read_tid(row.try_get(2)?)? },
            service_name: row.try_get(3)?,
            severity_number: row.try_get(4)?,
            severity_text: row.try_get(5)?,
            trace_id: row.try_get(6)?,
            span_id: row.try_get(7)?,
            body: body.map(|body| prefix(&body, LISTED_BYTES.unsigned_abs() as usize).to_owned()),
            event_name: row.try_get(9)?,
            body_is_json: row.try_get(10)?,
            body_bytes: row.try_get(11)?,
            attributes: row.try_get(12)?,
            attributes_cut: row.try_get(13)?,
            template_id: row.try_get(14)?,
        })
    }
}

fn read_tid(text: &str) -> Result<(u32, u16), StoreError> {
    let numbers = text.trim_start_matches('(').trim_end_matches(')').split_once(',');
    let read = numbers.and_then(|(block, place)| Some((block.parse().ok()?, place.parse().ok()?)));
    read.ok_or_else(|| StoreError::misconfigured(format!("the database gave {text} as the place of a row")))
}

/// Conditions on `l`, and the values they speak of.
struct Conditions<'a> {
    sql: String,
    values: Values<'a>,
}

impl<'a> Conditions<'a> {
    fn add(&mut self, condition: &str, value: &'a (dyn ToSql + Sync), kind: Type) {
        self.values.push((value, kind));
        self.sql.push_str(" AND ");
        self.sql.push_str(&condition.replace('?', &format!("${}", self.values.len())));
    }
}

impl Database {
    /// Records in `[from, until)` that pass the filter and come after `after` in the order: newest first.
    pub(crate) async fn log_rows(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        after: Option<LogKey>,
        limit: i64,
    ) -> Result<Vec<LogRow>, StoreError> {
        let found = self.ask_for_logs("", filter, (from, until), after, limit).await?;
        found.iter().map(LogRow::from_row).collect()
    }

    /// How the database would answer [`Self::log_rows`], for tests of indexes and partitions.
    pub(crate) async fn explain_log_rows(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        limit: i64,
    ) -> Result<String, StoreError> {
        let plan = self.ask_for_logs("EXPLAIN ", filter, (from, until), None, limit).await?;
        Ok(plan.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>().join("\n"))
    }

    async fn ask_for_logs(
        &self,
        before: &str,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        after: Option<LogKey>,
        limit: i64,
    ) -> Result<Vec<Row>, StoreError> {
        let (service, place) = (filter.service(), after.map(|key| key.place()));
        let mut conditions = Conditions {
            sql: String::new(),
            values: vec![(&from, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&limit, Type::INT8)],
        };
        filter_by(&mut conditions, filter, service.as_ref());
        if let (Some(key), Some(row)) = (&after, &place) {
            let at = conditions.values.len();
            conditions.values.extend::<Values<'_>>(vec![
                (&key.time, Type::TIMESTAMPTZ),
                (&key.time_ns, Type::INT2),
                (row, Type::TEXT),
            ]);
            let (time, ns, place) = (at + 1, at + 2, at + 3);
            let further = format!(
                " AND l.time <= ${time} AND (l.time, l.time_ns, l.ctid) < (${time}, ${ns}, ${place}::text::tid)"
            );
            conditions.sql.push_str(&further);
        }
        self.reader()
            .await?
            .query_typed(&format!("{before}{}", log_rows_sql(&conditions.sql)), &conditions.values)
            .await
    }

    /// See [`Self::template_counts`].
    pub(super) async fn ask_for_template_counts(
        &self,
        before: &str,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        limit: i64,
    ) -> Result<Vec<Row>, StoreError> {
        let service = filter.service();
        let mut conditions = Conditions {
            sql: String::new(),
            values: vec![(&from, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&limit, Type::INT8)],
        };
        filter_by(&mut conditions, filter, service.as_ref());
        let sql = format!(
            "{before} SELECT l.template_id, count(*), min(l.time), max(l.time) FROM otel.otel_logs l
             WHERE l.time >= $1 AND l.time < $2 {}
             GROUP BY l.template_id ORDER BY count(*) DESC, l.template_id LIMIT $3",
            conditions.sql
        );
        self.reader().await?.query_typed(&sql, &conditions.values).await
    }

    /// How many records in `[from, until)` pass the filter.
    pub(crate) async fn count_logs(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
    ) -> Result<i64, StoreError> {
        let service = filter.service();
        let mut conditions =
            Conditions { sql: String::new(), values: vec![(&from, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ)] };
        filter_by(&mut conditions, filter, service.as_ref());
        let sql =
            format!("SELECT count(*) FROM otel.otel_logs l WHERE l.time >= $1 AND l.time < $2 {}", conditions.sql);
        Ok(self.reader().await?.query_typed_one(&sql, &conditions.values).await?.get(0))
    }

    /// The time of the `n`th newest record in `[from, until)`, of a service if one is given: how far back one has to go
    /// to see so many. None when there are fewer.
    pub(crate) async fn nth_log_time(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        n: i64,
    ) -> Result<Option<Micros>, StoreError> {
        let service = filter.service();
        let mut conditions = Conditions {
            sql: String::new(),
            values: vec![(&from, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&n, Type::INT8)],
        };
        if let Some(service) = &service {
            conditions.add("l.service_name = ?", service, Type::TEXT);
        }
        let sql = format!(
            "SELECT l.time FROM otel.otel_logs l WHERE l.time >= $1 AND l.time < $2 {}
             ORDER BY l.time DESC OFFSET $3 LIMIT 1",
            conditions.sql
        );
        Ok(self.reader().await?.query_typed(&sql, &conditions.values).await?.first().map(|row| row.get(0)))
    }

    /// The partitions of log records that lie in `[from, until)`, the newest first, and what of each is indexed.
    pub(crate) async fn log_partitions(&self, from: Micros, until: Micros) -> Result<Vec<LogPartition>, StoreError> {
        let rows = self
            .reader()
            .await?
            .query_typed(
                "SELECT p.lower_bound, p.upper_bound,
                        EXISTS (SELECT FROM pg_index i WHERE i.indisvalid
                                AND i.indexrelid = to_regclass(format('otel.%I', p.partition || $3))),
                        EXISTS (SELECT FROM pg_index i WHERE i.indisvalid
                                AND i.indexrelid = to_regclass(format('otel.%I', p.partition || $4)))
                 FROM otel.otel_partitions('otel_logs') p
                 WHERE p.upper_bound > $1 AND p.lower_bound < $2 ORDER BY p.lower_bound DESC",
                &[
                    (&from, Type::TIMESTAMPTZ),
                    (&until, Type::TIMESTAMPTZ),
                    (&PartitionIndex::LogWords.suffix(), Type::TEXT),
                    (&PartitionIndex::LogTemplates.suffix(), Type::TEXT),
                ],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| LogPartition {
                from: from.max(row.get(0)),
                until: until.min(row.get(1)),
                words_indexed: row.get(2),
                templates_indexed: row.get(3),
            })
            .collect())
    }

    /// Words and phrases as a `tsquery`: each is cut up by the same function as the records. Those without any letter or
    /// digit are left out; none when nothing is left.
    pub(crate) async fn log_words_query(&self, terms: &[WordTerm]) -> Result<Option<String>, StoreError> {
        // Written in all ways, one term per way, with the number of the term: see `ways`.
        let written: Vec<(usize, String)> =
            terms.iter().enumerate().flat_map(|(place, term)| ways(&term.text).map(move |way| (place, way))).collect();
        let terms = || written.iter().filter_map(|(place, _)| terms.get(*place));
        let places: Vec<i64> = written.iter().map(|(place, _)| *place as i64).collect();
        let texts: Vec<&str> = written.iter().map(|(_, text)| text.as_str()).collect();
        let prefixes: Vec<bool> = terms().map(|term| term.prefix).collect();
        let negated: Vec<bool> = terms().map(|term| term.negated).collect();
        let row = self.reader().await?.query_typed_one(
                "SELECT string_agg(CASE WHEN negated THEN '!' ELSE '' END || '(' || query || ')', ' & ' ORDER BY place)
                 FROM (SELECT t.place, t.negated, string_agg(DISTINCT '(' || q.query::text
                              || CASE WHEN t.prefix THEN ':*' ELSE '' END || ')', ' | ') AS query
                       FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::boolean[]) AS t (place, text, prefix, negated)
                       CROSS JOIN LATERAL phraseto_tsquery('pg_catalog.simple', otel.otel_split_words(t.text)) AS q (query)
                       WHERE numnode(q.query) > 0
                       GROUP BY t.place, t.negated) w",
                &[
                    (&places, Type::INT8_ARRAY),
                    (&texts, Type::TEXT_ARRAY),
                    (&prefixes, Type::BOOL_ARRAY),
                    (&negated, Type::BOOL_ARRAY),
                ],
            )
            .await?;
        Ok(row.get(0))
    }
}

/// How a term may be written in a record. Letters that the database's locale does not know keep their case there, so a
/// term with letters beyond ASCII is looked for as it is, in small and in large letters and with a large initial.
fn ways(text: &str) -> impl Iterator<Item = String> + use<> {
    let mut ways = vec![text.to_owned()];
    if !text.is_ascii() {
        let lower = text.to_lowercase();
        let mut characters = lower.chars();
        let initial = characters.next().map(|first| first.to_uppercase().chain(characters).collect());
        ways.extend(initial);
        ways.extend([text.to_uppercase(), lower]);
    }
    ways.into_iter()
}

/// A word or phrase that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WordTerm {
    pub(crate) text: String,
    /// Whether its last word may go on.
    pub(crate) prefix: bool,
    /// Whether hits must not have it.
    pub(crate) negated: bool,
}

/// A range of time with one answer to what is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPartition {
    pub(crate) from: Micros,
    pub(crate) until: Micros,
    pub(crate) words_indexed: bool,
    pub(crate) templates_indexed: bool,
}

impl LogPartition {
    /// Whether an index finds what the filter asks for, so that rows need not be looked through.
    pub(crate) fn finds(&self, filter: &LogFilter) -> bool {
        self.words_indexed && filter.words.is_some() || self.templates_indexed && filter.templates.is_some()
    }
}

fn filter_by<'a>(conditions: &mut Conditions<'a>, filter: &'a LogFilter, service: Option<&'a &'a str>) {
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

/// The inner query finds, the outer one cuts: only what is shown is taken out of the table whole.
fn log_rows_sql(conditions: &str) -> String {
    format!(
        "SELECT l.time, l.time_ns, l.place::text, l.service_name, l.severity_number, l.severity_text, l.trace_id, l.span_id,
                left(coalesce(l.body, l.body_json::text), {LISTED_BYTES}), l.event_name, l.body_json IS NOT NULL,
                coalesce(octet_length(coalesce(l.body, l.body_json::text)), 0),
                CASE WHEN a.large THEN
                  (SELECT jsonb_object_agg(key, CASE WHEN octet_length(value::text) > {LISTED_BYTES}
                                                     THEN to_jsonb(left(value #>> '{{}}', {LISTED_BYTES})) ELSE value END)
                   FROM jsonb_each(l.attributes))::text
                ELSE l.attributes::text END, a.large, l.template_id
         FROM (SELECT l.time, l.time_ns, l.ctid AS place, l.service_name, l.severity_number, l.severity_text, l.trace_id,
                      l.span_id, l.body, l.event_name, l.body_json, l.attributes, l.template_id
               FROM otel.otel_logs l
               WHERE l.time >= $1 AND l.time < $2 {conditions}
               ORDER BY l.time DESC, l.time_ns DESC, l.ctid DESC LIMIT $3) l
         CROSS JOIN LATERAL (SELECT octet_length(l.attributes::text) > {LISTED_ATTRIBUTES_BYTES} AS large) a
         ORDER BY l.time DESC, l.time_ns DESC, l.place DESC"
    )
}
