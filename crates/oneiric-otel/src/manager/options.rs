//! How a manager is built.

use std::time::Duration;

use super::{Backend, ObservabilityManager};
use crate::settings::{MetricTemporality, Settings, SettingsError, StorageBackend};
#[cfg(feature = "forward")]
use crate::storage::OtlpDestination;
use crate::storage::{Origin, OtelStorageOptions, StorageError, Temporality};

/// How a manager works.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    /// Where telemetry goes.
    pub backend: Backend,
    /// The adapter before the database. Its origin, data directory, queue, threads and times hold for the OTLP endpoint
    /// too, which has a queue, threads and a spool of its own.
    pub storage: OtelStorageOptions,
    /// The OTLP endpoint, of [`Backend::Otlp`] and [`Backend::Both`].
    #[cfg(feature = "forward")]
    pub otlp: Option<OtlpDestination>,
    /// Whether spans are stored in the database. What is not stored there is sent to the endpoint all the same.
    pub store_traces: bool,
    /// Whether metrics are.
    pub store_metrics: bool,
    /// Whether log records are.
    pub store_logs: bool,
    /// How often counters and histograms are collected; a flush and the shutdown collect them too.
    pub metric_interval: Duration,
    /// What a point of a counter or histogram covers. A delta point for which there is no room goes with the next collection; a
    /// cumulative one is made up for by the next.
    pub temporality: Temporality,
    /// Label sets of a counter or histogram at most; the others share one. With cumulative points they stay until the
    /// end of the process.
    pub label_sets: usize,
}

impl Default for ManagerOptions {
    /// Into PostgreSQL; all signals; every 60 s; cumulative; 2000 label sets.
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            storage: OtelStorageOptions::default(),
            #[cfg(feature = "forward")]
            otlp: None,
            store_traces: true,
            store_metrics: true,
            store_logs: true,
            metric_interval: Duration::from_mins(1),
            temporality: Temporality::Cumulative,
            label_sets: 2000,
        }
    }
}

impl ManagerOptions {
    /// What settings say: where telemetry goes, with all that belongs to each destination. Flags such as `store_logs` are
    /// of the database.
    ///
    /// # Errors
    /// [`StorageError::Settings`], when they are not all right, or need a feature that the crate was built without; each
    /// problem names its setting.
    pub fn from_settings(settings: &Settings) -> Result<Self, StorageError> {
        let storage = OtelStorageOptions::from_settings(settings)?;
        #[cfg(not(feature = "forward"))]
        if settings.storage_backend != StorageBackend::Postgresql {
            let reason = "otlp and both take the feature `forward` of the crate oneiric-otel";
            return Err(SettingsError::conflict("storage_backend", reason).into());
        }
        if settings.forward_otlp.is_some() {
            tracing::warn!("forward_otlp is of servers and does nothing here: an application sends to otlp.endpoint");
        }
        let application = &settings.application;
        Ok(Self {
            backend: match settings.storage_backend {
                StorageBackend::Otlp => Backend::Otlp,
                StorageBackend::Postgresql => Backend::Postgresql,
                StorageBackend::Both => Backend::Both,
            },
            storage,
            #[cfg(feature = "forward")]
            otlp: destination(settings)?,
            store_traces: settings.store_traces,
            store_metrics: settings.store_metrics,
            store_logs: settings.store_logs,
            metric_interval: Duration::from_secs_f64(application.metric_interval_seconds),
            temporality: match application.metric_temporality {
                MetricTemporality::Cumulative => Temporality::Cumulative,
                MetricTemporality::Delta => Temporality::Delta,
            },
            label_sets: application.metric_label_sets,
        })
    }

    fn check(&self) -> Result<(), StorageError> {
        let wrong = |name: &'static str, accepted: &str| {
            Err(StorageError::InvalidOption { name, accepted: accepted.to_owned() })
        };
        #[cfg(not(feature = "forward"))]
        if self.backend != Backend::Postgresql {
            return wrong("backend", "postgresql; for another, the feature `forward` of the crate oneiric-otel");
        }
        #[cfg(feature = "forward")]
        match (self.backend, &self.otlp) {
            (Backend::Otlp | Backend::Both, None) => {
                return wrong("otlp", "an endpoint, since the backend is otlp or both");
            }
            (Backend::Postgresql, Some(_)) => {
                return wrong("otlp", "nothing while the backend is postgresql: otlp or both send to an endpoint");
            }
            (Backend::Otlp | Backend::Both, Some(_)) | (Backend::Postgresql, None) => {}
        }
        if !(Duration::from_millis(10)..=Duration::from_hours(24)).contains(&self.metric_interval) {
            return wrong("metric_interval", "10 ms to 24 h");
        }
        if !(2..=1_000_000).contains(&self.label_sets) {
            return wrong("label_sets", "2 to 1000000");
        }
        Ok(())
    }
}

#[cfg(feature = "forward")]
fn destination(settings: &Settings) -> Result<Option<OtlpDestination>, SettingsError> {
    let endpoint = settings.otlp_endpoint().map_err(|(name, error)| SettingsError::conflict(name, error.reason))?;
    Ok(endpoint.map(|endpoint| {
        let mut destination = OtlpDestination::new(endpoint);
        destination.options.max_bytes = settings.otlp.max_bytes;
        destination
    }))
}

/// Builds an [`ObservabilityManager`]. What is not set has its default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ManagerBuilder {
    options: ManagerOptions,
}

impl From<ManagerOptions> for ManagerBuilder {
    fn from(options: ManagerOptions) -> Self {
        Self { options }
    }
}

macro_rules! setters {
    ($($(#[$about:meta])* $name:ident: $type:ty => $field:ident = $value:expr;)*) => {
        impl ManagerBuilder {
            $($(#[$about])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.options.$field = $value;
                self
            })*
        }
    };
}

setters! {
    /// Where telemetry goes.
    backend: Backend => backend = backend;
    /// See [`ManagerOptions::storage`].
    storage: OtelStorageOptions => storage = storage;
    /// See [`ManagerOptions::otlp`].
    #[cfg(feature = "forward")]
    otlp: OtlpDestination => otlp = Some(otlp);
    /// See [`ManagerOptions::store_traces`].
    store_traces: bool => store_traces = store_traces;
    /// See [`ManagerOptions::store_metrics`].
    store_metrics: bool => store_metrics = store_metrics;
    /// See [`ManagerOptions::store_logs`].
    store_logs: bool => store_logs = store_logs;
    /// See [`ManagerOptions::metric_interval`].
    metric_interval: Duration => metric_interval = metric_interval;
    /// See [`ManagerOptions::temporality`].
    temporality: Temporality => temporality = temporality;
    /// See [`ManagerOptions::label_sets`].
    label_sets: usize => label_sets = label_sets;
}

impl ManagerBuilder {
    /// Begins with what settings say, over which the calls that follow win.
    ///
    /// # Errors
    /// As [`ManagerOptions::from_settings`].
    pub fn from_settings(settings: &Settings) -> Result<Self, StorageError> {
        Ok(Self { options: ManagerOptions::from_settings(settings)? })
    }

    /// Whose the records are that do not say so.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.options.storage.origin = Origin::service(name);
        self
    }

    /// Builds the manager. Nothing is opened or connected to before [`ObservabilityManager::init`].
    ///
    /// # Errors
    /// [`StorageError::InvalidOption`], which names the option.
    pub fn build(self) -> Result<ObservabilityManager, StorageError> {
        self.options.check()?;
        ObservabilityManager::of(self.options)
    }
}
