//! Which attributes there are and which values they have, for completion.
//!
//! Made of a sample: the newest records of every service in the time asked about, about 5,000 in all. What is rare may
//! be missing, and every answer says how many records were read. Names that mean the same in old and new semantic
//! conventions are one.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::range::TimeRange;
use super::{QueryError, QueryService, check_limit};
use crate::conventions::same_names;
use crate::otlp::Signal;
use crate::store::sample::{KeyRow, SampleOf};

/// Bytes of a prefix or key at most.
const MAX_BYTES: usize = 4096;

/// Names of attributes are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeKeysRequest {
    /// Of spans, of log records or of metrics, and of their resources.
    pub signal: Signal,
    /// How the names begin, in either case.
    pub prefix: String,
    /// When the records were; of metrics when their series were.
    pub range: TimeRange,
    /// How many names, 1 to 1000.
    pub limit: usize,
}

/// Names of attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttributeKeys {
    /// The most frequent first, of equal ones by name.
    pub keys: Vec<AttributeKey>,
    /// Whether there are more.
    pub more: bool,
    /// Records that were read; there may be others with other attributes.
    pub records_read: i64,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttributeKey {
    /// Its name: of several that mean the same the most frequent one.
    pub key: String,
    /// Other names that it was found under, by the semantic conventions the same.
    pub same_as: Vec<String>,
    /// Types of its values: `string`, `boolean`, `integer`, `double`, `array`, `object`, `null`.
    pub types: Vec<String>,
    /// Whether records have it themselves.
    pub of_record: bool,
    /// Whether their resources have it.
    pub of_resource: bool,
    /// In how many of the records read; a record whose resource has it too counts twice.
    pub seen: i64,
}

/// Values of an attribute are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeValuesRequest {
    /// Of spans, of log records or of metrics, and of their resources.
    pub signal: Signal,
    /// The attribute, under any of its names.
    pub key: String,
    /// How the values begin, as text, in either case.
    pub prefix: String,
    /// When the records were; of metrics when their series were.
    pub range: TimeRange,
    /// How many values, 1 to 1000.
    pub limit: usize,
}

/// Values of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttributeValues {
    /// The most frequent first, of equal ones in the order of their text.
    pub values: Vec<AttributeValueCount>,
    /// Whether there are more.
    pub more: bool,
    /// Records that were read; there may be others with other values.
    pub records_read: i64,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AttributeValueCount {
    /// As text, its first 256 characters.
    pub value: String,
    /// Its type, see [`AttributeKey::types`].
    #[serde(rename = "type")]
    pub kind: String,
    /// In how many of the records read.
    pub seen: i64,
}

fn sample_of(signal: Signal) -> SampleOf {
    match signal {
        Signal::Traces => SampleOf::Spans,
        Signal::Logs => SampleOf::Logs,
        Signal::Metrics => SampleOf::Series,
    }
}

fn check_text(name: &'static str, text: &str, least: usize) -> Result<(), QueryError> {
    if (least..=MAX_BYTES).contains(&text.len()) && !text.contains('\0') {
        return Ok(());
    }
    Err(QueryError::InvalidArgument { name, accepted: format!("a text of {least} to {MAX_BYTES} bytes without NUL") })
}

impl QueryService {
    /// Attributes by the beginning of their name.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a prefix or limit that cannot be.
    pub async fn attribute_keys(&self, request: &AttributeKeysRequest) -> Result<AttributeKeys, QueryError> {
        let limit = check_limit(request.limit)?;
        check_text("prefix", &request.prefix, 0)?;
        let (of, range) = (sample_of(request.signal), request.range);
        let query = (format!("{of:?}"), &request.prefix, range, limit);
        let ask = async {
            let found = self.database.sampled_keys(of, range.micros(), &request.prefix).await?;
            let mut keys = unite(found.rows);
            let more = keys.len() > limit;
            keys.truncate(limit);
            Ok(AttributeKeys { keys, more, records_read: found.records })
        };
        self.cached("attribute_keys", &query, range.end(), ask).await
    }

    /// Values of an attribute by their beginning.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for a key, prefix or limit that cannot be.
    pub async fn attribute_values(&self, request: &AttributeValuesRequest) -> Result<AttributeValues, QueryError> {
        let limit = check_limit(request.limit)?;
        check_text("key", &request.key, 1)?;
        check_text("prefix", &request.prefix, 0)?;
        let (of, range) = (sample_of(request.signal), request.range);
        let names = same_names(&request.key);
        let query = (format!("{of:?}"), &names, &request.prefix, range, limit);
        let ask = async {
            let wanted = limit as i64 + 1;
            let found = self.database.sampled_values(of, range.micros(), &names, &request.prefix, wanted).await?;
            let mut values: Vec<AttributeValueCount> = found
                .rows
                .into_iter()
                .map(|row| AttributeValueCount { value: row.value, kind: row.kind, seen: row.records })
                .collect();
            let more = values.len() > limit;
            values.truncate(limit);
            Ok(AttributeValues { values, more, records_read: found.records })
        };
        self.cached("attribute_values", &query, range.end(), ask).await
    }
}

/// What was found of the names that mean the same.
#[derive(Default)]
struct United {
    names: HashMap<String, i64>,
    types: BTreeSet<String>,
    of_record: bool,
    of_resource: bool,
}

fn unite(rows: Vec<KeyRow>) -> Vec<AttributeKey> {
    let mut united: HashMap<Vec<String>, United> = HashMap::new();
    for row in rows {
        let mut names: Vec<String> = same_names(&row.key).into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        let united = united.entry(names).or_default();
        *united.names.entry(row.key).or_default() += row.records;
        united.types.insert(row.kind);
        united.of_record |= !row.of_resource;
        united.of_resource |= row.of_resource;
    }
    let mut keys: Vec<AttributeKey> = united
        .into_values()
        .filter_map(|united| {
            let seen = united.names.values().sum();
            let mut names: Vec<(String, i64)> = united.names.into_iter().collect();
            names.sort_unstable_by(|(a, a_seen), (b, b_seen)| b_seen.cmp(a_seen).then_with(|| a.cmp(b)));
            let mut names = names.into_iter().map(|(name, _)| name);
            Some(AttributeKey {
                key: names.next()?,
                same_as: names.collect(),
                types: united.types.into_iter().collect(),
                of_record: united.of_record,
                of_resource: united.of_resource,
                seen,
            })
        })
        .collect();
    keys.sort_unstable_by(|a, b| b.seen.cmp(&a.seen).then_with(|| a.key.cmp(&b.key)));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_the_same_are_one() {
        let row = |key: &str, of_resource, kind: &str, records| KeyRow {
            key: key.to_owned(),
            of_resource,
            kind: kind.to_owned(),
            records,
        };
        let keys = unite(vec![
            row("http.status_code", false, "integer", 3),
            row("http.response.status_code", false, "string", 5),
            row("order.id", false, "string", 1),
            row("order.id", true, "integer", 1),
        ]);
        assert_eq!(keys.len(), 2);
        assert_eq!((keys[0].key.as_str(), keys[0].seen), ("http.response.status_code", 8));
        assert_eq!(
            (&keys[0].same_as, &keys[0].types),
            (&vec!["http.status_code".into()], &vec!["integer".into(), "string".into()])
        );
        assert!(keys[1].of_record && keys[1].of_resource && !keys[0].of_resource);
    }
}
