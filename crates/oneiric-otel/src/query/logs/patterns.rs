//! The patterns of logs: a million lines read as twenty.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;

use super::merge::{Counted, merge};
use super::{Level, LogEntry, LogsRequest, time_range, timestamp};
use crate::pipeline::template;
use crate::query::{QueryError, QueryService, check_limit};
use crate::store::logs::{LogFilter, LogRow};
use crate::store::templates::TemplateCount;
use crate::store::{LogTemplate, Micros, StoreError};

/// Templates of one answer at most; the records of rarer ones are counted together.
const MAX_TEMPLATES: i64 = 5000;
/// Templates that are made again of a record, because they are not stored, in one answer at most.
const MAX_MADE_AGAIN: usize = 50;

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
    pub templates: Vec<i64>,
    /// The last of the records.
    pub example: Option<LogEntry>,
}

impl QueryService {
    /// The patterns of the logs that fit a request, the most frequent first. Its `limit` is the number of patterns; its
    /// cursor is not looked at.
    ///
    /// # Errors
    /// As [`Self::search_logs`], and [`QueryError::TooLong`] for a range with more logs than can be counted in time.
    pub async fn log_patterns(&self, request: &LogsRequest) -> Result<LogPatterns, QueryError> {
        let limit = check_limit(request.limit)?;
        let range = time_range(request.start, request.end)?;
        let filter = self.log_filter(request).await?;
        let counts = self.database.template_counts(&filter, range, MAX_TEMPLATES).await?;
        if let (Some(service), true) = (&request.service, counts.is_empty()) {
            self.check_service(service).await?;
        }
        let all = if (counts.len() as i64) < MAX_TEMPLATES {
            None
        } else {
            Some(self.database.count_logs(&filter, range).await?)
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
        let merged = merge(known.collect());
        more_records +=
            by_id.iter().filter(|(id, _)| !texts.contains_key(id)).map(|(_, count)| count.records).sum::<i64>();

        let mut patterns = Vec::new();
        let more_patterns = merged.len().saturating_sub(limit);
        more_records += merged.iter().skip(limit).map(|pattern| pattern.records).sum::<i64>();
        for pattern in merged.into_iter().take(limit) {
            let of = |pick: fn(&TemplateCount) -> Micros| pattern.ids.iter().filter_map(|id| by_id.get(id)).map(pick);
            let (first, last) = (of(|count| count.first).min(), of(|count| count.last).max());
            let (Some(first), Some(last)) = (first, last) else { continue };
            let example = self.newest(&filter, &pattern.ids, last).await?;
            patterns.push(LogPattern {
                pattern: pattern.text,
                service_name: pattern.service,
                level: Level::of(pattern.severity, None),
                count: pattern.records,
                first: timestamp(first, 0),
                last: timestamp(last, 0),
                templates: pattern.ids,
                example: example.map(LogEntry::from),
            });
        }
        Ok(LogPatterns { patterns, more_patterns, more_records, without_template })
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
        for (id, count) in missing.into_iter().take(MAX_MADE_AGAIN) {
            if let Some(row) = self.newest(&LogFilter::default(), &[*id], count.last).await? {
                let mut text = String::new();
                template::mask(row.body.as_deref().or(row.event_name.as_deref()).unwrap_or_default(), &mut text);
                let severity = Level::of(row.severity_number, None).map_or(0, Level::number);
                texts.insert(*id, LogTemplate { service_name: row.service_name, severity, text });
            }
        }
        Ok(texts)
    }

    /// The record of these templates at a time.
    async fn newest(&self, filter: &LogFilter, templates: &[i64], time: Micros) -> Result<Option<LogRow>, StoreError> {
        let filter = LogFilter { templates: Some(templates.to_vec()), ..filter.clone() };
        let rows = self.database.log_rows(&filter, (time, Micros(time.0.saturating_add(1))), None, 1).await?;
        Ok(rows.into_iter().next())
    }
}
