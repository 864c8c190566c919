//! What a manager says about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::{Backend, Destination, ObservabilityManager};
use crate::storage::HealthReport;
#[cfg(feature = "forward")]
use crate::storage::{OtlpReport, StorageError};

/// The state of a manager and of what is behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManagerHealth {
    /// Where telemetry goes.
    pub backend: Backend,
    /// Whether nothing is wrong anywhere.
    pub is_healthy: bool,
    /// What is wrong, in words, with the destination before it; empty when nothing is.
    pub problems: Vec<String>,
    /// Records that were refused at once, by destination.
    pub refused_records: BTreeMap<Destination, u64>,
    /// Measurements that were ignored: no number, negative where they must not be, or after the shutdown.
    pub ignored_measurements: u64,
    /// Measurements that lost their labels because there were too many.
    pub overflowed_measurements: u64,
    /// The adapter; none where nothing is stored, before `init` and after the shutdown.
    pub postgresql: Option<HealthReport>,
    /// The way to the OTLP endpoint; none where nothing is sent, and before `init`.
    #[cfg(feature = "forward")]
    pub otlp: Option<OtlpReport>,
}

impl ObservabilityManager {
    /// How things are. Asks the database, for at most some seconds.
    pub async fn health(&self) -> ManagerHealth {
        let shared = &self.shared;
        let mut problems = Vec::new();
        let mut told = |destination: Destination, texts: &[String]| {
            problems.extend(texts.iter().map(|text| format!("{destination}: {text}")));
        };
        let mut postgresql = None;
        if let Some(storage) = &shared.storage {
            match storage.health().await {
                Ok(report) => {
                    told(Destination::Postgresql, &report.problems);
                    postgresql = Some(report);
                }
                Err(error) => told(Destination::Postgresql, &[error.to_string()]),
            }
        }
        #[cfg(feature = "forward")]
        let otlp = shared.export.as_ref().and_then(|export| {
            let report = export.report();
            let nothing = [StorageError::NotInitialised.to_string()];
            told(Destination::Otlp, report.as_ref().map_or(&nothing, |report| &report.problems));
            report
        });
        let count = |(destination, count): (&Destination, &AtomicU64)| (*destination, count.load(Ordering::Relaxed));
        let counts = shared.instruments.counts();
        ManagerHealth {
            backend: shared.options.backend,
            is_healthy: problems.is_empty(),
            problems,
            refused_records: shared.refused.iter().map(count).collect(),
            ignored_measurements: counts.ignored.load(Ordering::Relaxed),
            overflowed_measurements: counts.overflowed.load(Ordering::Relaxed),
            postgresql,
            #[cfg(feature = "forward")]
            otlp,
        }
    }
}
