//! Where requests are between their acknowledgement and the database, and when they are refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use oneiric_otel::pipeline::Ack;
use oneiric_otel::settings::{Acknowledge, Settings};
use oneiric_otel::system::{self, DiskGuard, LeftSpoolsOptions};
use oneiric_otel_spool::Spool;

use crate::backend::Backend;
use crate::failure;

/// As applications do.
const LOOK_FOR_LEFT_SPOOLS_EVERY: Duration = Duration::from_mins(1);

/// What a server promises when it acknowledges, and when it does not.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) ack: Ack,
    /// The disk that must not fill up.
    pub(crate) disk: Option<DiskGuard>,
    /// Where the server leaves its report.
    pub(crate) report: PathBuf,
    /// Where applications may have left requests.
    pub(crate) left_spools: LeftSpoolsOptions,
}

impl Intake {
    /// Opens the spool of a database, if requests are to go there. What an earlier process left in it comes first.
    pub(crate) fn open(data_dir: &Path, backend: &Backend, settings: &Settings) -> Result<Self> {
        let ack = match settings.ack {
            Acknowledge::Spooled => Ack::Spooled(open_spool(data_dir, backend, settings.spool_max_bytes)?),
            Acknowledge::Stored => Ack::Stored,
            Acknowledge::Memory => Ack::Memory { requests: settings.memory_requests },
        };
        let disk = backend
            .is_embedded()
            .then(|| DiskGuard { dir: data_dir.to_owned(), min_free_bytes: settings.min_free_bytes });
        let report = report_path(data_dir, backend.target(), backend.is_embedded());
        let left_spools = LeftSpoolsOptions {
            data_dir: data_dir.to_owned(),
            max_bytes: settings.spool_max_bytes,
            every: LOOK_FOR_LEFT_SPOOLS_EVERY,
        };
        Ok(Self { ack, disk, report, left_spools })
    }
}

/// Where a server for a database leaves its report.
pub(crate) fn report_path(data_dir: &Path, target: &str, is_embedded: bool) -> PathBuf {
    data_dir.join(format!("server-{}.json", system::name_of(target, is_embedded)))
}

fn open_spool(data_dir: &Path, backend: &Backend, max_bytes: u64) -> Result<Spool> {
    system::open_spool(data_dir, backend.system(), max_bytes).map_err(|error| {
        failure::advised(
            format!("cannot use the spool: {error}"),
            "name another directory with --data-dir, or acknowledge only what is committed: --ack stored",
        )
    })
}
