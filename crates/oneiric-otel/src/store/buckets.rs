//! Which partitions of traces a question has to look at.
//!
//! A trace's bucket is its start when it was first derived. A trace never begins after its bucket, unless it was first derived
//! from spans without a start, and then its bucket is before 2000. It can begin long before it: the first span of a long run
//! may arrive last. The buckets of which that is so are noted by triggers (migration 28), so a question about an old day
//! leaves out what came after. To plan for a partition and find nothing in it costs about as much as its own.

use jiff::Timestamp;
use tokio_postgres::types::{ToSql, Type};

use super::attributes::{Values, push};
use super::copy::Micros;
use super::database::Database;
use super::error::StoreError;

/// More than a day before its bucket is early.
const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;
/// 2000-01-01 00:00:00 UTC.
const BEGINNING: Micros = Micros(0);
/// With more ranges of early traces, all buckets are looked at.
const MOST_EARLY: usize = 50;

/// Buckets that can have traces which begin within a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Buckets {
    from: Micros,
    /// Where they end, and later ranges that have early traces; none: nowhere.
    until: Option<(Micros, Vec<(Micros, Micros)>)>,
}

impl Buckets {
    /// All of them: a condition that says so in other words would be planned for in each partition and looked at in each row.
    fn are_all(&self) -> bool {
        self.from <= BEGINNING && self.until.is_none()
    }

    /// A condition on a bucket, with its values appended to `values`.
    pub(super) fn hold<'a>(&'a self, values: &mut Values<'a>, bucket: &str) -> String {
        if self.are_all() {
            return "true".to_owned();
        }
        let mut time = |micros: &'a Micros| push(values, micros as &(dyn ToSql + Sync), Type::TIMESTAMPTZ);
        let from = time(&self.from);
        let until = match &self.until {
            None => String::new(),
            Some((until, early)) => {
                let mut ranges = vec![format!("{bucket} < {}", time(until))];
                ranges.extend(
                    early.iter().map(|(from, to)| format!("({bucket} >= {} AND {bucket} < {})", time(from), time(to))),
                );
                format!(" AND ({})", ranges.join(" OR "))
            }
        };
        format!("(({bucket} >= {from}{until}) OR {bucket} < timestamptz '2000-01-01 00:00:00+00')")
    }

    /// The same of two days, the first and the last of some buckets.
    pub(super) fn overlap<'a>(&'a self, values: &mut Values<'a>, first: &str, last: &str) -> String {
        if self.are_all() {
            return "true".to_owned();
        }
        let mut day = |micros: &'a Micros| {
            let place = push(values, micros as &(dyn ToSql + Sync), Type::TIMESTAMPTZ);
            format!("({place} AT TIME ZONE 'UTC')::date")
        };
        let from = day(&self.from);
        let until = match &self.until {
            None => String::new(),
            Some((until, early)) => {
                let mut ranges = vec![format!("{first} <= {}", day(until))];
                ranges.extend(
                    early.iter().map(|(from, to)| format!("({last} >= {} AND {first} < {})", day(from), day(to))),
                );
                format!(" AND ({})", ranges.join(" OR "))
            }
        };
        format!("(({last} >= {from}{until}) OR {first} < date '2000-01-01')")
    }
}

impl Database {
    /// The buckets that can have traces which begin from `since` and before `until`.
    pub(super) async fn buckets(&self, since: Micros, until: Micros) -> Result<Buckets, StoreError> {
        let end = Micros(until.0.saturating_add(DAY_MICROS));
        let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default();
        if since < BEGINNING || end >= Micros::from_unix_nanos(now).0 {
            // Nothing, or little, comes after it; or traces without a clock are asked for, which are not noted.
            return Ok(Buckets { from: since, until: None });
        }
        let sql = "SELECT CASE WHEN isfinite(bucket_from) THEN bucket_from END, bucket_to
                   FROM otel.otel_early_traces WHERE bucket_to > $1 AND first_start < $2 ORDER BY bucket_from LIMIT $3";
        let limit = MOST_EARLY as i64 + 1;
        let arguments: [(&(dyn ToSql + Sync), Type); 3] =
            [(&end, Type::TIMESTAMPTZ), (&until, Type::TIMESTAMPTZ), (&limit, Type::INT8)];
        let rows = match self.reader().await?.query_typed(sql, &arguments).await {
            Ok(rows) => rows,
            // A role that was granted the tables of an earlier version.
            Err(error) if error.is_denied() => return Ok(Buckets { from: since, until: None }),
            Err(error) => return Err(error),
        };
        let mut early = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(from) = row.try_get::<_, Option<Micros>>(0)? else {
                // It is not yet known.
                return Ok(Buckets { from: since, until: None });
            };
            early.push((from, row.try_get(1)?));
        }
        Ok(Buckets { from: since, until: (early.len() <= MOST_EARLY).then_some((end, early)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_names_the_end_and_what_is_early_only_where_there_is_an_end() {
        let open = Buckets { from: Micros(1), until: None };
        let mut values: Values<'_> = Vec::new();
        assert_eq!(open.hold(&mut values, "b"), "((b >= $1) OR b < timestamptz '2000-01-01 00:00:00+00')");
        let closed = Buckets { from: Micros(1), until: Some((Micros(2), vec![(Micros(3), Micros(4))])) };
        let mut values: Values<'_> = vec![(&closed.from, Type::TIMESTAMPTZ)];
        assert_eq!(
            closed.hold(&mut values, "b"),
            "((b >= $2 AND (b < $3 OR (b >= $4 AND b < $5))) OR b < timestamptz '2000-01-01 00:00:00+00')"
        );
        assert_eq!(values.len(), 5);
    }

    #[test]
    fn all_buckets_need_no_condition() {
        let all = Buckets { from: Micros(i64::MIN), until: None };
        let mut values: Values<'_> = Vec::new();
        assert_eq!(
            (all.hold(&mut values, "b"), all.overlap(&mut values, "f", "l")),
            ("true".to_owned(), "true".to_owned())
        );
        assert!(values.is_empty());
    }
}
