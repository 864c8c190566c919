//! Answers that are asked for again and again.
//!
//! Promises: an answer about a time that has been over for ten minutes is given again for five minutes, any other for two
//! seconds, both counted from when it was asked for; who bypasses the cache gets an answer of its own. Equal questions at
//! the same time are asked once; when the one that asks goes away, the next of those that wait asks. An error is nobody
//! else's. At most [`MAX_ENTRIES`] answers and [`MAX_BYTES`] are kept, those used last.
//!
//! Not exact: several servers write, so nobody can say when an answer is no longer true. Hence the short times.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::OnceCell;

use super::{QueryError, QueryService};

/// Answers that are kept at most.
const MAX_ENTRIES: usize = 1000;
/// Bytes of all of them, as JSON, at most.
const MAX_BYTES: usize = 64 << 20;
/// Bytes of one of them at most.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// When a time has been over for so long, little will be added to it.
const CLOSED_AFTER: SignedDuration = SignedDuration::from_mins(10);
const KEEP_CLOSED: Duration = Duration::from_mins(5);
const KEEP_OPEN: Duration = Duration::from_secs(2);

/// How often the cache had the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheCounts {
    /// Answers that were there or on their way.
    pub hits: u64,
    /// Answers that had to be asked for.
    pub misses: u64,
    /// Answers that the caller did not want from the cache.
    pub bypassed: u64,
    /// Answers that are kept now.
    pub entries: u64,
    /// Their size as JSON.
    pub bytes: u64,
}

/// A question: the type of its answer, and all that decides about it.
type Key = (TypeId, String);
type Answer = Arc<dyn Any + Send + Sync>;

#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: Mutex<Kept>,
    hits: AtomicU64,
    misses: AtomicU64,
    bypassed: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Key, Entry>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Arc<OnceCell<Answer>>,
    /// None while it is on its way.
    until: Option<Instant>,
    bytes: usize,
    used: u64,
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }

    /// The place of an answer, made if need be.
    fn place(&mut self, key: &Key) -> Arc<OnceCell<Answer>> {
        let now = Instant::now();
        if self.entries.get(key).and_then(|entry| entry.until).is_some_and(|until| until <= now) {
            self.remove(key);
        }
        self.clock += 1;
        let used = self.clock;
        let new = || Entry { answer: Arc::default(), until: None, bytes: 0, used };
        let entry = self.entries.entry(key.clone()).or_insert_with(new);
        entry.used = used;
        let answer = Arc::clone(&entry.answer);
        if self.entries.len() > MAX_ENTRIES {
            self.shrink(now);
        }
        answer
    }

    /// Keeps the answer that has come, if its place is still there.
    fn settle(&mut self, key: &Key, answer: &Arc<OnceCell<Answer>>, bytes: usize, until: Instant) {
        let now = Instant::now();
        let Some(entry) = self.entries.get_mut(key).filter(|entry| Arc::ptr_eq(&entry.answer, answer)) else { return };
        if bytes > MAX_ANSWER_BYTES || until <= now {
            return self.remove(key);
        }
        self.bytes += bytes;
        (entry.bytes, entry.until) = (bytes, Some(until));
        if self.bytes > MAX_BYTES {
            self.shrink(now);
        }
    }

    /// Forgets a place to which no answer came, unless others wait for one.
    fn give_up(&mut self, key: &Key, answer: &Arc<OnceCell<Answer>>) {
        let is_mine = |entry: &Entry| Arc::ptr_eq(&entry.answer, answer) && entry.until.is_none();
        if Arc::strong_count(answer) <= 2 && self.entries.get(key).is_some_and(is_mine) {
            self.remove(key);
        }
    }

    /// Removes what is over, then what was used longest ago, until there is some room.
    fn shrink(&mut self, now: Instant) {
        let mut keys: Vec<(bool, u64, Key)> = self
            .entries
            .iter()
            .map(|(key, entry)| (entry.until.is_none_or(|until| until > now), entry.used, key.clone()))
            .collect();
        keys.sort_unstable_by_key(|(valid, used, _)| (*valid, *used));
        for (valid, _, key) in keys {
            let roomy = self.entries.len() <= MAX_ENTRIES / 10 * 9 && self.bytes <= MAX_BYTES / 10 * 9;
            if valid && roomy {
                break;
            }
            self.remove(&key);
        }
    }
}

impl Cache {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> CacheCounts {
        let kept = self.kept();
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bypassed: self.bypassed.load(Ordering::Relaxed),
            entries: kept.entries.values().filter(|entry| entry.until.is_some()).count() as u64,
            bytes: kept.bytes as u64,
        }
    }

    async fn get<A>(
        &self,
        key: Key,
        keep: Duration,
        ask: impl Future<Output = Result<A, QueryError>>,
    ) -> Result<A, QueryError>
    where
        A: Serialize + Clone + Send + Sync + 'static,
    {
        let answer = self.kept().place(&key);
        let place = Place { cache: self, answer, key };
        let mut came = None;
        let ask = async {
            self.misses.fetch_add(1, Ordering::Relaxed);
            let until = Instant::now() + keep;
            let answer = ask.await?;
            came = Some((size(&answer), until));
            Ok::<Answer, QueryError>(Arc::new(answer))
        };
        let answer = place.answer.get_or_try_init(|| ask).await?;
        match came {
            Some((bytes, until)) => self.kept().settle(&place.key, &place.answer, bytes, until),
            None => {
                self.hits.fetch_add(1, Ordering::Relaxed);
            }
        }
        let answer = answer.downcast_ref::<A>().cloned();
        // The type is part of the key.
        answer.ok_or_else(|| QueryError::Unavailable { reason: "the kept answer is of another kind".to_owned() })
    }
}

/// A question that is being asked or waited for. Nothing stays of it when it goes away without an answer.
struct Place<'a> {
    cache: &'a Cache,
    answer: Arc<OnceCell<Answer>>,
    key: Key,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.cache.kept().give_up(&self.key, &self.answer);
    }
}

/// Counts bytes and forgets them.
#[derive(Default)]
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn size(answer: &impl Serialize) -> usize {
    let mut counter = Counter::default();
    // What has no JSON is too large to be kept.
    serde_json::to_writer(&mut counter, answer).map_or(usize::MAX, |()| counter.0)
}

impl QueryService {
    /// The same service, whose answers are asked for anew each time.
    #[must_use]
    pub fn bypassing_cache(&self) -> Self {
        Self { bypasses_cache: true, ..self.clone() }
    }

    /// How often the cache of this service, and of those cloned from it, had the answer.
    pub fn cache_counts(&self) -> CacheCounts {
        self.cache.counts()
    }

    /// The answer of `ask`, or the one that was given to an equal question a short time ago. `query` is all that decides
    /// about the answer to `call`, and `end` the end of the time it is about.
    pub(super) fn cached<'a, A>(
        &'a self,
        call: &'static str,
        query: &impl Serialize,
        end: Timestamp,
        ask: impl Future<Output = Result<A, QueryError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<A, QueryError>>
    where
        A: Serialize + Clone + Send + Sync + 'static,
    {
        // Boxed, because a question is a large future.
        let ask = ask.boxed();
        let (Ok(json), false) = (serde_json::to_string(query), self.bypasses_cache) else {
            self.cache.bypassed.fetch_add(1, Ordering::Relaxed);
            return ask;
        };
        let is_closed = Timestamp::now().duration_since(end) > CLOSED_AFTER;
        let keep = if is_closed { KEEP_CLOSED } else { KEEP_OPEN };
        self.cache.get((TypeId::of::<A>(), format!("{call} {json}")), keep, ask).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LONG: Duration = Duration::from_mins(5);

    fn key(question: &str) -> Key {
        (TypeId::of::<String>(), question.to_owned())
    }

    async fn ask(cache: &Cache, question: &str, answer: &str) -> String {
        cache.get(key(question), LONG, async { Ok(answer.to_owned()) }).await.expect("an answer")
    }

    #[tokio::test]
    async fn an_answer_is_given_again_until_its_time_is_over() {
        let cache = Cache::default();
        assert_eq!(ask(&cache, "a", "1").await, "1");
        assert_eq!(ask(&cache, "a", "2").await, "1");
        assert_eq!(ask(&cache, "b", "3").await, "3");
        let over = async || cache.get(key("c"), Duration::ZERO, async { Ok("4".to_owned()) }).await.expect("an answer");
        assert_eq!((over().await, over().await), ("4".to_owned(), "4".to_owned()));
        let counts = cache.counts();
        assert_eq!((counts.hits, counts.misses, counts.entries, counts.bytes), (1, 4, 2, 6));
    }

    #[tokio::test]
    async fn equal_questions_at_the_same_time_are_asked_once() {
        let cache = Cache::default();
        let asked = AtomicUsize::new(0);
        let (open, gate) = tokio::sync::watch::channel(false);
        let question = || {
            let mut gate = gate.clone();
            let asked = &asked;
            cache.get(key("a"), LONG, async move {
                asked.fetch_add(1, Ordering::Relaxed);
                gate.wait_for(|open| *open).await.map_err(|_| QueryError::TooLong)?;
                Ok("answer".to_owned())
            })
        };
        // The one that asks goes away: another asks in its place.
        let mut first = Box::pin(question());
        assert!(futures::poll!(&mut first).is_pending());
        let mut rest: Vec<_> = (0..5).map(|_| Box::pin(question())).collect();
        for waiting in &mut rest {
            assert!(futures::poll!(waiting).is_pending());
        }
        drop(first);
        open.send_replace(true);
        for answer in futures::future::join_all(rest).await {
            assert_eq!(answer.expect("an answer"), "answer");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert_eq!((cache.counts().hits, cache.counts().misses), (4, 2));
    }

    #[tokio::test]
    async fn nothing_stays_of_what_failed_or_was_dropped() {
        let cache = Cache::default();
        let failed: Result<String, _> = cache.get(key("a"), LONG, async { Err(QueryError::TooLong) }).await;
        assert!(matches!(failed, Err(QueryError::TooLong)));
        let mut dropped = Box::pin(cache.get::<String>(key("b"), LONG, std::future::pending()));
        assert!(futures::poll!(&mut dropped).is_pending());
        drop(dropped);
        assert!(cache.kept().entries.is_empty());
        assert_eq!(ask(&cache, "a", "1").await, "1");
    }

    #[tokio::test]
    async fn what_was_used_longest_ago_goes_first() {
        let cache = Cache::default();
        for number in 0..MAX_ENTRIES {
            ask(&cache, &number.to_string(), "x").await;
        }
        ask(&cache, "0", "y").await;
        ask(&cache, "one more", "x").await;
        assert!(cache.counts().entries as usize <= MAX_ENTRIES);
        assert_eq!(ask(&cache, "0", "y").await, "x", "used lately");
        assert_eq!(ask(&cache, "1", "y").await, "y", "gone");
        let large = "x".repeat(MAX_ANSWER_BYTES - 2);
        for number in 0..40 {
            ask(&cache, &format!("large {number}"), &large).await;
        }
        assert!(cache.counts().bytes as usize <= MAX_BYTES);
        let before = cache.counts().entries;
        ask(&cache, "too large", &"x".repeat(MAX_ANSWER_BYTES)).await;
        assert_eq!(cache.counts().entries, before);
    }
}
