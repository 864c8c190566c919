//! The patterns of logs: a million lines read as twenty.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;

use super::merge::{Counted, Merged, merge};
use super::{Level, LogEntry, LogsRequest, TemplateId, timestamp};
use crate::pipeline::template;
use crate::query::range::TimeRange;
use crate::query::{QueryError, QueryService, check_limit};
use crate::store::logs::LogFilter;
use crate::store::templates::TemplateCount;
use crate::store::{LogTemplate, Micros, StoreError};

/// Templates of one answer at most; the records of rarer ones are counted together.
const MAX_TEMPLATES: i64 = 5000;
/// Templates that are made again of a record, because they are not stored, in one answer at most.
const MAX_MADE_AGAIN: usize = 50;
/// Records that are counted when nobody says from when on: the newest.
const MAX_UNASKED_RECORDS: i64 = 500_000;

/// The patterns of logs, the most frequent first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogPatterns {
    /// The patterns.
    pub patterns: Vec<LogPattern>,
    /// Patterns beyond the limit.
    pub more_patterns: usize,
    /// Records of those, and of the rarest templates where there are more than 5000.
    pub more_records: i64,
    /// Records without a template: an older version stored them.
    pub without_template: i64,
    /// From when on records were counted.
    pub start: Timestamp,
    /// Before when.
    pub end: Timestamp,
    /// Whether `start` is later than a day before `end`, because nobody asked for all of the day and it has more than
    /// 500,000 records: of the service that was asked about, or of all, whether they fit the rest of the request or not.
    pub start_is_bound: bool,
}

/// Records that say the same but for what varies.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogPattern {
    /// What they say, with `<*>` where something varies.
    pub pattern: String,
    /// Service that wrote them.
    pub service_name: String,
    /// Class of their severity; none when they came without one.
    pub level: Option<Level>,
    /// How many there are.
    pub count: i64,
    /// The first of them in the range.
    pub first: Timestamp,
    /// The last of them in the range.
    pub last: Timestamp,
    /// Ids of the templates that read as this one: [`LogsRequest::templates`] finds their records. The same record has
    /// the same id on every server and at any time.
    pub templates: Vec<TemplateId>,
    /// The last of the records; none where the answer has no room for it.
    pub example: Option<LogEntry>,
}

impl QueryService {
    /// The patterns of the logs that fit a request, the most frequent first. Its `limit` is the number of patterns; its
    /// cursor is not looked at. Without an end they are those until now. Without a start they are those of the day before
    /// the end, and only of the newest 500,000 records of that day: of the service, if one is given, else of all. Those
    /// count too that do not fit the rest of the request, so of a rare kind some may be left out; a start finds them all. A
    /// trace or templates are looked for in the whole day.
    ///
    /// # Errors
    /// As [`Self::search_logs`], and [`QueryError::TooLong`] for a range with more logs than can be counted in time.
    pub async fn log_patterns(&self, request: &LogsRequest) -> Result<LogPatterns, QueryError> {
        let limit = check_limit(request.limit)?;
        let range = TimeRange::asked(request.start, request.end)?;
        let question = (request.decisive(), range, request.start.is_some(), limit);
        self.cached("log_patterns", &question, range.end(), self.ask_log_patterns(request, range, limit)).await
    }

    async fn ask_log_patterns(
        &self,
        request: &LogsRequest,
        range: TimeRange,
        limit: usize,
    ) -> Result<LogPatterns, QueryError> {
        let filter = self.log_filter(request).await?;
        let (mut from, until) = range.micros();
        // Those of a trace or of a template are few.
        let unbound = request.start.is_some() || filter.trace_id.is_some() || filter.templates.is_some();
        let bound = if unbound {
            None
        } else {
            self.database.nth_log_time(&filter, (from, until), MAX_UNASKED_RECORDS).await?
        };
        from = bound.unwrap_or(from);
        let mut answer = self.count_patterns(&filter, (from, until), limit).await?;
        if let (Some(service), true) = (&request.service, answer.patterns.is_empty()) {
            self.check_service(service).await?;
        }
        answer.start = bound.map_or(range.start(), |bound| timestamp(bound, 0));
        answer.end = range.end();
        answer.start_is_bound = bound.is_some();
        Ok(answer)
    }

    async fn count_patterns(
        &self,
        filter: &LogFilter,
        range: (Micros, Micros),
        limit: usize,
    ) -> Result<LogPatterns, StoreError> {
        let counts = self.database.template_counts(filter, range, MAX_TEMPLATES).await?;
        let all = if (counts.len() as i64) < MAX_TEMPLATES {
            None
        } else {
            Some(self.database.count_logs(filter, range).await?)
        };
        let counted: i64 = counts.iter().map(|count| count.records).sum();
        let mut more_records = all.unwrap_or(counted) - counted;
        let without_template = counts.iter().find(|count| count.template_id.is_none()).map_or(0, |count| count.records);

        let by_id: HashMap<i64, TemplateCount> =
            counts.iter().filter_map(|count| Some((count.template_id?, *count))).collect();
        let texts = self.template_texts(&by_id).await?;
        let known = by_id.iter().filter_map(|(id, count)| {
            let LogTemplate { service_name, severity, text } = texts.get(id)?.clone();
            Some(Counted { id: *id, service: service_name, severity, text, records: count.records })
        });
        let mut merged = merge(known.collect());
        more_records +=
            by_id.iter().filter(|(id, _)| !texts.contains_key(id)).map(|(_, count)| count.records).sum::<i64>();
        let more_patterns = merged.len().saturating_sub(limit);
        more_records += merged.iter().skip(limit).map(|pattern| pattern.records).sum::<i64>();
        merged.truncate(limit);
        let patterns = self.with_examples(filter, merged, &by_id).await?;
        let (start, end, start_is_bound) = Default::default();
        Ok(LogPatterns { patterns, more_patterns, more_records, without_template, start, end, start_is_bound })
    }

    /// The patterns with their times and their last records.
    async fn with_examples(
        &self,
        filter: &LogFilter,
        merged: Vec<Merged>,
        by_id: &HashMap<i64, TemplateCount>,
    ) -> Result<Vec<LogPattern>, StoreError> {
        let counts = |pattern: &Merged| -> Vec<(i64, TemplateCount)> {
            pattern.ids.iter().filter_map(|id| Some((*id, *by_id.get(id)?))).collect()
        };
        let last = |pattern: &Merged| counts(pattern).into_iter().max_by_key(|(_, count)| count.last);
        let wanted: Vec<(i64, Micros)> = merged.iter().filter_map(last).map(|(id, count)| (id, count.last)).collect();
        let mut examples = self.records_of(filter, &wanted).await?;
        let patterns = merged.into_iter().filter_map(|pattern| {
            let first = counts(&pattern).into_iter().map(|(_, count)| count.first).min()?;
            let (id, TemplateCount { last, .. }) = last(&pattern)?;
            Some(LogPattern {
                pattern: pattern.text,
                service_name: pattern.service,
                level: Level::of(pattern.severity, None),
                count: pattern.records,
                first: timestamp(first, 0),
                last: timestamp(last, 0),
                templates: pattern.ids.into_iter().map(TemplateId).collect(),
                example: examples.remove(&id),
            })
        });
        Ok(patterns.collect())
    }

    /// The texts of templates; those that are not stored are made again of a record.
    async fn template_texts(
        &self,
        counts: &HashMap<i64, TemplateCount>,
    ) -> Result<HashMap<i64, LogTemplate>, StoreError> {
        let ids: Vec<i64> = counts.keys().copied().collect();
        let mut texts: HashMap<i64, LogTemplate> = self.database.templates(&ids).await?.into_iter().collect();
        let known: HashSet<i64> = texts.keys().copied().collect();
        let mut missing: Vec<(&i64, &TemplateCount)> = counts.iter().filter(|(id, _)| !known.contains(id)).collect();
        missing.sort_by_key(|(id, count)| (-count.records, **id));
        let wanted: Vec<(i64, Micros)> =
            missing.into_iter().take(MAX_MADE_AGAIN).map(|(id, count)| (*id, count.last)).collect();
        for (id, record) in self.records_of(&LogFilter::default(), &wanted).await? {
            let mut text = String::new();
            template::mask(record.body.as_deref().or(record.event_name.as_deref()).unwrap_or_default(), &mut text);
            let severity = Level::of(record.severity_number, None).map_or(0, Level::number);
            texts.insert(id, LogTemplate { service_name: record.service_name, severity, text });
        }
        Ok(texts)
    }

    /// A record of each template at a time, by the template.
    async fn records_of(
        &self,
        filter: &LogFilter,
        wanted: &[(i64, Micros)],
    ) -> Result<HashMap<i64, LogEntry>, StoreError> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self.database.log_examples(filter, wanted).await?;
        Ok(rows.into_iter().filter_map(|row| Some((row.template_id?, LogEntry::from(row)))).collect())
    }
}
