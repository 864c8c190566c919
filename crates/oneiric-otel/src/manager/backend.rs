//! Where telemetry goes: the database, an OTLP endpoint, or both.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::storage::{StorageError, StoreRefused};

/// Where an [`super::ObservabilityManager`] sends telemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// To an OTLP endpoint. No database is needed, and nothing can be asked.
    Otlp,
    /// Into PostgreSQL.
    #[default]
    Postgresql,
    /// Both, independent of each other.
    Both,
}

impl Backend {
    /// `otlp`, `postgresql` or `both`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Otlp => "otlp",
            Self::Postgresql => "postgresql",
            Self::Both => "both",
        }
    }

    /// Whether telemetry goes there.
    pub fn has(self, destination: Destination) -> bool {
        match destination {
            Destination::Postgresql => self != Self::Otlp,
            Destination::Otlp => self != Self::Postgresql,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Backend {
    type Err = StorageError;

    /// Reads its name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Otlp, Self::Postgresql, Self::Both];
        known.into_iter().find(|backend| backend.as_str().eq_ignore_ascii_case(text.trim())).ok_or_else(|| {
            StorageError::InvalidOption { name: "backend", accepted: "otlp, postgresql or both".to_owned() }
        })
    }
}

/// One place that telemetry goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// The database.
    Postgresql,
    /// The OTLP endpoint.
    Otlp,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgresql => "postgresql",
            Self::Otlp => "otlp",
        })
    }
}

/// A destination refused records at once: they will not get there. With two destinations the other one is not concerned;
/// where both refuse, this is of the database. Every refusal is counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{destination}: {reason}")]
pub struct Refusal {
    /// Which.
    pub destination: Destination,
    /// Why.
    pub reason: StoreRefused,
}

/// What a call could not do, at each destination. What is not named was done.
#[derive(Debug, thiserror::Error)]
#[error("{}", shown(.failures))]
pub struct ManagerError {
    /// At least one.
    pub failures: Vec<(Destination, StorageError)>,
}

impl ManagerError {
    pub(super) fn of(outcomes: Vec<(Destination, Result<(), StorageError>)>) -> Result<(), Self> {
        let failed = |(destination, outcome): (_, Result<(), _>)| outcome.err().map(|error| (destination, error));
        let failures: Vec<_> = outcomes.into_iter().filter_map(failed).collect();
        if failures.is_empty() { Ok(()) } else { Err(Self { failures }) }
    }
}

fn shown(failures: &[(Destination, StorageError)]) -> String {
    let shown: Vec<String> = failures.iter().map(|(destination, error)| format!("{destination}: {error}")).collect();
    shown.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_and_written_by_their_names() {
        for (name, backend) in [("otlp", Backend::Otlp), ("postgresql", Backend::Postgresql), ("both", Backend::Both)] {
            assert_eq!(name.parse::<Backend>().expect("a name"), backend);
            assert_eq!(serde_json::to_string(&backend).expect("JSON"), format!("\"{name}\""));
            assert_eq!(backend.to_string(), name);
        }
        assert_eq!(" Both".parse::<Backend>().expect("a name"), Backend::Both);
        let error = "jaeger".parse::<Backend>().expect_err("no backend").to_string();
        assert_eq!(error, "backend: expected otlp, postgresql or both");
        assert!(serde_json::from_str::<Backend>("\"jaeger\"").is_err());
    }

    #[test]
    fn an_error_names_each_destination() {
        let outcomes =
            vec![(Destination::Postgresql, Err(StorageError::Closed)), (Destination::Otlp, Err(StorageError::Closed))];
        let error = ManagerError::of(outcomes).expect_err("two").to_string();
        assert_eq!(error, "postgresql: the storage is closed; otlp: the storage is closed");
        assert!(ManagerError::of(vec![(Destination::Otlp, Ok(()))]).is_ok());
    }
}
