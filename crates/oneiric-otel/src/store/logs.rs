//! Reading log records for questions: newest first, from a place on, by words, severity, service, trace and template.
//!
//! A log record has no key. What tells two with the same time apart is where the row lies (`ctid`): rows are never
//! updated, so it stays until the table is rewritten, and the time says the partition.

pub(super) mod filter;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::partitions::PartitionIndex;
use super::residue::prefix;

use filter::{Conditions, Values, filter_by};
pub(crate) use filter::{LogFilter, LogWords};

/// Bytes of a body, a name, and of each attribute of a record, in a list.
const LISTED_BYTES: usize = 4096;
/// Bytes of a page, unless its first record alone has more.
const MAX_PAGE_BYTES: usize = 16 << 20;

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
    /// A JSON object. Long values are cut: `{"$cut": beginning, "$type": .., "$length": bytes}`.
    pub(crate) attributes: String,
    pub(crate) attributes_cut: bool,
    pub(crate) template_id: Option<i64>,
}

/// A page of log records.
#[derive(Debug, Default)]
pub(crate) struct LogRows {
    pub(crate) rows: Vec<LogRow>,
    /// Whether it ended before a record for which it has no room.
    pub(crate) full: bool,
    bytes: usize,
}

impl LogRow {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        // The database cuts by characters, lists by bytes.
        let text = |column: usize| -> Result<Option<String>, StoreError> {
            let text: Option<String> = row.try_get(column)?;
            Ok(text.map(|text| prefix(&text, LISTED_BYTES).to_owned()))
        };
        Ok(Self {
            key: LogKey { time: row.try_get(0)?, time_ns: row.try_get(1)?, row: read_tid(row.try_get(2)?)? },
            service_name: row.try_get(3)?,
            severity_number: row.try_get(4)?,
            severity_text: text(5)?,
            trace_id: row.try_get(6)?,
            span_id: row.try_get(7)?,
            body: text(8)?,
            event_name: text(9)?,
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

impl Database {
    /// Adds to the page the records in `[from, until)` that pass the filter and come after `after` in the order, newest
    /// first, until the page has `limit` of them or is full.
    pub(crate) async fn log_rows(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        after: Option<LogKey>,
        limit: usize,
        page: &mut LogRows,
    ) -> Result<(), StoreError> {
        let (service, place) = (filter.service(), after.map(|key| key.place()));
        let left = i64::try_from(limit.saturating_sub(page.rows.len())).unwrap_or(i64::MAX);
        let conditions =
            log_conditions(filter, service.as_ref(), (&from, &until), (after.as_ref(), place.as_ref()), &left);
        self.fill(page, &log_rows_sql(&conditions.sql), conditions.values).await
    }

    /// The newest record of each template at a time that passes the filter, in the order in which they are asked for: not
    /// all of them where they are large.
    pub(crate) async fn log_examples(
        &self,
        filter: &LogFilter,
        wanted: &[(i64, Micros)],
    ) -> Result<Vec<LogRow>, StoreError> {
        let service = filter.service();
        let (templates, times): (Vec<i64>, Vec<Micros>) = wanted.iter().copied().unzip();
        let values = vec![(&templates as _, Type::INT8_ARRAY), (&times as _, Type::TIMESTAMPTZ_ARRAY)];
        let mut conditions = Conditions { sql: String::new(), values };
        filter_by(&mut conditions, filter, service.as_ref());
        let sql = listed_sql(
            &format!(
                "SELECT f.*, w.place AS wanted
                 FROM unnest($1::bigint[], $2::timestamptz[]) WITH ORDINALITY AS w (template_id, time, place)
                 CROSS JOIN LATERAL (SELECT {FOUND} FROM otel.otel_logs l
                                     WHERE l.time = w.time AND l.template_id = w.template_id {}
                                     ORDER BY l.time_ns DESC, l.ctid DESC LIMIT 1) f",
                conditions.sql
            ),
            "l.wanted",
        );
        let mut page = LogRows::default();
        self.fill(&mut page, &sql, conditions.values).await?;
        Ok(page.rows)
    }

    /// Adds rows to a page as long as there is room.
    async fn fill(&self, page: &mut LogRows, sql: &str, values: Vec<Argument<'_>>) -> Result<(), StoreError> {
        let mut stream = self.stream(sql, values).await?;
        while let Some(row) = stream.next().await? {
            page.bytes += row.raw_size_bytes();
            page.full = page.bytes > MAX_PAGE_BYTES && !page.rows.is_empty();
            if page.full {
                break;
            }
            page.rows.push(LogRow::from_row(&row)?);
        }
        Ok(())
    }

    /// How the database would answer [`Self::log_rows`], for tests of indexes and partitions.
    pub(crate) async fn explain_log_rows(
        &self,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        limit: i64,
    ) -> Result<String, StoreError> {
        let service = filter.service();
        let conditions = log_conditions(filter, service.as_ref(), (&from, &until), (None, None), &limit);
        let sql = format!("EXPLAIN {}", log_rows_sql(&conditions.sql));
        let plan = self.reader().await?.query_typed(&sql, &conditions.values).await?;
        Ok(plan.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>().join("\n"))
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

/// What [`log_rows_sql`] asks for.
fn log_conditions<'a>(
    filter: &'a LogFilter,
    service: Option<&'a &'a str>,
    (from, until): (&'a Micros, &'a Micros),
    (after, place): (Option<&'a LogKey>, Option<&'a String>),
    limit: &'a i64,
) -> Conditions<'a> {
    let mut conditions = Conditions {
        sql: String::new(),
        values: vec![(from, Type::TIMESTAMPTZ), (until, Type::TIMESTAMPTZ), (limit, Type::INT8)],
    };
    filter_by(&mut conditions, filter, service);
    if let (Some(key), Some(row)) = (after, place) {
        let at = conditions.values.len();
        conditions.values.extend::<Values<'_>>(vec![
            (&key.time, Type::TIMESTAMPTZ),
            (&key.time_ns, Type::INT2),
            (row, Type::TEXT),
        ]);
        let (time, ns, place) = (at + 1, at + 2, at + 3);
        let further =
            format!(" AND l.time <= ${time} AND (l.time, l.time_ns, l.ctid) < (${time}, ${ns}, ${place}::text::tid)");
        conditions.sql.push_str(&further);
    }
    conditions
}

/// What of `l` is found, for [`listed_sql`].
const FOUND: &str =
    "l.time, l.time_ns, l.ctid AS place, l.service_name, l.severity_number, l.severity_text, l.trace_id, l.span_id,
                     l.body, l.event_name, l.body_json, l.attributes, l.template_id";

fn log_rows_sql(conditions: &str) -> String {
    let found = format!(
        "SELECT {FOUND} FROM otel.otel_logs l WHERE l.time >= $1 AND l.time < $2 {conditions}
         ORDER BY l.time DESC, l.time_ns DESC, l.ctid DESC LIMIT $3"
    );
    listed_sql(&found, "l.time DESC, l.time_ns DESC, l.place DESC")
}

/// Cuts what the query `found` finds: only what is shown is taken out of the table whole.
fn listed_sql(found: &str, order: &str) -> String {
    format!(
        "SELECT l.time, l.time_ns, l.place::text, l.service_name, l.severity_number, left(l.severity_text, {LISTED_BYTES}),
                l.trace_id, l.span_id, left(coalesce(l.body, l.body_json::text), {LISTED_BYTES}),
                left(l.event_name, {LISTED_BYTES}), l.body_json IS NOT NULL,
                coalesce(octet_length(coalesce(l.body, l.body_json::text)), 0),
                CASE WHEN a.large THEN
                  (SELECT jsonb_object_agg(e.key, CASE WHEN octet_length(e.value #>> '{{}}') > {LISTED_BYTES} THEN
                     jsonb_build_object('$cut', left(e.value #>> '{{}}', {LISTED_BYTES}),
                                        '$type', replace(jsonb_typeof(e.value), 'object', 'map'),
                                        '$length', octet_length(e.value #>> '{{}}'))
                   ELSE e.value END) FROM jsonb_each(l.attributes) e)::text
                ELSE l.attributes::text END, a.large, l.template_id
         FROM ({found}) l
         CROSS JOIN LATERAL (SELECT octet_length(l.attributes::text) > {LISTED_BYTES} AND EXISTS (
                               SELECT FROM jsonb_each(l.attributes) e
                               WHERE octet_length(e.value #>> '{{}}') > {LISTED_BYTES}) AS large) a
         ORDER BY {order}"
    )
}
