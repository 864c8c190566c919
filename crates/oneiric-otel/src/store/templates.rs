//! Templates of log records: stored once each, with the records that are the first to have them, and read for patterns.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::batch::{Batch, LogTemplate};
use super::copy::Micros;
use super::database::{Argument, Database};
use super::error::StoreError;
use super::logs::filter::{Conditions, LogFilter, filter_by};

/// Ids remembered. When there are more, all are asked for again.
const REMEMBERED: usize = 200_000;
/// How long they are remembered: `last_seen` is right to a day, and rows that were collected come back.
const REMEMBERED_FOR: Duration = Duration::from_hours(12);
/// Templates that one process stores in an hour at most. Records whose template is beyond have its id all the same, and
/// when it is read it is made again of one of them.
const STORED_AN_HOUR: usize = 20_000;
const HOUR: Duration = Duration::from_hours(1);

/// The ids of templates that are stored.
#[derive(Debug, Default)]
pub(crate) struct KnownTemplates(Mutex<Known>);

/// What became of templates of log records that were not known, since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct TemplateCounts {
    /// Those that were stored, or were there already.
    pub stored: u64,
    /// Those that were not stored because too many were new in an hour; one that comes again counts again.
    pub left_out: u64,
}

#[derive(Debug, Default)]
struct Known {
    ids: HashSet<i64>,
    since: Option<Instant>,
    /// When the hour began, how many templates were new in it, and how many of them were not stored.
    hour: Option<(Instant, usize, usize)>,
    counts: TemplateCounts,
}

impl KnownTemplates {
    /// The templates of the batches that may not be stored, in ascending order of their ids: every transaction takes its
    /// locks in that order.
    pub(crate) fn unknown<'a>(&self, batches: &[&'a Batch]) -> Vec<(i64, &'a LogTemplate)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.ids.len() > REMEMBERED || known.since.is_some_and(|since| since.elapsed() > REMEMBERED_FOR) {
            known.ids.clear();
            known.since = None;
        }
        let templates = batches.iter().flat_map(|batch| &batch.references.templates);
        let mut unknown: Vec<(i64, &LogTemplate)> =
            templates.filter(|(id, _)| !known.ids.contains(*id)).map(|(id, template)| (*id, template)).collect();
        unknown.sort_unstable_by_key(|(id, _)| *id);
        unknown.dedup_by_key(|(id, _)| *id);
        let left = known.left();
        if unknown.len() > left {
            known.leave_out(unknown.len() - left);
            unknown.truncate(left);
        }
        unknown
    }

    /// These are stored now.
    pub(crate) fn remember(&self, ids: impl Iterator<Item = i64>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.since.get_or_insert_with(Instant::now);
        let before = known.ids.len();
        known.ids.extend(ids);
        let new = known.ids.len() - before;
        known.counts.stored += new as u64;
        if let Some((_, stored, _)) = &mut known.hour {
            *stored += new;
        }
    }

    pub(crate) fn counts(&self) -> TemplateCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).counts
    }

    /// Forgets all: the rows may have been collected, or the database replaced by another.
    pub(crate) fn forget(&self) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.ids.clear();
    }
}

impl Known {
    /// How many more may be stored in this hour.
    fn left(&mut self) -> usize {
        if self.hour.is_none_or(|(begun, ..)| begun.elapsed() > HOUR) {
            self.hour = Some((Instant::now(), 0, 0));
        }
        self.hour.map_or(0, |(_, stored, _)| STORED_AN_HOUR.saturating_sub(stored))
    }

    fn leave_out(&mut self, more: usize) {
        self.counts.left_out += more as u64;
        let Some((_, stored, left_out)) = &mut self.hour else { return };
        if *left_out == 0 {
            tracing::warn!(stored, "many new log templates: for the rest of the hour further ones are not stored");
        }
        *left_out += more;
    }
}

/// Stores those of the templates that are new.
pub(super) async fn store_templates(
    transaction: &Transaction<'_>,
    templates: &[(i64, &LogTemplate)],
) -> Result<(), StoreError> {
    if templates.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = templates.iter().map(|(id, _)| *id).collect();
    let severities: Vec<i16> = templates.iter().map(|(_, template)| template.severity).collect();
    let services: Vec<&str> = templates.iter().map(|(_, template)| template.service_name.as_str()).collect();
    let texts: Vec<&str> = templates.iter().map(|(_, template)| template.text.as_str()).collect();
    transaction
        .execute_typed(
            "INSERT INTO otel.otel_log_templates AS t (template_id, severity, service_name, template)
             SELECT u.template_id, u.severity, u.service_name, u.template
             FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[]) WITH ORDINALITY
               AS u (template_id, severity, service_name, template, place)
             ORDER BY u.place
             ON CONFLICT (template_id) DO UPDATE SET last_seen = excluded.last_seen WHERE t.last_seen < excluded.last_seen",
            &[
                (&ids, Type::INT8_ARRAY),
                (&severities, Type::INT2_ARRAY),
                (&services, Type::TEXT_ARRAY),
                (&texts, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// The records of a template in a range of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TemplateCount {
    /// None for records that an older version stored.
    pub(crate) template_id: Option<i64>,
    pub(crate) records: i64,
    pub(crate) first: Micros,
    pub(crate) last: Micros,
}

impl Database {
    /// How many records in `[from, until)` that pass the filter have each template: the most frequent first.
    pub(crate) async fn template_counts(
        &self,
        filter: &LogFilter,
        range: (Micros, Micros),
        limit: i64,
    ) -> Result<Vec<TemplateCount>, StoreError> {
        let sql = "SELECT l.template_id, count(*), min(l.time), max(l.time) FROM otel.otel_logs l
                   WHERE l.time >= $1 AND l.time < $2";
        let order = "GROUP BY l.template_id ORDER BY count(*) DESC, l.template_id LIMIT $3";
        let rows = self.ask_of_range(sql, order, filter, range, Some(&limit)).await?;
        Ok(rows
            .iter()
            .map(|row| TemplateCount {
                template_id: row.get(0),
                records: row.get(1),
                first: row.get(2),
                last: row.get(3),
            })
            .collect())
    }

    /// How many records in `[from, until)` pass the filter.
    pub(crate) async fn count_logs(&self, filter: &LogFilter, range: (Micros, Micros)) -> Result<i64, StoreError> {
        let sql = "SELECT count(*) FROM otel.otel_logs l WHERE l.time >= $1 AND l.time < $2";
        let rows = self.ask_of_range(sql, "", filter, range, None).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    async fn ask_of_range(
        &self,
        sql: &str,
        order: &str,
        filter: &LogFilter,
        (from, until): (Micros, Micros),
        limit: Option<&i64>,
    ) -> Result<Vec<Row>, StoreError> {
        let service = filter.service();
        let mut values: Vec<Argument<'_>> = vec![(&from, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ)];
        values.extend(limit.map(|limit| -> Argument<'_> { (limit, Type::INT8) }));
        let mut conditions = Conditions { sql: String::new(), values };
        filter_by(&mut conditions, filter, service.as_ref());
        let sql = format!("{sql} {} {order}", conditions.sql);
        self.reader().await?.query_typed(&sql, &conditions.values).await
    }

    /// These templates, as far as they are stored.
    pub(crate) async fn templates(&self, ids: &[i64]) -> Result<Vec<(i64, LogTemplate)>, StoreError> {
        let sql = "SELECT template_id, service_name, severity, template FROM otel.otel_log_templates
                   WHERE template_id = ANY($1)";
        let rows = self.reader().await?.query_typed(sql, &[(&ids, Type::INT8_ARRAY)]).await?;
        let template = |row: &Row| LogTemplate { service_name: row.get(1), severity: row.get(2), text: row.get(3) };
        Ok(rows.iter().map(|row| (row.get(0), template(row))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::otlp::Signal;
    use crate::otlp::canonical::Hash128;
    use crate::store::{References, Rows};

    fn batch(ids: std::ops::Range<i64>) -> Batch {
        let template = LogTemplate { service_name: "s".to_owned(), severity: 9, text: "x".to_owned() };
        let templates = ids.map(|id| (id, template.clone())).collect();
        Batch {
            request_hash: Hash128([0; 16]),
            signal: Signal::Logs,
            rows: Rows::default(),
            records: Vec::new(),
            times: Vec::new(),
            touches: HashMap::new(),
            references: References { templates, ..References::default() },
        }
    }

    #[test]
    fn an_explosion_of_templates_is_bounded_and_counted() {
        let known = KnownTemplates::default();
        let many = STORED_AN_HOUR as i64;
        let store = |ids| {
            let batch = batch(ids);
            let unknown: Vec<i64> = known.unknown(&[&batch]).into_iter().map(|(id, _)| id).collect();
            known.remember(unknown.iter().copied());
            unknown.len() as i64
        };
        assert_eq!(store(0..many - 5), many - 5);
        assert_eq!(store(many - 10..many + 10), 5, "those that are known do not count");
        assert_eq!(store(many + 20..many + 21), 0);
        assert_eq!(known.counts(), TemplateCounts { stored: STORED_AN_HOUR as u64, left_out: 11 });
    }
}
