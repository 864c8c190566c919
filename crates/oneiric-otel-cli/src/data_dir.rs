//! Where the embedded database lies.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use oneiric_otel::system::default_data_dir;

use crate::args::Global;
use crate::failure;

/// The directory that was given, or the user's.
pub(crate) fn of(global: &Global) -> Result<PathBuf> {
    let dir = match &global.settings().data_dir {
        Some(dir) => absolute(dir)?,
        None => default()?,
    };
    if dir.exists() && !dir.is_dir() {
        return Err(failure::advised(
            format!("the data directory {} is no directory", dir.display()),
            "name a directory, or a place where one can be made, with --data-dir or OTEL_STORAGE_DATA_DIR",
        ));
    }
    Ok(dir)
}

/// A place in it for the demo, which keeps its inventions apart.
pub(crate) fn of_demo(global: &Global) -> Result<PathBuf> {
    Ok(of(global)?.join("demo"))
}

/// A place in it for benchmarks.
pub(crate) fn of_bench(global: &Global) -> Result<PathBuf> {
    Ok(of(global)?.join("bench"))
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("--data-dir {}", dir.display()))
}

fn default() -> Result<PathBuf> {
    default_data_dir().ok_or_else(|| {
        failure::advised(
            "the home directory is unknown, and with it where the database should lie",
            "set HOME, or give --data-dir",
        )
    })
}
