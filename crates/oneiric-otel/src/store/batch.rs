//! A request as rows, made without a database: what is written, and what its rows refer to.

use std::collections::HashMap;
use std::sync::Arc;

use super::copy::{Micros, OwnerIds, Rows};
use super::rows::metric::SeriesRow;
use crate::otlp::canonical::Hash128;
use crate::otlp::{ResourceEnvelope, ScopeEnvelope, Signal};

/// The records of one request as rows.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) request_hash: Hash128,
    pub(crate) signal: Signal,
    /// Distinct rows. A record that stands twice in the request is one row, except for logs.
    pub(crate) rows: Rows,
    /// For each row, the number of its record in the request.
    pub(crate) records: Vec<u32>,
    /// Times of the rows, at most one per hour: for which partitions must exist.
    pub(crate) times: Vec<Micros>,
    pub(crate) touches: HashMap<[u8; 16], Touch>,
    pub(crate) references: References,
}

/// The rows of other tables that a batch refers to, by the hash of their content.
#[derive(Debug, Default)]
pub(crate) struct References {
    pub(crate) resources: HashMap<Hash128, Arc<ResourceEnvelope>>,
    pub(crate) scopes: HashMap<Hash128, Arc<ScopeEnvelope>>,
    pub(crate) series: HashMap<Hash128, Series>,
    /// By their ids.
    pub(crate) templates: HashMap<i64, LogTemplate>,
    /// What [`Rows::owner`] counts.
    pub(crate) owners: Vec<Owner>,
}

impl References {
    /// Adds an owner and returns its number.
    pub(crate) fn add_owner(&mut self, owner: Owner) -> u32 {
        self.owners.push(owner);
        (self.owners.len() - 1) as u32
    }
}

/// What log records say, without what varies from one to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogTemplate {
    pub(crate) service_name: String,
    /// Lowest severity number of the class, 0 when unknown.
    pub(crate) severity: i16,
    pub(crate) text: String,
}

/// Whose a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// Of a span or log record.
    Scoped { resource: Hash128, scope: Hash128 },
    /// Of a data point: the stream.
    Series(Hash128),
}

/// A metric stream and whose it is.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) resource: Hash128,
    pub(crate) scope: Hash128,
    pub(crate) service_name: String,
    pub(crate) row: SeriesRow,
}

/// What a batch has of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) first: Micros,
    pub(crate) last: Micros,
    pub(crate) records: u32,
    pub(crate) has_root: bool,
}

impl Touch {
    /// Takes in what another batch has of the same trace.
    pub(crate) fn merge(&mut self, other: Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.records = self.records.saturating_add(other.records);
        self.has_root |= other.has_root;
    }
}

impl Batch {
    /// About how many bytes of memory it takes.
    pub(crate) fn memory(&self) -> usize {
        /// A guess at what an envelope or the description of a series takes.
        const REFERENCE_BYTES: usize = 1024;
        let references = &self.references;
        let referred =
            references.resources.len() + references.scopes.len() + references.series.len() + references.templates.len();
        self.rows.memory()
            + self.records.capacity() * size_of::<u32>()
            + self.touches.capacity() * (size_of::<Touch>() + 16)
            + references.owners.capacity() * size_of::<Owner>()
            + referred * REFERENCE_BYTES
    }
}

/// The ids that the database gave to everything that some batches refer to.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    pub(crate) resources: HashMap<Hash128, i64>,
    pub(crate) scopes: HashMap<Hash128, i32>,
    pub(crate) series: HashMap<Hash128, i64>,
    /// Why some series have none, if so.
    pub(crate) no_room: Option<String>,
}

impl Ids {
    /// The ids of a batch's owners, by number. A series for which there was no room has none.
    pub(crate) fn owners(&self, batch: &Batch) -> Vec<Option<OwnerIds>> {
        let ids = |owner: &Owner| match owner {
            Owner::Scoped { resource, scope } => {
                Some(OwnerIds::Scoped { resource: self.resources[resource], scope: self.scopes[scope] })
            }
            Owner::Series(series) => self.series.get(series).copied().map(OwnerIds::Series),
        };
        batch.references.owners.iter().map(ids).collect()
    }
}
