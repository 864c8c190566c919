//! The tables that many records share a row of: resources, scopes and metric series.
//!
//! A row is found by the hash of its content, so any number of servers agree on it without talking to each other. Rows
//! are written before the records that refer to them, in a transaction of their own: a row that nothing refers to is
//! harmless, a record that refers to nothing is not. So `store::collect` may retire a row that was not seen for long, and
//! what is remembered of it is found to be out of date in the transaction of the record, and looked up again.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use deadpool_postgres::Transaction;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::batch::{Batch, Ids, Series};
use super::database::{Database, Leased};
use super::error::StoreError;
use super::fidelity::Writer;
use super::residue::without_nul;
use super::rows::find as find_attribute;
use super::series;
use super::series_cap::SeriesCap;
use super::write::{SETTINGS, check_references};
use crate::otlp::canonical::Hash128;
use crate::otlp::view::ValueView;
use crate::otlp::{ResourceEnvelope, ScopeEnvelope};

/// Ids remembered per table, at most twice as many: see [`Known`].
const REMEMBERED: usize = 200_000;
/// Seconds for which they are remembered: `last_seen` is right to a day.
const REMEMBERED_FOR: u32 = 12 * 3600;

/// A table whose rows many records share.
#[derive(Debug, Clone, Copy)]
struct Shared {
    table: &'static str,
    id: &'static str,
}

const RESOURCES: Shared = Shared { table: "otel.otel_resources", id: "resource_id" };
const SCOPES: Shared = Shared { table: "otel.otel_scopes", id: "scope_id" };
const SERIES: Shared = Shared { table: "otel.otel_metric_series", id: "series_id" };

/// Ids of resources, scopes and series by the hash of their content.
#[derive(Debug)]
pub(crate) struct Dimensions {
    resources: Known,
    scopes: Known,
    series: Known,
    cap: SeriesCap,
}

/// Remembered ids in two generations. When the young one is full it becomes the old one, and what was old and not asked
/// for since is forgotten.
#[derive(Debug, Default)]
struct Known(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Hash128, Remembered>,
    old: HashMap<Hash128, Remembered>,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    id: i64,
    /// When it was looked up, as [`now`] says it.
    since: u32,
}

/// Seconds since some time in the life of the process.
fn now() -> u32 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(BEGUN.elapsed().as_secs()).unwrap_or(u32::MAX)
}

impl Generations {
    fn get(&mut self, hash: Hash128, now: u32) -> Option<i64> {
        let known = if let Some(known) = self.young.get(&hash) {
            *known
        } else {
            let known = self.old.remove(&hash)?;
            self.insert(hash, known);
            known
        };
        (now.saturating_sub(known.since) < REMEMBERED_FOR).then_some(known.id)
    }

    fn insert(&mut self, hash: Hash128, known: Remembered) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, known);
    }
}

impl Known {
    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // A panic while the lock is held leaves maps that are still true: entries are added whole.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The known ids, and the hashes without one in ascending order: every transaction takes its locks in that order,
    /// so two of them cannot wait for each other.
    fn look_up<'a>(&self, wanted: impl Iterator<Item = &'a Hash128>) -> (HashMap<Hash128, i64>, Vec<Hash128>) {
        let now = now();
        let mut known = self.lock();
        let mut ids = HashMap::new();
        let mut missing = Vec::new();
        for hash in wanted {
            match known.get(*hash, now) {
                Some(id) => {
                    ids.insert(*hash, id);
                }
                None => missing.push(*hash),
            }
        }
        missing.sort_unstable();
        (ids, missing)
    }

    /// These were looked up now.
    fn remember(&self, ids: &HashMap<Hash128, i64>) {
        let since = now();
        let mut known = self.lock();
        for (hash, id) in ids {
            known.insert(*hash, Remembered { id: *id, since });
        }
    }
}

impl Dimensions {
    /// Knows nothing yet, and lets the database have so many series.
    pub(crate) fn new(max_metric_series: u64) -> Self {
        let (resources, scopes, series) = Default::default();
        Self { resources, scopes, series, cap: SeriesCap::new(max_metric_series) }
    }

    /// Whether there is no room for another metric series.
    pub(crate) async fn is_series_limit_reached(&self, database: &Database) -> Result<bool, StoreError> {
        self.cap.is_reached(database).await
    }

    /// Forgets every id: the rows may have been collected, or the database replaced by another.
    pub(crate) fn forget(&self) {
        self.cap.doubt();
        for known in [&self.resources, &self.scopes, &self.series] {
            *known.lock() = Generations::default();
        }
    }

    /// The ids of everything that `batches` refer to, stored now where it is new. A new series for which there is no room has
    /// none.
    pub(crate) async fn resolve(&self, database: &Database, batches: &[&Batch]) -> Result<Ids, StoreError> {
        let references = || batches.iter().map(|batch| &batch.references);
        let resources = references().flat_map(|all| &all.resources).map(|(hash, one)| (*hash, &**one)).collect();
        let scopes = references().flat_map(|all| &all.scopes).map(|(hash, one)| (*hash, &**one)).collect();
        let series = references().flat_map(|all| &all.series).map(|(hash, one)| (*hash, one)).collect();
        let resources = self.resources(database, &resources).await?;
        let scopes = self.scopes(database, &scopes).await?;
        let SeriesIds { ids: series, no_room } = self.series(database, &series, &resources, &scopes).await?;
        Ok(Ids { resources, scopes, series, no_room })
    }

    /// The ids of these resources, stored now where they are new.
    async fn resources(
        &self,
        database: &Database,
        wanted: &HashMap<Hash128, &ResourceEnvelope>,
    ) -> Result<HashMap<Hash128, i64>, StoreError> {
        let (mut ids, mut missing) = self.resources.look_up(wanted.keys());
        if missing.is_empty() {
            return Ok(ids);
        }
        let mut client = database.lease().await?;
        let transaction = begin(&mut client).await?;
        let mut found = find(&transaction, RESOURCES, &mut missing).await?;
        for hash in missing {
            let envelope = wanted[&hash];
            let attributes = envelope.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
            let text = |keys: &[&str]| attribute_text(attributes, keys);
            let row = transaction
                .query_one(
                    "INSERT INTO otel.otel_resources (content_hash, service_name, service_namespace, service_version,
                       service_instance_id, deployment_environment, schema_url, attributes, envelope)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9)
                     ON CONFLICT (content_hash) DO UPDATE SET last_seen = current_date
                     RETURNING resource_id",
                    &[
                        &Uuid::from_bytes(hash.0),
                        &service_name(envelope),
                        &text(&["service.namespace"]),
                        &text(&["service.version"]),
                        &text(&["service.instance.id"]),
                        &text(&["deployment.environment.name", "deployment.environment"]),
                        &without_nul(&envelope.schema_url),
                        &natural_json(attributes),
                        &envelope.to_protobuf(),
                    ],
                )
                .await?;
            found.insert(hash, row.get(0));
        }
        transaction.commit().await?;
        client.keep();
        self.resources.remember(&found);
        ids.extend(found);
        Ok(ids)
    }

    /// The ids of these scopes, stored now where they are new.
    async fn scopes(
        &self,
        database: &Database,
        wanted: &HashMap<Hash128, &ScopeEnvelope>,
    ) -> Result<HashMap<Hash128, i32>, StoreError> {
        let (mut ids, mut missing) = self.scopes.look_up(wanted.keys());
        if !missing.is_empty() {
            let mut client = database.lease().await?;
            let transaction = begin(&mut client).await?;
            let mut found = find(&transaction, SCOPES, &mut missing).await?;
            for hash in missing {
                let envelope = wanted[&hash];
                let scope = envelope.scope.clone().unwrap_or_default();
                let row = transaction
                    .query_one(
                        "INSERT INTO otel.otel_scopes (content_hash, name, version, schema_url, attributes, envelope)
                         VALUES ($1, $2, $3, $4, $5::text::jsonb, $6)
                         ON CONFLICT (content_hash) DO UPDATE SET last_seen = current_date
                         RETURNING scope_id",
                        &[
                            &Uuid::from_bytes(hash.0),
                            &without_nul(&scope.name),
                            &without_nul(&scope.version),
                            &without_nul(&envelope.schema_url),
                            &natural_json(&scope.attributes),
                            &envelope.to_protobuf(),
                        ],
                    )
                    .await?;
                found.insert(hash, row.get(0));
            }
            transaction.commit().await?;
            client.keep();
            self.scopes.remember(&found);
            ids.extend(found);
        }
        ids.into_iter()
            .map(|(hash, id)| match i32::try_from(id) {
                Ok(id) => Ok((hash, id)),
                Err(_) => Err(StoreError::misconfigured(format!("scope id {id} is beyond a 32-bit integer"))),
            })
            .collect()
    }

    /// The ids of these series, stored now where they are new and there is room for them. Their resources and scopes are
    /// known already.
    async fn series(
        &self,
        database: &Database,
        wanted: &HashMap<Hash128, &Series>,
        resource_ids: &HashMap<Hash128, i64>,
        scope_ids: &HashMap<Hash128, i32>,
    ) -> Result<SeriesIds, StoreError> {
        let (mut ids, mut missing) = self.series.look_up(wanted.keys());
        let mut no_room = None;
        let mut has_counted = false;
        while !missing.is_empty() {
            let mut client = database.lease().await?;
            let transaction = begin(&mut client).await?;
            let mut found = find(&transaction, SERIES, &mut missing).await?;
            let mut should_count = false;
            if !missing.is_empty() {
                let room = self.cap.room(&transaction, missing.len()).await?;
                // Not with the locks of a transaction in hand.
                should_count = room.should_count && !has_counted;
                if !should_count {
                    let mut beyond = missing.split_off(room.fits);
                    if !beyond.is_empty() {
                        // Others may have stored them, or brought them back, since they were looked for.
                        found.extend(series::stored(&transaction, &beyond).await?);
                        beyond.retain(|hash| !found.contains_key(hash));
                    }
                    no_room = (!beyond.is_empty()).then(|| self.cap.refuse(beyond.len(), room.rows + room.fits as u64));
                    let new: Vec<_> = missing.drain(..).map(|hash| (hash, wanted[&hash])).collect();
                    if !new.is_empty() {
                        // What a series refers to is not looked at again once it is stored.
                        check_references(&transaction, resource_ids, scope_ids, &HashMap::new()).await?;
                    }
                    series::insert(&transaction, &new, resource_ids, scope_ids, &mut found).await?;
                }
            }
            transaction.commit().await?;
            client.keep();
            self.series.remember(&found);
            ids.extend(found);
            if should_count {
                self.cap.count(database).await;
                has_counted = true;
            }
        }
        Ok(SeriesIds { ids, no_room })
    }
}

/// The ids of series.
struct SeriesIds {
    ids: HashMap<Hash128, i64>,
    /// Why some have none, if so.
    no_room: Option<String>,
}

/// A transaction whose rows survive whatever happens once it is committed: records will refer to them.
async fn begin(client: &mut Leased) -> Result<Transaction<'_>, StoreError> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(SETTINGS).await?;
    Ok(transaction)
}

/// Takes those that the table has out of `missing`, and returns their ids: inserting them again would spend an id each.
/// That they were seen is noted once a day, and what was retired comes back.
async fn find(
    transaction: &Transaction<'_>,
    Shared { table, id }: Shared,
    missing: &mut Vec<Hash128>,
) -> Result<HashMap<Hash128, i64>, StoreError> {
    let uuids = |hashes: &[Hash128]| hashes.iter().map(|hash| Uuid::from_bytes(hash.0)).collect::<Vec<_>>();
    let mut found = HashMap::new();
    let mut seen = Vec::new();
    let sql = format!(
        "SELECT content_hash, {id}::bigint, last_seen < current_date FROM {table} WHERE content_hash = ANY($1)"
    );
    for row in transaction.query_typed(&sql, &[(&uuids(missing), Type::UUID_ARRAY)]).await? {
        let hash: Uuid = row.get(0);
        found.insert(Hash128(hash.into_bytes()), row.get(1));
        if row.get(2) {
            seen.push(hash);
        }
    }
    missing.retain(|hash| !found.contains_key(hash));
    if !seen.is_empty() {
        // Whoever holds the lock notes it, or retires the row, and then it is looked up again.
        let note = format!(
            "WITH s AS (SELECT {id} FROM {table} WHERE content_hash = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
             UPDATE {table} t SET last_seen = current_date FROM s WHERE t.{id} = s.{id}"
        );
        transaction.execute_typed(&note, &[(&seen, Type::UUID_ARRAY)]).await?;
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let turned_over: Vec<Uuid> = missing.iter().map(|hash| Uuid::from_bytes(hash.0.map(|byte| !byte))).collect();
    // In one order, as in all transactions.
    let back = format!(
        "WITH r AS (SELECT {id} FROM {table} WHERE content_hash = ANY($1) ORDER BY content_hash DESC FOR UPDATE)
         UPDATE {table} t SET content_hash = otel.otel_turned_over(t.content_hash), retirement = NULL, last_seen = current_date
         FROM r WHERE t.{id} = r.{id} AND t.retirement IS NOT NULL RETURNING t.content_hash, t.{id}::bigint"
    );
    let rows = transaction.query_typed(&back, &[(&turned_over, Type::UUID_ARRAY)]).await.map_err(StoreError::from);
    let rows = rows.map_err(|error| {
        // Meanwhile a program that knows no retired rows has stored another one.
        if error.is_duplicate_key() { StoreError::stale(error.to_string()) } else { error }
    })?;
    for row in rows {
        found.insert(Hash128(row.get::<_, Uuid>(0).into_bytes()), row.get(1));
    }
    missing.retain(|hash| !found.contains_key(hash));
    Ok(found)
}

/// `service.name`, or what OpenTelemetry calls a service without one.
pub(crate) fn service_name(envelope: &ResourceEnvelope) -> String {
    let attributes = envelope.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
    attribute_text(attributes, &["service.name"]).unwrap_or_else(|| "unknown_service".to_owned())
}

fn attribute_text(attributes: &[KeyValue], keys: &[&str]) -> Option<String> {
    let text = match find_attribute(attributes, keys)? {
        ValueView::String(text) => text.to_owned(),
        ValueView::Int(number) => number.to_string(),
        ValueView::Double(number) => number.to_string(),
        ValueView::Bool(flag) => flag.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then(|| without_nul(&text).into_owned())
}

fn natural_json(attributes: &[KeyValue]) -> String {
    let mut json = Writer::default();
    json.attributes(attributes);
    String::from_utf8_lossy(json.json()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_up_again_when_it_was_remembered_for_long_however_often_it_was_asked_for() {
        let mut known = Generations::default();
        let hash = Hash128([7; 16]);
        known.insert(hash, Remembered { id: 1, since: 100 });
        assert_eq!(known.get(hash, 100 + REMEMBERED_FOR - 1), Some(1));
        known.old = std::mem::take(&mut known.young);
        assert_eq!(known.get(hash, 100 + REMEMBERED_FOR - 1), Some(1), "of the old generation it comes back");
        assert_eq!(known.get(hash, 100 + REMEMBERED_FOR), None);
        known.insert(hash, Remembered { id: 1, since: 100 + REMEMBERED_FOR });
        assert_eq!(known.get(hash, 100 + REMEMBERED_FOR), Some(1));
    }
}
