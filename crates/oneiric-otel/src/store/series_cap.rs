//! The cap on metric series: how many a database may have, and whether there is room for more.
//!
//! # Promise
//! What is stored already, retired rows included, is nobody's business here: only series that are really new are asked
//! about. Nothing is counted as long as the highest id says that there is room: ids begin at 1 and none is given twice, so
//! there are no more rows than that. Beyond it rows are counted, by one task of the process at a time, at most once a minute
//! and for a fiftieth of the time. In between, ids that were given since tell how many there are at most. That a row was
//! deleted is found out by the next count, so there may seem to be less room than there is, for as long.
//!
//! Transactions that are under way at the same moment, here or in other servers, do not see each other's series: together
//! they may go beyond the cap by what they store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;

use super::database::Database;
use super::error::StoreError;

/// Metric series that a database may have, unless somebody says otherwise.
pub const MAX_METRIC_SERIES: u64 = 10_000_000;

/// The class of dead letters with data points of series for which there was no room.
pub(crate) const SERIES_LIMIT: &str = "series-limit";

/// How long a count is good for at least, and so many times as long as it took.
const COUNTED_FOR: Duration = Duration::from_mins(1);
const COUNTED_FOR_TIMES: u32 = 50;
/// How long a writer waits for a count. It goes on without a writer.
const COUNT_PATIENCE: Duration = Duration::from_secs(15);
/// How often it is said that there is no room.
const WARN_EVERY: Duration = Duration::from_mins(1);

const HIGHEST: &str = "SELECT coalesce(max(series_id), 0) FROM otel.otel_metric_series";

/// How many series there may be, and what is known of how many there are.
#[derive(Debug)]
pub(crate) struct SeriesCap {
    limit: u64,
    known: Arc<Mutex<Known>>,
    /// Held by who counts.
    counting: Arc<tokio::sync::Mutex<()>>,
    warned: Mutex<Option<Instant>>,
}

/// What is known of the number of rows.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    counted: Option<Counted>,
    /// Rows may have come from elsewhere since: a backup was restored, or the database is another one.
    is_in_doubt: bool,
    /// When the last count ended, and how long it took, whatever came of it.
    tried: Option<(Instant, Duration)>,
}

/// Rows, and the highest id among them.
#[derive(Debug, Clone, Copy)]
struct Counted {
    rows: u64,
    highest: i64,
}

/// Whether there is room for new series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// For how many of those that were asked about.
    pub(super) fits: usize,
    /// How many rows there are at most.
    pub(super) rows: u64,
    /// A count may say otherwise, and it is time for one.
    pub(super) should_count: bool,
}

impl Known {
    fn room(&self, limit: u64, highest: i64, wanted: usize, now: Instant) -> Room {
        let ids = highest.max(0).unsigned_abs();
        let since = |counted: &Counted| highest.saturating_sub(counted.highest).max(0).unsigned_abs();
        let rows = self.counted.map_or(ids, |counted| ids.min(counted.rows + since(&counted)));
        let fits = usize::try_from(limit.saturating_sub(rows)).unwrap_or(usize::MAX).min(wanted);
        // Ids do not fall, unless an earlier state of the database is back.
        let is_in_doubt = self.is_in_doubt || self.counted.is_some_and(|counted| highest < counted.highest);
        let may_differ = rows < ids && is_in_doubt || fits < wanted;
        Room { fits, rows, should_count: may_differ && self.is_due(now) }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.tried.is_none_or(|(at, took)| {
            now.saturating_duration_since(at) >= COUNTED_FOR.max(took.saturating_mul(COUNTED_FOR_TIMES))
        })
    }
}

impl SeriesCap {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, known: Arc::default(), counting: Arc::default(), warned: Mutex::default() }
    }

    /// Whether there is room for so many new series, as this transaction sees it.
    pub(super) async fn room(&self, transaction: &Transaction<'_>, wanted: usize) -> Result<Room, StoreError> {
        let highest = transaction.query_typed_one(HIGHEST, &[]).await?.get(0);
        Ok(lock(&self.known).room(self.limit, highest, wanted, Instant::now()))
    }

    /// Whether there is room for none.
    pub(super) async fn is_reached(&self, database: &Database) -> Result<bool, StoreError> {
        let highest = database.query_one(HIGHEST, &[]).await?.get(0);
        let room = || lock(&self.known).room(self.limit, highest, 1, Instant::now());
        if room().should_count {
            self.count(database).await;
        }
        Ok(room().fits == 0)
    }

    /// Counts the rows, unless that was done just now, on a connection of its own. What is not known after a while is not
    /// waited for.
    pub(super) async fn count(&self, database: &Database) {
        // Who counts makes nobody else wait: the others go on with what is known.
        let Ok(turn) = Arc::clone(&self.counting).try_lock_owned() else { return };
        let (known, database) = (Arc::clone(&self.known), database.clone());
        let count = tokio::spawn(crate::self_trace::inherit(async move {
            let _turn = turn;
            let began = Instant::now();
            if !lock(&known).is_due(began) {
                return;
            }
            let counted = counted(&database).await;
            let mut known = lock(&known);
            known.tried = Some((Instant::now(), began.elapsed()));
            match counted {
                Ok(counted) => {
                    tracing::debug!(rows = counted.rows, took = ?began.elapsed(), "counted metric series");
                    (known.counted, known.is_in_doubt) = (Some(counted), false);
                }
                Err(error) => tracing::warn!(%error, "metric series could not be counted"),
            }
        }));
        if tokio::time::timeout(COUNT_PATIENCE, count).await.is_err() {
            tracing::warn!("counting metric series takes long");
        }
    }

    /// The database may be another one by now.
    pub(super) fn doubt(&self) {
        lock(&self.known).is_in_doubt = true;
    }

    /// Why points of some new series are not stored. Says so in the log, too, once in a while.
    pub(super) fn refuse(&self, series: usize, rows: u64) -> String {
        let limit = self.limit;
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(
                limit,
                rows,
                series,
                "there is no room for new metric series: their points become dead letters, and are stored when \
                 limits.max_metric_series is raised or series are collected"
            );
        }
        format!(
            "there is no room for new metric series: {rows} are stored, and the limit is {limit} \
             (limits.max_metric_series)"
        )
    }
}

async fn counted(database: &Database) -> Result<Counted, StoreError> {
    // Both of one snapshot.
    let sql = "SELECT count(*), coalesce(max(series_id), 0) FROM otel.otel_metric_series";
    let row = database.query_one(sql, &[]).await?;
    Ok(Counted { rows: row.get::<_, i64>(0).unsigned_abs(), highest: row.get(1) })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is assigned whole: a panic leaves it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(rows: u64, highest: i64, tried: Instant) -> Known {
        let took = Duration::from_secs(2);
        Known { counted: Some(Counted { rows, highest }), tried: Some((tried, took)), is_in_doubt: false }
    }

    #[test]
    fn nothing_is_counted_while_the_highest_id_leaves_room() {
        let now = Instant::now();
        let nothing = Known::default();
        assert_eq!(nothing.room(100, 0, 100, now), Room { fits: 100, rows: 0, should_count: false });
        assert_eq!(nothing.room(100, 90, 10, now), Room { fits: 10, rows: 90, should_count: false });
        assert_eq!(nothing.room(100, 90, 11, now), Room { fits: 10, rows: 90, should_count: true });
        assert_eq!(nothing.room(100, 5000, 1, now), Room { fits: 0, rows: 5000, should_count: true });
        assert_eq!(nothing.room(u64::MAX, i64::MAX, 9, now).fits, 9);
    }

    #[test]
    fn ids_that_were_given_since_the_count_are_rows_until_the_next() {
        let now = Instant::now();
        let known = known(60, 5000, now);
        assert_eq!(known.room(100, 5000, 40, now), Room { fits: 40, rows: 60, should_count: false });
        assert_eq!(known.room(100, 5030, 20, now), Room { fits: 10, rows: 90, should_count: false });
        let soon = now + Duration::from_secs(99);
        assert!(!known.room(100, 5040, 1, soon).should_count, "it took two seconds");
        let later = now + Duration::from_secs(100);
        assert_eq!(known.room(100, 5040, 1, later), Room { fits: 0, rows: 100, should_count: true });
        assert!(!known.room(100, 5030, 10, later).should_count, "there is room");
        assert_eq!(known.room(100, 40, 1, now).rows, 40, "there are no more rows than ids");
    }

    #[test]
    fn a_count_of_another_state_of_the_database_is_not_trusted_for_long() {
        let now = Instant::now();
        let later = now + Duration::from_secs(100);
        let restored = known(60, 5000, now);
        assert_eq!(restored.room(100, 4000, 1, now), Room { fits: 1, rows: 60, should_count: false });
        assert!(restored.room(100, 4000, 1, later).should_count);
        let doubtful = Known { is_in_doubt: true, ..restored };
        assert!(!doubtful.room(100, 5000, 1, now).should_count);
        assert!(doubtful.room(100, 5000, 1, later).should_count);
        assert!(!Known { is_in_doubt: true, ..Known::default() }.room(100, 9, 1, later).should_count);
    }
}
