//! Settings: what can be set, from where, and what is wrong with it.
//!
//! ```text
//! defaults ──▶ file ──▶ environment ──▶ command line ──▶ Settings
//! ```
//!
//! Later sources win. [`Settings`] is one struct with public fields, and everything that is known of a field (name,
//! default, range, help) stands in one table, from which files and variables are read, flags and the reference page
//! made. What is not known or out of its range is refused with who said it, what is accepted and what may have been
//! meant. Secrets are kept out of everything that is shown.
//!
//! An application takes them from variables with a prefix of its own:
//!
//! ```
//! use oneiric_otel::settings::Settings;
//!
//! // MAHAVISHNU_OTEL_STORAGE__BATCH_SIZE=1000, MAHAVISHNU_OTEL_STORAGE__LIMITS__MAX_ATTRIBUTES=500 and so on
//! let settings = Settings::from_env("MAHAVISHNU_OTEL_STORAGE__")?;
//! let settings = Settings { store_metrics: false, ..settings };
//! settings.check()?;
//! # Ok::<(), oneiric_otel::settings::SettingsError>(())
//! ```
//!
//! and hands them to [`crate::manager::ObservabilityManager::from_settings`] or [`crate::storage::OtelStorage::from_settings`].
//!
//! What a setting does is not known here, but which options of which module it becomes: see [`Settings::ingest_options`]
//! and its like.

mod application;
mod apply;
mod check;
mod connection_url;
#[cfg(feature = "forward")]
mod endpoints;
mod error;
mod exposure;
#[cfg(feature = "settings-files")]
mod file;
mod load;
mod origin;
mod raw;
mod reference;
mod retention;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use application::{ApplicationSettings, MetricTemporality, OtlpSettings};
pub use connection_url::Public;
pub use error::{Problem, SettingsError, Source};
pub use exposure::exposure;
pub use load::{ENV_PREFIX, Loader, Resolved, ShownSetting};
pub use origin::is_origin;
pub use reference::reference;
pub use table::{
    Acknowledge, EmbeddingFallback, EmbeddingPrecision, EndpointSettings, Flag, FlagOf, ForwardProtocol, LimitSettings,
    ListenSettings, LogFormat, Setting, Settings, StorageBackend, VectorIndex,
};
pub use value::{Accepts, DatabaseUrl, Secret, Shown};
