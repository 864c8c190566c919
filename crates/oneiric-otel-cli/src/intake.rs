//! Where requests are between their acknowledgement and the database, and when they are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use oneiric_otel::otlp::Signal;
use oneiric_otel::pipeline::{Ack, Ingest};
use oneiric_otel::settings::{Acknowledge, Settings};
use oneiric_otel_spool::{Spool, SpoolOptions};
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::failure;

/// How often the free space is looked at: at the pace of a fast disk it shrinks by less than the default reserve.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Characters of the name of a spool's directory.
const NAME_CHARACTERS: usize = 120;

/// What a server promises when it acknowledges, and when it does not.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) ack: Ack,
    /// The disk that must not fill up.
    pub(crate) disk: Option<DiskGuard>,
    /// Where the server leaves its report.
    pub(crate) report: PathBuf,
}

impl Intake {
    /// Opens the spool of a database, if requests are to go there. What an earlier process left in it comes first.
    pub(crate) fn open(data_dir: &Path, backend: &Backend, settings: &Settings) -> Result<Self> {
        let ack = match settings.ack {
            Acknowledge::Spooled => Ack::Spooled(open_spool(data_dir, backend, settings.spool_max_bytes)?),
            Acknowledge::Stored => Ack::Stored,
            Acknowledge::Memory => Ack::Memory { requests: settings.memory_requests },
        };
        let disk =
            backend.embedded().map(|_| DiskGuard { dir: data_dir.to_owned(), min_free_bytes: settings.min_free_bytes });
        let report = report_path(data_dir, backend.target(), backend.embedded().is_some());
        Ok(Self { ack, disk, report })
    }
}

/// Where the spools of a data directory lie, one for each database.
pub(crate) fn spools(data_dir: &Path) -> PathBuf {
    data_dir.join("spool")
}

/// The spool for a database: what waits for one must not end in another.
pub(crate) fn spool_dir(data_dir: &Path, backend: &Backend) -> PathBuf {
    spools(data_dir).join(name(backend.target(), backend.embedded().is_some()))
}

/// Where a server for a database leaves its report.
pub(crate) fn report_path(data_dir: &Path, target: &str, is_embedded: bool) -> PathBuf {
    data_dir.join(format!("server-{}.json", name(target, is_embedded)))
}

/// What is called after a database in the data directory.
fn name(target: &str, is_embedded: bool) -> String {
    if is_embedded { "embedded".to_owned() } else { file_name(target) }
}

fn file_name(target: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
    let name: String = target.chars().map(plain).take(NAME_CHARACTERS).collect();
    // Two that look alike are told apart.
    let hash: String = blake3::hash(target.as_bytes()).to_hex().chars().take(8).collect();
    format!("{name}-{hash}")
}

fn open_spool(data_dir: &Path, backend: &Backend, max_bytes: u64) -> Result<Spool> {
    let dir = spool_dir(data_dir, backend);
    let options = SpoolOptions { max_bytes, ..SpoolOptions::new(&dir, Signal::ALL.map(Signal::as_str)) };
    let (spool, recovered) = Spool::open(options).map_err(|error| {
        failure::advised(
            format!("cannot use the spool: {error}"),
            "name another directory with --data-dir, or acknowledge only what is committed: --ack stored",
        )
    })?;
    if recovered.entries > 0 {
        tracing::info!(requests = recovered.entries, "requests of an earlier process wait in the spool");
    }
    warn_of_others(data_dir, &dir);
    Ok(spool)
}

/// Requests that wait for a database which this server does not serve would wait for ever unheard.
fn warn_of_others(data_dir: &Path, own: &Path) {
    let Ok(others) = fs::read_dir(spools(data_dir)) else { return };
    for dir in others.flatten().map(|entry| entry.path()).filter(|dir| dir != own) {
        if has_segments(&dir) {
            tracing::warn!(
                spool = %dir.display(),
                "requests wait there for another database; a server for that database stores them"
            );
        }
    }
}

/// A spool without entries has none.
fn has_segments(spool: &Path) -> bool {
    let lanes = Signal::ALL.iter().filter_map(|signal| fs::read_dir(spool.join(signal.as_str())).ok());
    lanes.flatten().flatten().any(|file| file.path().extension().is_some_and(|extension| extension == "seg"))
}

/// Watches the free space beside the embedded database: PostgreSQL stops when its disk is full.
#[derive(Debug)]
pub(crate) struct DiskGuard {
    dir: PathBuf,
    min_free_bytes: u64,
}

impl DiskGuard {
    /// Refuses requests while there is too little.
    pub(crate) async fn run(self, ingest: Ingest, stop: CancellationToken) {
        let work = async {
            loop {
                ingest.refuse_because(self.trouble());
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    fn trouble(&self) -> Option<String> {
        let free = match rustix::fs::statvfs(&self.dir) {
            Ok(volume) => volume.f_bavail.saturating_mul(volume.f_frsize),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot tell how much space is free");
                return None;
            }
        };
        (free < self.min_free_bytes).then(|| {
            format!(
                "the disk of the embedded database ({}) has {free} bytes free, fewer than the {} that stay free \
                 (--min-free-bytes)",
                self.dir.display(),
                self.min_free_bytes
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_spools_are_plain_and_told_apart() {
        // Not to be changed: what waits under a name would not be found under another.
        assert_eq!(file_name("db.example.com:5432/otel"), "db.example.com_5432_otel-d0564ea6");
        assert!(file_name("/run/pg:5432/otel").starts_with("_run_pg_5432_otel-"));
        assert_ne!(file_name("/run/pg:5432/otel"), file_name("/run_pg:5432/otel"));
        assert_eq!(file_name(&"ä".repeat(500)).len(), NAME_CHARACTERS + 9);
    }
}
