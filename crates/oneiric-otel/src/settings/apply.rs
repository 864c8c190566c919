//! Which options of which module the settings become.

use std::time::Duration;

#[cfg(feature = "local-model")]
use super::table::EmbeddingPrecision;
use super::table::{Settings, VectorIndex};
#[cfg(feature = "endpoint-model")]
use crate::embed::EndpointOptions;
#[cfg(feature = "local-model")]
use crate::embed::Precision;
use crate::embed::{EmbedOptions, IndexKind};
use crate::pipeline::{Ack, BreakerOptions, IngestOptions, Limits, StoredSignals};
use crate::query::QueryOptions;
use crate::store::{Database, StoreError};

impl Settings {
    /// How the write path works that promises `ack`.
    pub fn ingest_options(&self, ack: Ack) -> IngestOptions {
        let defaults = IngestOptions::default();
        IngestOptions {
            ack,
            batch_rows: self.batch_size,
            batch_interval: Duration::from_secs_f64(self.batch_interval_seconds),
            max_retries: self.max_retries,
            retry_backoff: Duration::from_millis(self.retry_backoff_ms),
            breaker: BreakerOptions {
                threshold: self.circuit_breaker_threshold,
                open_for: Duration::from_secs(self.circuit_breaker_timeout_seconds),
                ..defaults.breaker
            },
            limits: Limits { record_bytes: self.limits.max_record_bytes, attributes: self.limits.max_attributes },
            max_metric_series: self.limits.max_metric_series,
            signals: StoredSignals { traces: self.store_traces, metrics: self.store_metrics, logs: self.store_logs },
            ..defaults
        }
    }

    /// How texts are embedded.
    pub fn embed_options(&self) -> EmbedOptions {
        let index = match self.vector_index {
            VectorIndex::Hnsw => Some(IndexKind::Hnsw),
            VectorIndex::Ivfflat => Some(IndexKind::Ivfflat),
            VectorIndex::None => None,
        };
        EmbedOptions { index, ..EmbedOptions::default() }
    }

    /// The arithmetic of the model in this process.
    #[cfg(feature = "local-model")]
    pub fn precision(&self) -> Precision {
        match self.embedding_precision {
            EmbeddingPrecision::Int8 => Precision::Int8,
            EmbeddingPrecision::F32 => Precision::F32,
        }
    }

    /// Where the embedding model is served, if it is not to run in this process.
    #[cfg(feature = "endpoint-model")]
    pub fn endpoint_options(&self) -> Option<EndpointOptions> {
        Some(EndpointOptions {
            url: self.embedding_endpoint.url.clone()?,
            api_key: self.embedding_endpoint.api_key.clone(),
            model: self.embedding_model.clone(),
            dimension: self.embedding_dimension,
            timeout: Duration::from_secs(self.embedding_endpoint.timeout_seconds),
            retries: self.embedding_endpoint.max_retries,
            batch_texts: self.embedding_endpoint.batch_texts,
        })
    }

    /// From which similarity something counts.
    pub fn query_options(&self) -> QueryOptions {
        QueryOptions {
            similarity_threshold: self.similarity_threshold,
            search_floor: self.search_floor,
            question_vectors: self.cache_size,
        }
    }

    /// How long a statement of a question may take.
    pub fn query_timeout(&self) -> Duration {
        Duration::from_secs(self.query_timeout_seconds)
    }

    /// The database that `connection_string` and `reader_url` name; nothing is connected yet. None without
    /// `connection_string`.
    ///
    /// # Errors
    /// When a URL cannot be understood, with the name of its setting, and not the URL.
    pub fn database(&self) -> Result<Option<Database>, (&'static str, StoreError)> {
        let Some(url) = &self.connection_string else { return Ok(None) };
        let database = Database::new(url.expose()).map_err(|error| ("connection_string", error))?;
        let database = match &self.reader_url {
            Some(reader) => database.reading_from(reader.expose()).map_err(|error| ("reader_url", error))?,
            None => database,
        };
        Ok(Some(database.with_read_limit(self.query_timeout())))
    }

    /// The connection of `maintenance_url`, if there is one.
    ///
    /// # Errors
    /// As [`Self::database`].
    pub fn maintenance_database(&self) -> Result<Option<Database>, (&'static str, StoreError)> {
        let database = self.maintenance_url.as_ref().map(|url| Database::new(url.expose())).transpose();
        database.map_err(|error| ("maintenance_url", error))
    }
}
