//! Which model's vectors answer: those of the model at hand once it is complete, until then those of one that was complete
//! before, if it can be loaded here. Vectors of two models are never compared.

use std::sync::Arc;

use super::{QueryError, QueryService};
use crate::embed::{Embedder, EmbeddingModel};
use crate::store::embeddings::RegisteredModel;

/// A model and its vectors.
pub(super) struct Served {
    pub(super) embedder: Arc<dyn Embedder>,
    pub(super) model: RegisteredModel,
    /// What the reader should know about it.
    pub(super) note: Option<String>,
}

/// Why no vectors answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoVectors {
    NoModel,
    NoPgvector,
    /// Nothing is embedded with it yet.
    NotYet,
}

impl NoVectors {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoModel => "no embedding model is at hand",
            Self::NoPgvector => "pgvector is missing in the database",
            Self::NotYet => "no text has a vector of this model yet",
        }
    }
}

impl QueryService {
    /// The model that answers questions in words, which takes the model besides its vectors.
    pub(super) async fn served(&self) -> Result<Result<Served, NoVectors>, QueryError> {
        let Some(embedder) = &self.embedder else { return Ok(Err(NoVectors::NoModel)) };
        let asked = embedder.model();
        let own = self.database.registered_model(asked).await?;
        let former = self.former_of(asked).await?;
        if let Some(former) = &former
            && let Some(loaded) = self.former.get_soon(former).await
            && let Some(model) = self.database.registered_model(former).await?
        {
            let note = match &own {
                Some(own) => format!("{} texts wait to be embedded with it", self.database.texts_to_renew(own).await?),
                None => "nothing is embedded with it yet".to_owned(),
            };
            let note = Some(format!("the vectors of {former} answer until those of {asked} are complete: {note}"));
            return Ok(Ok(Served { embedder: loaded, model, note }));
        }
        let Some(model) = own else { return Ok(Err(self.not_registered().await?)) };
        let backlog = self.database.embedding_backlog(&model).await?;
        let waiting = format!("{backlog} texts still wait for their vector: they are compared by words only");
        let note = match former {
            Some(former) => {
                Some(format!("{waiting}. Their vectors of {former} are of no use here: it cannot be loaded"))
            }
            None => (backlog > 0).then_some(waiting),
        };
        Ok(Ok(Served { embedder: Arc::clone(embedder), model, note }))
    }

    /// The model whose vectors are compared with each other, which takes no model.
    pub(super) async fn compared(&self) -> Result<Result<RegisteredModel, NoVectors>, QueryError> {
        let Some(embedder) = &self.embedder else { return Ok(Err(NoVectors::NoModel)) };
        let former = self.former_of(embedder.model()).await?;
        self.vectors_of_model(former.as_ref().unwrap_or(embedder.model())).await
    }

    /// The vectors of the model at hand, complete or not.
    pub(super) async fn own(&self) -> Result<Result<RegisteredModel, NoVectors>, QueryError> {
        let Some(embedder) = &self.embedder else { return Ok(Err(NoVectors::NoModel)) };
        self.vectors_of_model(embedder.model()).await
    }

    async fn vectors_of_model(&self, model: &EmbeddingModel) -> Result<Result<RegisteredModel, NoVectors>, QueryError> {
        match self.database.registered_model(model).await? {
            Some(model) => Ok(Ok(model)),
            None => Ok(Err(self.not_registered().await?)),
        }
    }

    async fn not_registered(&self) -> Result<NoVectors, QueryError> {
        Ok(if self.database.has_pgvector().await? { NoVectors::NotYet } else { NoVectors::NoPgvector })
    }

    /// The model that answers until the one at hand is complete.
    async fn former_of(&self, asked: &EmbeddingModel) -> Result<Option<EmbeddingModel>, QueryError> {
        Ok(self.database.complete_model_for(asked).await?.filter(|former| former != asked))
    }
}
