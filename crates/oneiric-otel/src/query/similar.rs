//! Traces like a given one.

use std::collections::HashSet;

use serde::Serialize;
use uuid::Uuid;

use super::filter::TraceFilter;
use super::search::TextHit;
use super::trace::{TraceId, TraceOverview};
use super::{QueryError, QueryService, check_limit};

/// Cosine from which two traces count as similar, unless the request says otherwise.
pub const SIMILARITY_THRESHOLD: f64 = 0.85;

/// Texts that are compared at most.
const CANDIDATES: i64 = 1000;

/// Traces like this one are looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct SimilarRequest {
    /// The trace.
    pub trace_id: TraceId,
    /// Lowest cosine of a hit, 0 to 1; [`SIMILARITY_THRESHOLD`] is usual.
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
    /// Finds the traces whose text lies near that of the given trace.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] for an unknown trace, [`QueryError::Unavailable`] without pgvector, a model or the
    /// trace's vector, [`QueryError::InvalidArgument`] for a threshold outside 0 to 1 and the like.
    pub async fn find_similar_traces(&self, request: &SimilarRequest) -> Result<SimilarAnswer, QueryError> {
        if !(0.0..=1.0).contains(&request.threshold) {
            return Err(QueryError::InvalidArgument { name: "threshold", accepted: "a number from 0 to 1".to_owned() });
        }
        let limit = check_limit(request.limit)?;
        let mut filter = self.row_filter(&request.filter).await?;
        let row = self.row_of(request.trace_id).await?;
        let unavailable = |reason: &str| QueryError::Unavailable { reason: reason.to_owned() };
        let embedder = self
            .embedder
            .as_ref()
            .ok_or_else(|| unavailable("similarity needs an embedding model, and none is at hand"))?;
        let Some(model) = self.database.registered_model(embedder.model()).await? else {
            return Err(unavailable(if self.database.has_pgvector().await? {
                "no text has a vector of this model yet: start the server, or wait for it"
            } else {
                "similarity needs pgvector: run CREATE EXTENSION vector in the database"
            }));
        };
        let first: Vec<i64> = row.text_ids.iter().copied().take(1).collect();
        let Some((_, vector)) = self.database.vectors_of(&model, &first).await?.into_iter().next() else {
            return Err(unavailable("the trace has no vector yet: it waits to be embedded"));
        };
        filter.except = Some(Uuid::from_bytes(request.trace_id.0));
        let near = self.database.nearest_texts(&model, &vector, CANDIDATES, None).await?;
        let near: Vec<_> = near.into_iter().filter(|near| near.cosine >= request.threshold).collect();
        let mut hits = Vec::new();
        let mut shown = HashSet::new();
        for part in near.chunks(limit.max(10)) {
            let ids: Vec<i64> = part.iter().map(|near| near.text_id).collect();
            for found in self.database.traces_of_texts(&ids, &filter).await? {
                let Some(cosine) = part.iter().find(|near| near.text_id == found.text_id).map(|near| near.cosine)
                else {
                    continue;
                };
                // Of a run with many texts the nearest one is enough.
                if !shown.insert(found.newest.trace_id) && found.count == 1 {
                    continue;
                }
                hits.push(TextHit {
                    score: cosine,
                    cosine: Some(cosine),
                    word_share: None,
                    text: found.text,
                    trace_count: found.count,
                    newest: found.newest.into(),
                });
                if hits.len() == limit {
                    return Ok(SimilarAnswer { trace: row.into(), hits });
                }
            }
        }
        Ok(SimilarAnswer { trace: row.into(), hits })
    }
}
