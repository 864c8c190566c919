//! Vectors for texts: the contract a model fulfils, and the worker that gives every stored text its vector.
//!
//! Nothing here waits on the write path: texts are stored first and embedded later, from the database.

mod batches;
#[cfg(feature = "endpoint-model")]
mod endpoint;
mod former;
#[cfg(feature = "local-model")]
mod local;
mod renewal;
mod worker;

use std::fmt;

pub(crate) use batches::check;
#[cfg(feature = "endpoint-model")]
pub use endpoint::{EndpointModel, EndpointOptions};
pub use former::FormerModel;
#[cfg(feature = "local-model")]
pub use local::{LocalModel, LocalModelError, Precision};
pub use worker::{EmbedOptions, Embedded, EmbeddingWorker, IndexKind, NewTexts};

/// What turns texts into vectors.
///
/// Implementations are deterministic: the same text gives the same vector, whatever else is in the call. Calls block
/// and use the CPU (or a network connection), so callers run them on a blocking thread.
pub trait Embedder: Send + Sync + 'static {
    /// Which vector space the vectors belong to. Vectors of different models are never compared.
    fn model(&self) -> &EmbeddingModel;

    /// One L2-normalised vector of [`EmbeddingModel::dimension`] components per text, in the order of `texts`.
    ///
    /// # Errors
    /// When the model cannot answer now. There is no partial answer and no stand-in vector.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;

    /// How many tokens the model would read of `text`, at most the longest input it accepts. Batches are cut by this.
    fn token_count(&self, text: &str) -> usize;
}

/// The identity of a vector space.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingModel {
    /// The model's public name, such as `all-MiniLM-L6-v2`.
    pub name: String,
    /// Components of a vector.
    pub dimension: usize,
    /// Arithmetic of the forward pass, such as `f32` or `int8`. Vectors of different precisions are not mixed.
    pub precision: String,
}

impl fmt::Display for EmbeddingModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} dimensions)", self.name, self.precision, self.dimension)
    }
}

/// A model did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{model} cannot embed: {reason}")]
pub struct EmbedError {
    /// Name of the model.
    pub model: String,
    /// What went wrong, for a person.
    pub reason: String,
}
