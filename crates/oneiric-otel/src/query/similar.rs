//! Traces like a given one.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use super::filter::TraceFilter;
use super::search::TextHit;
use super::served::NoVectors;
use super::trace::{TraceId, TraceOverview};
use super::{QueryError, QueryService, check_limit};
use crate::store::embeddings::{Near, RegisteredModel};
use crate::store::search::{RowFilter, TextTraces};

/// Cosine from which two traces count as similar, unless the request says otherwise.
pub const SIMILARITY_THRESHOLD: f64 = 0.85;

/// Texts that are compared at most.
const CANDIDATES: i64 = 1000;

/// Texts of a run that are looked for, and texts that are found near each.
const ASKED_TEXTS: usize = 16;
const NEAR_EACH_TEXT: i64 = 100;

/// Traces whose texts are in memory at a time, and how many more than wanted are compared.
const COMPARED_TRACES: usize = 50;

/// Traces like this one are looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct SimilarRequest {
    /// The trace.
    pub trace_id: TraceId,
    /// Lowest cosine of a hit, 0 to 1; that of [`super::QueryOptions`] is usual.
    pub threshold: f64,
    /// Hits at most, 1 to 1000.
    pub limit: usize,
    /// Which traces count.
    pub filter: TraceFilter,
}

/// Traces whose text lies near an embedding are looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NearRequest {
    /// A vector of the model that the settings name, of its dimension; its length does not matter. Compared with vectors of that
    /// model alone, also while they are not complete and another model answers.
    pub embedding: Vec<f32>,
    /// Lowest cosine of a hit, 0 to 1.
    pub threshold: f64,
    /// Hits at most, 1 to 1000.
    pub limit: usize,
    /// Which traces count.
    pub filter: TraceFilter,
}

/// Traces like a given one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SimilarAnswer {
    /// The trace that was given.
    pub trace: TraceOverview,
    /// What is like it, nearest first; the trace itself is not counted.
    pub hits: Vec<TextHit>,
}

impl QueryService {
    /// Finds the traces that are like the given trace.
    ///
    /// Two requests are as like as their texts. A run of an agent has many texts, and all are compared: each with the
    /// nearest one of the other run, and the mean of that counts, so that runs which share one message are not the same.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] for an unknown trace, [`QueryError::Unavailable`] without pgvector, a model or the
    /// trace's vector, [`QueryError::InvalidArgument`] for a threshold outside 0 to 1 and the like.
    pub async fn find_similar_traces(&self, request: &SimilarRequest) -> Result<SimilarAnswer, QueryError> {
        check_threshold(request.threshold)?;
        let limit = check_limit(request.limit)?;
        let mut filter = self.row_filter(&request.filter).await?;
        let row = self.row_of(request.trace_id).await?;
        let (model, vectors) = self.compared_vectors(&row.text_ids).await?;
        filter.except = Some(Uuid::from_bytes(request.trace_id.0));
        let hits = match vectors.as_slice() {
            [] => return Err(unavailable("the trace has no vector yet: it waits to be embedded")),
            [vector] => self.near(&model, vector, request.threshold, limit, &filter).await?,
            several => self.alike(&model, several, request.threshold, limit, &filter).await?,
        };
        Ok(SimilarAnswer { trace: row.into(), hits })
    }

    /// Finds the traces with a text near an embedding that the caller has made with the model at hand.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for an embedding of another dimension or without a direction, and as
    /// [`Self::find_similar_traces`].
    pub async fn find_traces_near(&self, request: &NearRequest) -> Result<Vec<TextHit>, QueryError> {
        check_threshold(request.threshold)?;
        let limit = check_limit(request.limit)?;
        let filter = self.row_filter(&request.filter).await?;
        if let Some(embedder) = &self.embedder {
            check_embedding(&request.embedding, embedder.model().dimension)?;
        }
        let model = self.own().await?.map_err(no_vectors)?;
        self.near(&model, &request.embedding, request.threshold, limit, &filter).await
    }

    /// The vectors of a trace's texts, of the model that has more of them: the one that answers for now, or the one at hand, which
    /// alone has those of new texts where the other cannot be loaded.
    async fn compared_vectors(&self, texts: &[i64]) -> Result<(RegisteredModel, Vec<Vec<f32>>), QueryError> {
        let vectors = async |model: &RegisteredModel| -> Result<Vec<Vec<f32>>, QueryError> {
            Ok(self.database.vectors_of(model, texts).await?.into_iter().map(|(_, vector)| vector).collect())
        };
        let model = self.compared().await?.map_err(no_vectors)?;
        let answering = vectors(&model).await?;
        if answering.len() < texts.len()
            && let Ok(own) = self.own().await?
        {
            let at_hand = vectors(&own).await?;
            if at_hand.len() > answering.len() {
                return Ok((own, at_hand));
            }
        }
        Ok((model, answering))
    }

    /// Texts near one vector, with their traces.
    async fn near(
        &self,
        model: &RegisteredModel,
        vector: &[f32],
        threshold: f64,
        limit: usize,
        filter: &RowFilter,
    ) -> Result<Vec<TextHit>, QueryError> {
        let all = self.database.nearest_texts(model, vector, CANDIDATES, self.scan).await?;
        let hits = self.hits_of(&all, threshold, limit, filter).await?;
        // However few came: the index on vectors may end before all are seen.
        let more_may_be_near = all.last().is_some_and(|last| last.cosine >= threshold);
        if hits.len() >= limit || !more_may_be_near {
            return Ok(hits);
        }
        let Some(texts) = self.few_texts(filter).await? else { return Ok(hits) };
        let all = self.database.cosines(model, vector, &texts).await?;
        self.hits_of(&all, threshold, limit, filter).await
    }

    /// The traces of texts, nearest first, that are near enough and pass the filter.
    async fn hits_of(
        &self,
        near: &[Near],
        threshold: f64,
        limit: usize,
        filter: &RowFilter,
    ) -> Result<Vec<TextHit>, QueryError> {
        let near: Vec<&Near> = near.iter().filter(|near| near.cosine >= threshold).collect();
        let mut hits = Vec::new();
        let mut shown = HashSet::new();
        for part in near.chunks(limit.max(10)) {
            let ids: Vec<i64> = part.iter().map(|near| near.text_id).collect();
            for found in self.database.traces_of_texts(&ids, filter).await? {
                let Some(cosine) = part.iter().find(|near| near.text_id == found.text_id).map(|near| near.cosine)
                else {
                    continue;
                };
                // Of a run with many texts the nearest one is enough.
                if !shown.insert(found.newest.trace_id) && found.count == 1 {
                    continue;
                }
                hits.push(hit(found, cosine));
                if hits.len() == limit {
                    return Ok(hits);
                }
            }
        }
        Ok(hits)
    }

    /// Traces that are like one with several texts: those with a text near one of them, compared with all.
    async fn alike(
        &self,
        model: &RegisteredModel,
        vectors: &[Vec<f32>],
        threshold: f64,
        limit: usize,
        filter: &RowFilter,
    ) -> Result<Vec<TextHit>, QueryError> {
        let mut near: HashMap<i64, f64> = HashMap::new();
        // The first is the sentence about the whole, and leads to more traces than a message does.
        let counts = std::iter::once(CANDIDATES).chain(std::iter::repeat(NEAR_EACH_TEXT));
        for (vector, count) in spread(vectors, ASKED_TEXTS).zip(counts) {
            for found in self.database.nearest_texts(model, vector, count, self.scan).await? {
                let cosine = near.entry(found.text_id).or_insert(found.cosine);
                *cosine = cosine.max(found.cosine);
            }
        }
        let mut ranked: Vec<(i64, f64)> = near.into_iter().collect();
        ranked.sort_by(|(a_id, a), (b_id, b)| b.total_cmp(a).then(b_id.cmp(a_id)));
        let ids: Vec<i64> = ranked.iter().map(|(id, _)| *id).collect();
        let mut seen = HashSet::new();
        let mut candidates = self.database.traces_of_texts(&ids, filter).await?;
        candidates.retain(|found| seen.insert(found.newest.trace_id));
        candidates.truncate(limit.saturating_add(COMPARED_TRACES));
        let mut hits = Vec::new();
        for part in candidates.chunks(COMPARED_TRACES) {
            let mut texts: Vec<i64> = part.iter().flat_map(|found| found.newest.text_ids.iter().copied()).collect();
            texts.sort_unstable();
            texts.dedup();
            let known: HashMap<i64, Vec<f32>> = self.database.vectors_of(model, &texts).await?.into_iter().collect();
            for found in part {
                let theirs: Vec<&Vec<f32>> = found.newest.text_ids.iter().filter_map(|id| known.get(id)).collect();
                let score = mean_of_best(vectors, &theirs);
                if score >= threshold {
                    hits.push(hit(found.clone(), score));
                }
            }
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.newest.trace_id.cmp(&a.newest.trace_id)));
        hits.truncate(limit);
        Ok(hits)
    }
}

fn hit(found: TextTraces, cosine: f64) -> TextHit {
    TextHit {
        score: cosine,
        cosine: Some(cosine),
        word_share: None,
        exact: None,
        text: found.text,
        trace_count: found.count,
        newest: found.newest.into(),
    }
}

fn no_vectors(missing: NoVectors) -> QueryError {
    unavailable(match missing {
        NoVectors::NoModel => "similarity needs an embedding model, and none is at hand",
        NoVectors::NoPgvector => "similarity needs pgvector: run CREATE EXTENSION vector in the database",
        NoVectors::NotYet => "no text has a vector of this model yet: start the server, or wait for it",
    })
}

fn unavailable(reason: &str) -> QueryError {
    QueryError::Unavailable { reason: reason.to_owned() }
}

fn check_threshold(threshold: f64) -> Result<(), QueryError> {
    if (0.0..=1.0).contains(&threshold) {
        return Ok(());
    }
    Err(QueryError::InvalidArgument { name: "threshold", accepted: "a number from 0 to 1".to_owned() })
}

fn check_embedding(embedding: &[f32], dimension: usize) -> Result<(), QueryError> {
    let has_direction = embedding.iter().all(|c| c.is_finite()) && embedding.iter().any(|c| *c != 0.0);
    if embedding.len() == dimension && has_direction {
        return Ok(());
    }
    let accepted = format!("{dimension} finite numbers that are not all zero; there are {}", embedding.len());
    Err(QueryError::InvalidArgument { name: "embedding", accepted })
}

/// At most `count` of the items, the first and others at equal distances.
fn spread<T>(items: &[T], count: usize) -> impl Iterator<Item = &T> {
    items.iter().step_by(items.len().div_ceil(count.max(1)).max(1))
}

/// How like one set of vectors is to another: each of ours compared with the nearest of theirs, and the mean of that.
fn mean_of_best(ours: &[Vec<f32>], theirs: &[&Vec<f32>]) -> f64 {
    if ours.is_empty() || theirs.is_empty() {
        return 0.0;
    }
    let best = |our: &Vec<f32>| theirs.iter().map(|their| cosine(our, their)).fold(-1.0, f64::max);
    ours.iter().map(best).sum::<f64>() / ours.len() as f64
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_counts_with_its_nearest() {
        let ours = [vec![1.0, 0.0], vec![0.0, 2.0]];
        let (same, other, between) = (vec![3.0, 0.0], vec![0.0, 1.0], vec![1.0, 1.0]);
        assert!((mean_of_best(&ours, &[&other, &same]) - 1.0).abs() < 1e-12);
        assert!((mean_of_best(&ours, &[&same]) - 0.5).abs() < 1e-12);
        assert!((mean_of_best(&ours, &[&between]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert!(mean_of_best(&ours, &[]).abs() < 1e-12);
    }

    #[test]
    fn texts_are_taken_from_all_parts_of_a_run() {
        let items: Vec<usize> = (0..64).collect();
        let taken: Vec<usize> = spread(&items, 16).copied().collect();
        assert_eq!((taken.len(), taken[1], taken[15]), (16, 4, 60));
        assert_eq!(spread(&items[..3], 16).count(), 3);
    }

    #[test]
    fn an_embedding_has_the_models_dimension_and_a_direction() {
        assert!(check_embedding(&[0.5; 384], 384).is_ok());
        let error = check_embedding(&[0.5; 383], 384).expect_err("one is missing");
        assert_eq!(error.to_string(), "embedding: expected 384 finite numbers that are not all zero; there are 383");
        assert!(check_embedding(&[0.0; 384], 384).is_err());
        assert!(check_embedding(&[f32::NAN; 384], 384).is_err());
    }
}
