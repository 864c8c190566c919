//! Why a model could not be loaded, or gave no vectors. Messages of loading name the file, and what is accepted there.

use std::io;
use std::path::PathBuf;

/// The directory does not hold a model that this crate can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file is missing or cannot be read.
    #[error("cannot read {}: {source}; the model directory must hold model.safetensors, tokenizer.json and config.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is damaged: cut short, or not in its format.
    #[error("{} is damaged or not what its name says: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The files are sound, but of a model that this crate does not run.
    #[error("{} is of another kind of model: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What was found, and what is accepted.
        reason: String,
    },
    /// The instructions that were asked for are not there.
    #[error("this processor has no {name}")]
    Instructions {
        /// Their name.
        name: &'static str,
    },
}

/// A loaded model did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{model} cannot embed: {reason}")]
pub struct EmbedError {
    /// Name of the model.
    pub model: String,
    /// What went wrong, for a person.
    pub reason: String,
}
