//! The disk beside the embedded database: PostgreSQL stops when it is full.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::pipeline::Ingest;

/// How often the free space is looked at: at the pace of a fast disk it shrinks by less than the default reserve.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the free space where a directory lies.
#[derive(Debug)]
pub struct DiskGuard {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes that stay free.
    pub min_free_bytes: u64,
}

impl DiskGuard {
    /// Refuses requests while there is too little.
    pub(super) async fn run(self, ingest: Ingest, stop: CancellationToken) {
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
                 (min_free_bytes)",
                self.dir.display(),
                self.min_free_bytes
            )
        })
    }
}
