//! From one model to another: which of those in the database is complete and answers, which one is being made ready, and
//! when one that was replaced goes.
//!
//! Promise: once a model was complete, some complete model answers, and it gets every new text until another is complete.

use tokio_postgres::types::Type;

use super::database::Database;
use super::embeddings::{RegisteredModel, Use, use_model};
use super::error::StoreError;
use crate::embed::EmbeddingModel;

/// A text that failed so often does not hold up a model any more, if few do: one of so many.
const HOPELESS_AFTER: i32 = 5;
const TEXTS_OF_A_HOPELESS_ONE: i64 = 100;
/// After so many failures, which take some hours, any do not that are fewer than the others.
const GIVEN_UP_AFTER: i32 = 50;

/// How far a model is with the texts that were there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownTexts {
    /// All have their vector.
    Embedded,
    /// All but some on which it failed again and again.
    Tried,
    /// Some wait, or may be embedded at the next try.
    Waiting,
}

/// A model that is not complete while another one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// The complete one, which answers until then.
    pub(crate) former: EmbeddingModel,
    /// Texts up to this one are embedded again; those after it are new.
    pub(crate) up_to: i64,
}

impl Database {
    /// Says that a worker begins to work with a model. One that lay idle while another got all texts is not complete any more.
    pub(crate) async fn begin_with_model(&self, model: &RegisteredModel) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .execute_typed(
                "INSERT INTO otel.otel_embedding_progress (model_id, renews_to)
                 SELECT $1, coalesce(max(text_id), 0) FROM otel.otel_texts
                 ON CONFLICT DO NOTHING",
                &[(&model.id, Type::INT2)],
            )
            .await?;
        transaction
            .execute_typed(
                "WITH untried AS (SELECT model_id, count(*) AS n FROM otel.otel_embedding_work WHERE attempts = 0 GROUP BY 1)
                 UPDATE otel.otel_embedding_progress
                 SET complete_at = NULL, renews_to = (SELECT coalesce(max(text_id), 0) FROM otel.otel_texts)
                 WHERE model_id = $1 AND complete_at IS NOT NULL
                   AND EXISTS (SELECT FROM otel.otel_embedding_models o JOIN otel.otel_embedding_progress p USING (model_id)
                               LEFT JOIN untried u USING (model_id)
                               WHERE o.model_id <> $1 AND p.complete_at IS NOT NULL
                                 AND o.last_used > now() - interval '1 day'
                                 AND coalesce(u.n, 0) < (SELECT n FROM untried WHERE model_id = $1))",
                &[(&model.id, Type::INT2)],
            )
            .await?;
        Ok(transaction.commit().await?)
    }

    /// The complete model that answers where this one is asked for: itself if it is complete, else the one that was used last. None
    /// where none is complete.
    pub(crate) async fn complete_model_for(
        &self,
        model: &EmbeddingModel,
    ) -> Result<Option<EmbeddingModel>, StoreError> {
        let row = self
            .client()
            .await?
            .query_typed_opt(
                "SELECT m.name, m.precision, m.dimension
                 FROM otel.otel_embedding_models m JOIN otel.otel_embedding_progress p USING (model_id)
                 WHERE p.complete_at IS NOT NULL AND to_regclass(format('otel.otel_embeddings_%s', m.model_id)) IS NOT NULL
                 ORDER BY m.name = $1 AND m.precision = $2 DESC, greatest(m.last_used, p.last_served) DESC, m.model_id DESC
                 LIMIT 1",
                &[(&model.name, Type::TEXT), (&model.precision, Type::TEXT)],
            )
            .await?;
        Ok(row.map(|row| EmbeddingModel {
            name: row.get(0),
            precision: row.get(1),
            dimension: usize::try_from(row.get::<_, i16>(2)).unwrap_or_default(),
        }))
    }

    /// Whether the model is being made ready while another one answers.
    pub(crate) async fn renewal(
        &self,
        model: &EmbeddingModel,
        registered: &RegisteredModel,
    ) -> Result<Option<Renewal>, StoreError> {
        let former = self.complete_model_for(model).await?;
        let Some(former) = former.filter(|former| former != model) else { return Ok(None) };
        let sql = "SELECT renews_to FROM otel.otel_embedding_progress WHERE model_id = $1";
        let row = self.client().await?.query_typed_opt(sql, &[(&registered.id, Type::INT2)]).await?;
        Ok(Some(Renewal { former, up_to: row.map_or(0, |row| row.get(0)) }))
    }

    /// Says that a model answers for one that is not complete, so that it gets new texts. One that got none for a day gets all that
    /// it lacks.
    pub(crate) async fn serve_with_model(&self, model: &RegisteredModel) -> Result<(), StoreError> {
        use_model(&mut self.client().await?, model, Use::ForAnother).await
    }

    /// Texts that were there before the model and wait for its vector.
    pub(crate) async fn texts_to_renew(&self, model: &RegisteredModel) -> Result<i64, StoreError> {
        let sql = "SELECT count(*) FROM otel.otel_embedding_work w JOIN otel.otel_embedding_progress p USING (model_id)
                   WHERE model_id = $1 AND w.text_id <= p.renews_to";
        Ok(self.client().await?.query_typed_one(sql, &[(&model.id, Type::INT2)]).await?.get(0))
    }

    /// How far a model is with the texts that were there before it. Newer ones hold up nothing: they wait for a model whichever
    /// answers.
    pub(crate) async fn known_texts(&self, model: &RegisteredModel) -> Result<KnownTexts, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_typed_one(
                "SELECT count(*), coalesce(min(w.attempts), 0)
                 FROM otel.otel_embedding_work w JOIN otel.otel_embedding_progress p USING (model_id)
                 WHERE model_id = $1 AND w.text_id <= p.renews_to",
                &[(&model.id, Type::INT2)],
            )
            .await?;
        let (waiting, tries): (i64, i32) = (row.get(0), row.get(1));
        if waiting == 0 {
            return Ok(KnownTexts::Embedded);
        }
        if tries < HOPELESS_AFTER {
            return Ok(KnownTexts::Waiting);
        }
        // Of those that were there before it: newer ones would make those that wait look few.
        let known =
            "SELECT count(*) FROM otel.otel_texts t JOIN otel.otel_embedding_progress p ON t.text_id <= p.renews_to
                     WHERE p.model_id = $1";
        let texts: i64 = client.query_typed_one(known, &[(&model.id, Type::INT2)]).await?.get(0);
        let are_few = waiting < texts && waiting <= 1 + texts / TEXTS_OF_A_HOPELESS_ONE;
        let are_given_up = tries >= GIVEN_UP_AFTER && waiting < texts - waiting;
        Ok(if are_few || are_given_up { KnownTexts::Tried } else { KnownTexts::Waiting })
    }

    /// Whether the model is known to be complete.
    pub(crate) async fn is_complete(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        let sql =
            "SELECT EXISTS (SELECT FROM otel.otel_embedding_progress WHERE model_id = $1 AND complete_at IS NOT NULL)";
        Ok(self.client().await?.query_typed_one(sql, &[(&model.id, Type::INT2)]).await?.get(0))
    }

    /// Says that the model is complete: from this commit on it answers, and the view shows its vectors. Returns false where
    /// the view could not be had just now.
    pub(crate) async fn complete_model(&self, model: &RegisteredModel) -> Result<bool, StoreError> {
        let sql = "SELECT otel.otel_complete_model($1)";
        match self.query(sql, &[(&model.id, Type::INT2)]).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_locked() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops the models that were replaced and that nobody uses any more. Returns how many.
    pub(crate) async fn drop_replaced_models(&self) -> Result<usize, StoreError> {
        let mut dropped = 0;
        while let Some(model_id) =
            self.query_one("SELECT otel.otel_drop_replaced_model()", &[]).await?.get::<_, Option<i16>>(0)
        {
            tracing::info!(model_id, "dropped the vectors of a model that another one has replaced");
            dropped += 1;
        }
        Ok(dropped)
    }
}
