//! Vectors of questions that are asked again: with another filter, a larger limit, on the next page of somebody else.
//!
//! Promise: a vector is given again to the same model and the same text alone, so none is ever stale. Those used last are kept.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use serde::Serialize;

use super::{QueryError, QueryService};
use crate::embed::{EmbedError, Embedder, EmbeddingModel, check};

/// How often a question's vector was there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QuestionVectorCounts {
    /// Vectors that were there.
    pub hits: u64,
    /// Vectors that the model was asked for.
    pub misses: u64,
    /// Vectors that are kept now.
    pub entries: u64,
}

/// By model and text.
type Kept = LruCache<(EmbeddingModel, String), Arc<[f32]>>;

#[derive(Debug)]
pub(super) struct QuestionVectors {
    kept: Mutex<Kept>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl QuestionVectors {
    /// Keeps so many, at least one.
    pub(super) fn new(size: usize) -> Self {
        let kept = Mutex::new(LruCache::new(NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN)));
        Self { kept, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The vector of one text, computed where it does not hold up other tasks if it is not there.
    pub(super) async fn of(&self, embedder: &Arc<dyn Embedder>, text: String) -> Result<Vec<f32>, QueryError> {
        let key = (embedder.model().clone(), text);
        if let Some(vector) = self.lock().get(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(vector.to_vec());
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let vector = embed(embedder, key.1.clone()).await?;
        self.lock().put(key, vector.as_slice().into());
        Ok(vector)
    }

    fn counts(&self) -> QuestionVectorCounts {
        QuestionVectorCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.lock().len() as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryService {
    /// How often a question's vector was there already.
    pub fn question_vector_counts(&self) -> QuestionVectorCounts {
        self.vectors.counts()
    }
}

async fn embed(embedder: &Arc<dyn Embedder>, text: String) -> Result<Vec<f32>, QueryError> {
    let embedder = Arc::clone(embedder);
    let computed = tokio::task::spawn_blocking(move || {
        let vectors = embedder.embed(&[&text])?;
        check(&vectors, 1, embedder.model().dimension)
            .map_err(|reason| EmbedError { model: embedder.model().name.clone(), reason })?;
        Ok::<_, EmbedError>(vectors)
    })
    .await
    .map_err(|error| QueryError::Unavailable { reason: format!("embedding was interrupted: {error}") })??;
    computed.into_iter().next().ok_or_else(|| QueryError::Unavailable { reason: "the model gave no vector".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its vectors say how often it was asked. It does not know the text "unknown".
    struct Counting(EmbeddingModel, AtomicU64);

    impl Embedder for Counting {
        fn model(&self) -> &EmbeddingModel {
            &self.0
        }

        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
            if texts == ["unknown"] {
                return Err(EmbedError { model: self.0.name.clone(), reason: "unknown".to_owned() });
            }
            Ok(vec![vec![1.0 + self.1.fetch_add(1, Ordering::Relaxed) as f32, 1.0]])
        }

        fn token_count(&self, _: &str) -> usize {
            1
        }
    }

    fn counting(name: &str) -> Arc<dyn Embedder> {
        let model = EmbeddingModel { name: name.to_owned(), dimension: 2, precision: "f32".to_owned() };
        Arc::new(Counting(model, AtomicU64::new(0)))
    }

    #[tokio::test]
    async fn the_model_is_asked_once_for_what_was_asked_last() {
        let (vectors, one, other) = (QuestionVectors::new(2), counting("one"), counting("other"));
        let ask = async |embedder: &Arc<dyn Embedder>, text: &str| {
            vectors.of(embedder, text.to_owned()).await.map(|vector| vector[0] as u64)
        };
        for (text, asked) in [("a", 1), ("b", 2), ("a", 1), ("c", 3), ("a", 1), ("b", 4)] {
            assert_eq!(ask(&one, text).await.expect("a vector"), asked, "{text}");
        }
        assert_eq!(ask(&other, "b").await.expect("a vector"), 1, "another model has other vectors");
        for _ in 0..2 {
            ask(&one, "unknown").await.expect_err("an error is not kept");
        }
        assert_eq!(vectors.counts(), QuestionVectorCounts { hits: 2, misses: 7, entries: 2 });
    }
}
