//! How an adapter is built.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::record::Origin;
use super::{OtelStorage, StorageError};
use crate::derive::DeriveOptions;
use crate::embed::EmbedOptions;
use crate::pipeline::{Ack, IngestOptions};
use crate::query::QueryOptions;
use crate::retention::RetentionOptions;
use crate::rollup::RollupOptions;
use crate::settings::{Acknowledge, DatabaseUrl, EmbeddingFallback, Settings, SettingsError};
use crate::system::{MEMORY_REQUESTS, ModelLoader, REMEMBER_REQUESTS};

/// Which model turns texts into vectors.
#[derive(Debug, Clone, Default)]
pub enum EmbeddingChoice {
    /// all-MiniLM-L6-v2 in this process, in int8, where the crate has the feature `local-model`, else none.
    #[default]
    Usual,
    /// None: traces are found by words and by SQL.
    None,
    /// Another one.
    Other(ModelLoader),
}

/// How an adapter works. The defaults are good for most applications.
#[derive(Clone)]
pub struct OtelStorageOptions {
    /// The database, as `postgresql://` or `postgres://`; none for a private PostgreSQL, which takes the crate's feature
    /// `embedded`. It is never shown.
    pub connection_string: Option<String>,
    /// Another URL for questions, such as of a replica.
    pub reader_url: Option<String>,
    /// Another URL for migrations and maintenance, such as one that does not lead through PgBouncer.
    pub maintenance_url: Option<String>,
    /// A URL for [`OtelStorage::custom_query`], of a role that sees the views alone. The embedded database has its own.
    pub sql_reader_url: Option<String>,
    /// Where the embedded database and spools lie; none for the user's data directory.
    pub data_dir: Option<PathBuf>,
    /// Whose the records are that do not say so.
    pub origin: Origin,
    /// What a receipt promises.
    pub acknowledge: Acknowledge,
    /// Bound on the bytes of the spool; at least 64 KiB.
    pub spool_max_bytes: u64,
    /// Free bytes on the disk of the embedded database below which nothing is acknowledged.
    pub min_free_bytes: u64,
    /// Bytes in memory, about, of what was accepted and is not durable yet.
    pub queue_max_bytes: usize,
    /// With [`Acknowledge::Memory`], how many calls of `store_*` wait to be encoded, and as many requests to be written:
    /// the oldest are dropped.
    pub memory_calls: usize,
    /// How long records wait for others to share a request with.
    pub gather_interval: Duration,
    /// How long it is tried to store something before its receipt says that it is not.
    pub store_timeout: Duration,
    /// How long [`OtelStorage::cleanup`] may take.
    pub cleanup_timeout: Duration,
    /// How often it is looked for spools in which applications on this machine that are gone left something.
    pub left_spools_interval: Duration,
    /// Threads of its own that it works on, 1 to 64, besides those that encode, embed and sync files.
    pub threads: usize,
    /// The embedding model.
    pub embedding: EmbeddingChoice,
    /// What a trace without a vector has in its place while there is no model.
    pub embedding_fallback: EmbeddingFallback,
    /// The write path; its `ack` is made from the fields above.
    pub ingest: IngestOptions,
    /// The derivation of traces.
    pub derive: DeriveOptions,
    /// The embedding of texts.
    pub embed: EmbedOptions,
    /// The rolling up of metrics.
    pub rollup: RollupOptions,
    /// From which similarity something counts.
    pub query: QueryOptions,
    /// How long a statement of a question may take.
    pub query_timeout: Duration,
    /// How long a request that the write path sees again adds nothing.
    pub remember_requests: Duration,
    /// How long telemetry is kept and how it is cut, where that is to be otherwise than the database has it.
    pub retention: RetentionOptions,
}

impl Default for OtelStorageOptions {
    fn default() -> Self {
        Self {
            connection_string: None,
            reader_url: None,
            maintenance_url: None,
            sql_reader_url: None,
            data_dir: None,
            origin: Origin::service("unknown_service"),
            acknowledge: Acknowledge::Spooled,
            spool_max_bytes: 1 << 30,
            min_free_bytes: 1 << 30,
            queue_max_bytes: 64 << 20,
            memory_calls: MEMORY_REQUESTS,
            gather_interval: Duration::from_millis(10),
            store_timeout: Duration::from_secs(30),
            cleanup_timeout: Duration::from_secs(10),
            left_spools_interval: Duration::from_mins(1),
            threads: 2,
            embedding: EmbeddingChoice::default(),
            embedding_fallback: EmbeddingFallback::None,
            ingest: IngestOptions::default(),
            derive: DeriveOptions::default(),
            embed: EmbedOptions::default(),
            rollup: RollupOptions::default(),
            query: QueryOptions::default(),
            query_timeout: Duration::from_secs(30),
            remember_requests: REMEMBER_REQUESTS,
            retention: RetentionOptions::default(),
        }
    }
}

impl OtelStorageOptions {
    /// What settings say of storing. What they say nothing of has its default.
    ///
    /// # Errors
    /// When they are not all right, or need a feature that the crate was built without; each problem names its setting.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        #[cfg(not(feature = "endpoint-model"))]
        if settings.embedding_endpoint.url.is_some() {
            let reason = "it takes the feature `endpoint-model` of the crate oneiric-otel";
            return Err(SettingsError::conflict("embedding_endpoint.url", reason));
        }
        let url = |url: &Option<DatabaseUrl>| url.as_ref().map(|url| url.expose().to_owned());
        let application = &settings.application;
        let defaults = Self::default();
        Ok(Self {
            connection_string: url(&settings.connection_string),
            reader_url: url(&settings.reader_url),
            maintenance_url: url(&settings.maintenance_url),
            sql_reader_url: url(&settings.sql_reader_url),
            data_dir: settings.data_dir.clone(),
            origin: application.service_name.clone().map_or(defaults.origin, Origin::service),
            acknowledge: settings.ack,
            spool_max_bytes: settings.spool_max_bytes,
            min_free_bytes: settings.min_free_bytes,
            queue_max_bytes: application.queue_max_bytes,
            memory_calls: settings.memory_requests,
            gather_interval: defaults.gather_interval,
            store_timeout: Duration::from_secs_f64(application.store_timeout_seconds),
            cleanup_timeout: Duration::from_secs_f64(application.cleanup_timeout_seconds),
            left_spools_interval: defaults.left_spools_interval,
            threads: application.threads,
            embedding: embedding(settings),
            embedding_fallback: settings.embedding_fallback,
            ingest: settings.ingest_options(Ack::Stored),
            derive: defaults.derive,
            embed: settings.embed_options(),
            rollup: defaults.rollup,
            query: settings.query_options(),
            query_timeout: settings.query_timeout(),
            remember_requests: Duration::from_hours(24 * u64::from(settings.ledger_days)),
            retention: settings.retention_options(),
        })
    }
}

fn embedding(settings: &Settings) -> EmbeddingChoice {
    #[cfg(feature = "endpoint-model")]
    if let Some(endpoint) = settings.endpoint_options() {
        return EmbeddingChoice::Other(ModelLoader::new(move || {
            let model = crate::embed::EndpointModel::connect(endpoint.clone()).map_err(|error| error.to_string())?;
            Ok(std::sync::Arc::new(model))
        }));
    }
    #[cfg(feature = "local-model")]
    if settings.embedding_precision != Settings::default().embedding_precision {
        let precision = settings.precision();
        return EmbeddingChoice::Other(ModelLoader::new(move || {
            crate::embed::LocalModel::obtain(precision, &oneiric_otel_parts::Silent).map_err(|error| error.to_string())
        }));
    }
    let _: &Settings = settings;
    EmbeddingChoice::Usual
}

impl fmt::Debug for OtelStorageOptions {
    /// Without URLs, which hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtelStorageOptions")
            .field("has_connection_string", &self.connection_string.is_some())
            .field("data_dir", &self.data_dir)
            .field("origin", &self.origin)
            .field("acknowledge", &self.acknowledge)
            .finish_non_exhaustive()
    }
}

impl OtelStorageOptions {
    fn check(&self) -> Result<(), StorageError> {
        if self.connection_string.is_none() && cfg!(not(feature = "embedded")) {
            return wrong(
                "connection_string",
                "a URL as postgresql://USER:PASSWORD@HOST:PORT/DATABASE; to do without one, the feature `embedded` of \
                 the crate oneiric-otel",
            );
        }
        if self.spool_max_bytes < 64 << 10 {
            return wrong("spool_max_bytes", "at least 64 KiB");
        }
        if self.memory_calls == 0 {
            return wrong("memory_calls", "at least 1");
        }
        self.check_queue()
    }

    /// What does not depend on where records go.
    pub(super) fn check_queue(&self) -> Result<(), StorageError> {
        if self.queue_max_bytes < 1 << 20 {
            return wrong("queue_max_bytes", "at least 1 MiB");
        }
        if !(1..=64).contains(&self.threads) {
            return wrong("threads", "1 to 64");
        }
        if self.store_timeout.is_zero() {
            return wrong("store_timeout", "more than 0 s");
        }
        if self.left_spools_interval.is_zero() {
            return wrong("left_spools_interval", "more than 0 s");
        }
        if self.gather_interval > Duration::from_mins(1) {
            return wrong("gather_interval", "at most 60 s");
        }
        if super::encode::Envelopes::of(&self.origin).is_none() {
            return wrong("origin", "whole values, none of which was cut for a list");
        }
        Ok(())
    }
}

fn wrong(name: &'static str, accepted: &str) -> Result<(), StorageError> {
    Err(StorageError::InvalidOption { name, accepted: accepted.to_owned() })
}

/// Builds an [`OtelStorage`]. What is not set has its default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct OtelStorageBuilder {
    options: OtelStorageOptions,
}

impl From<OtelStorageOptions> for OtelStorageBuilder {
    fn from(options: OtelStorageOptions) -> Self {
        Self { options }
    }
}

macro_rules! setters {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty => $($field:ident).+ = $value:expr;)*) => {
        impl OtelStorageBuilder {
            $($(#[doc = $doc])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.options.$($field).+ = $value;
                self
            })*
        }
    };
}

setters! {
    /// The database; without it a private PostgreSQL is used. See [`OtelStorageOptions::connection_string`].
    connection_string: impl Into<String> => connection_string = Some(connection_string.into());
    /// See [`OtelStorageOptions::reader_url`].
    reader_url: impl Into<String> => reader_url = Some(reader_url.into());
    /// See [`OtelStorageOptions::maintenance_url`].
    maintenance_url: impl Into<String> => maintenance_url = Some(maintenance_url.into());
    /// See [`OtelStorageOptions::sql_reader_url`].
    sql_reader_url: impl Into<String> => sql_reader_url = Some(sql_reader_url.into());
    /// See [`OtelStorageOptions::data_dir`].
    data_dir: impl Into<PathBuf> => data_dir = Some(data_dir.into());
    /// Whose the records are that do not say so.
    origin: Origin => origin = origin;
    /// The same, by the name of the service alone.
    service_name: impl Into<String> => origin = Origin::service(service_name);
    /// What a receipt promises.
    acknowledge: Acknowledge => acknowledge = acknowledge;
    /// See [`OtelStorageOptions::spool_max_bytes`].
    spool_max_bytes: u64 => spool_max_bytes = spool_max_bytes;
    /// See [`OtelStorageOptions::min_free_bytes`].
    min_free_bytes: u64 => min_free_bytes = min_free_bytes;
    /// See [`OtelStorageOptions::queue_max_bytes`].
    queue_max_bytes: usize => queue_max_bytes = queue_max_bytes;
    /// See [`OtelStorageOptions::memory_calls`].
    memory_calls: usize => memory_calls = memory_calls;
    /// See [`OtelStorageOptions::gather_interval`].
    gather_interval: Duration => gather_interval = gather_interval;
    /// See [`OtelStorageOptions::store_timeout`].
    store_timeout: Duration => store_timeout = store_timeout;
    /// See [`OtelStorageOptions::cleanup_timeout`].
    cleanup_timeout: Duration => cleanup_timeout = cleanup_timeout;
    /// See [`OtelStorageOptions::left_spools_interval`].
    left_spools_interval: Duration => left_spools_interval = left_spools_interval;
    /// See [`OtelStorageOptions::threads`].
    threads: usize => threads = threads;
    /// The embedding model.
    embedding: EmbeddingChoice => embedding = embedding;
    /// The write path; its `ack` is made from the other options.
    ingest: IngestOptions => ingest = ingest;
    /// The derivation of traces.
    derive: DeriveOptions => derive = derive;
    /// The embedding of texts.
    embed: EmbedOptions => embed = embed;
    /// The rolling up of metrics.
    rollup: RollupOptions => rollup = rollup;
    /// From which similarity something counts.
    query: QueryOptions => query = query;
    /// How long a statement of a question may take.
    query_timeout: Duration => query_timeout = query_timeout;
}

impl OtelStorageBuilder {
    /// Begins with what settings say, over which the calls that follow win.
    ///
    /// # Errors
    /// As [`OtelStorageOptions::from_settings`].
    pub fn from_settings(settings: &Settings) -> Result<Self, StorageError> {
        Ok(Self { options: OtelStorageOptions::from_settings(settings)? })
    }

    /// Builds the adapter. Nothing is connected to before [`OtelStorage::init`].
    ///
    /// # Errors
    /// [`StorageError::InvalidOption`], which names the option.
    pub fn build(self) -> Result<OtelStorage, StorageError> {
        self.options.check()?;
        Ok(OtelStorage::of(self.options))
    }
}
