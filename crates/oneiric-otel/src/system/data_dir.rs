//! Where what this machine keeps lies, unless somebody says otherwise.

use std::path::PathBuf;

use etcetera::BaseStrategy as _;

/// For root: PostgreSQL then runs as another user, who cannot enter root's home.
#[cfg(target_os = "macos")]
const ROOT_DATA_DIR: &str = "/Library/Application Support/oneiric-otel";
#[cfg(not(target_os = "macos"))]
const ROOT_DATA_DIR: &str = "/var/lib/oneiric-otel";

/// The directory of the user for the embedded database and spools. None where the home directory is unknown.
pub fn default_data_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from(ROOT_DATA_DIR));
    }
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.data_dir().join("oneiric-otel"))
}
