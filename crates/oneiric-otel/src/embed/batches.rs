//! Claimed texts and log templates to vectors: one transaction for each batch.
//!
//! A batch is claimed, embedded on a blocking thread, and gone when the transaction with its vectors commits. What the model
//! does not answer is put back with the reason; a panic of the model is no answer.

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{EmbedError, Embedded, Embedder};
use crate::pipeline::template::HOLE;
use crate::store::embeddings::{RegisteredModel, Work, claim_work, postpone_work, store_vectors};
use crate::store::template_vectors::{claim_templates, store_template_vectors};
use crate::store::{Database, LogTemplate, StoreError};

/// Log templates of one call of the model.
const TEMPLATES_AT_ONCE: usize = 16;

/// A model at work on a database.
pub(super) struct Batches<'a> {
    pub(super) database: &'a Database,
    pub(super) embedder: &'a Arc<dyn Embedder>,
    pub(super) model: &'a RegisteredModel,
    /// Tokens of one call of the model at most, unless a single text has more.
    pub(super) tokens: usize,
}

impl Batches<'_> {
    /// Embeds all waiting texts of these ids, in batches of so many.
    pub(super) async fn all_texts(&self, ids: &RangeInclusive<i64>, limit: usize) -> Result<Embedded, StoreError> {
        let mut total = Embedded::default();
        loop {
            let (batch, claimed) = self.texts(ids, limit).await?;
            total.vectors += batch.vectors;
            total.failed += batch.failed;
            if claimed == 0 {
                return Ok(total);
            }
        }
    }

    /// Embeds the newest waiting texts of these ids, at most so many. Returns also how many were claimed.
    pub(super) async fn texts(&self, ids: &RangeInclusive<i64>, limit: usize) -> Result<(Embedded, usize), StoreError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let work = claim_work(&transaction, self.model, ids, limit as i64).await?;
        let claimed = work.len();
        let mut done = Embedded::default();
        for part in self.cut(work).await? {
            let ids: Vec<i64> = part.iter().map(|work| work.text_id).collect();
            match self.embed(part).await? {
                Ok(vectors) => {
                    done.vectors += vectors.len() as u64;
                    let vectors: Vec<(i64, Vec<f32>)> = ids.into_iter().zip(vectors).collect();
                    store_vectors(&transaction, self.model, &vectors).await?;
                }
                Err(error) => {
                    done.failed += ids.len() as u64;
                    tracing::warn!(%error, texts = ids.len(), "texts stay without vectors for now");
                    postpone_work(&transaction, self.model, &ids, &error.to_string()).await?;
                }
            }
        }
        transaction.commit().await?;
        Ok((done, claimed))
    }

    /// Embeds a batch of log templates, with `former` of those that this model has vectors of. Returns whether there may be more.
    pub(super) async fn templates(&self, former: Option<&RegisteredModel>, limit: usize) -> Result<bool, StoreError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let claimed = claim_templates(&transaction, self.model, former, limit as i64).await?;
        if claimed.is_empty() {
            return Ok(false);
        }
        let mut vectors = Vec::with_capacity(claimed.len());
        for part in claimed.chunks(TEMPLATES_AT_ONCE) {
            let work = part.iter().map(|(id, template)| Work { text_id: *id, text: spoken(template), attempts: 0 });
            let embedded = self.embed(work.collect()).await?;
            if let Err(error) = &embedded {
                tracing::warn!(%error, templates = part.len(), "log templates stay without vectors for now");
            }
            let mut embedded = embedded.unwrap_or_default().into_iter();
            vectors.extend(part.iter().map(|(id, _)| (*id, embedded.next())));
        }
        store_template_vectors(&transaction, self.model, &vectors).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Parts of at most [`Self::tokens`]. What failed before is tried alone, so that one text that the
    /// model cannot read does not hold up others.
    async fn cut(&self, work: Vec<Work>) -> Result<Vec<Vec<Work>>, StoreError> {
        let embedder = Arc::clone(self.embedder);
        let budget = self.tokens;
        on_blocking_thread(move || {
            let mut parts: Vec<Vec<Work>> = Vec::new();
            let mut open: Vec<Work> = Vec::new();
            let mut tokens = 0;
            for work in work {
                if work.attempts > 0 {
                    parts.push(vec![work]);
                    continue;
                }
                // A text that cannot even be counted is tried alone. Counting changes nothing that could be left half done.
                let Ok(more) = catch_unwind(AssertUnwindSafe(|| embedder.token_count(&work.text))) else {
                    parts.push(vec![work]);
                    continue;
                };
                if tokens + more > budget && !open.is_empty() {
                    parts.push(std::mem::take(&mut open));
                    tokens = 0;
                }
                tokens += more;
                open.push(work);
            }
            if !open.is_empty() {
                parts.push(open);
            }
            parts
        })
        .await
    }

    async fn embed(&self, work: Vec<Work>) -> Result<Result<Vec<Vec<f32>>, EmbedError>, StoreError> {
        let embedder = Arc::clone(self.embedder);
        let dimension = self.model.dimension;
        let name = self.embedder.model().name.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let texts: Vec<&str> = work.iter().map(|work| work.text.as_str()).collect();
            let vectors = embedder.embed(&texts)?;
            check(&vectors, texts.len(), dimension)
                .map_err(|reason| EmbedError { model: embedder.model().name.clone(), reason })?;
            Ok(vectors)
        })
        .await;
        match answer {
            Ok(answer) => Ok(answer),
            // Else one text would hold up all older ones for ever.
            Err(error) if error.is_panic() => {
                Ok(Err(EmbedError { model: name, reason: format!("it panicked: {error}") }))
            }
            Err(error) => Err(interrupted(&error)),
        }
    }
}

/// A template as a sentence: who says it, how grave it is, and what stays the same.
fn spoken(template: &LogTemplate) -> String {
    let kind = match template.severity {
        21.. => "fatal error",
        17.. => "error",
        13.. => "warning",
        _ => "log",
    };
    let said = template.text.split(HOLE).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    format!("{kind} in {}: {said}", template.service_name)
}

/// A vector that is not one would poison every comparison with it.
pub(crate) fn check(vectors: &[Vec<f32>], texts: usize, dimension: usize) -> Result<(), String> {
    if vectors.len() != texts {
        return Err(format!("it gave {} vectors for {texts} texts", vectors.len()));
    }
    for vector in vectors {
        if vector.len() != dimension {
            return Err(format!("it gave a vector of {} components instead of {dimension}", vector.len()));
        }
        if !vector.iter().all(|component| component.is_finite()) || vector.iter().all(|component| *component == 0.0) {
            return Err("it gave a vector without a direction".to_owned());
        }
    }
    Ok(())
}

async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| interrupted(&error))
}

fn interrupted(error: &tokio::task::JoinError) -> StoreError {
    StoreError::transient(format!("embedding was interrupted: {error}"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn vectors_without_direction_or_of_another_size_are_refused() {
        assert_eq!(check(&[vec![0.6, 0.8]], 1, 2), Ok(()));
        assert!(check(&[vec![0.6, 0.8]], 2, 2).is_err());
        assert!(check(&[vec![0.6, 0.8]], 1, 3).is_err());
        assert!(check(&[vec![f32::NAN, 0.8]], 1, 2).is_err());
        assert!(check(&[vec![0.0, 0.0]], 1, 2).is_err());
    }
}
