//! New rows of `otel_metric_series`, in one statement for many.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::batch::Series;
use super::error::StoreError;
use crate::otlp::canonical::Hash128;

/// Rows of a statement.
const AT_ONCE: usize = 5000;
/// Bytes of a statement, about: a description of any length stands in each row.
const BYTES_AT_ONCE: usize = 16 << 20;

/// Says to a trigger that it need not look whether a series' resource and scope are in use.
const OWNERS_ARE_CHECKED: &str = "SET LOCAL oneiric_otel.owners_are_checked = on";

/// `explicit_bounds` of all rows stand in one array, since arrays of several lengths have no array around them.
const INSERT: &str = "INSERT INTO otel.otel_metric_series (content_hash, resource_id, scope_id, monotonic, service_name, metric_name,
       metric_type, temporality, unit, description, attributes, metadata, explicit_bounds, residue)
     SELECT n.hash, n.resource, n.scope, n.monotonic, n.service, n.name, n.type, n.temporality, n.unit, n.description,
       n.attributes::jsonb, n.metadata::jsonb, ($15::double precision[])[n.first_bound:n.last_bound], n.residue
     FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
       $10::text[], $11::text[], $12::text[], $13::integer[], $14::integer[], $16::bytea[]) WITH ORDINALITY
       AS n (hash, resource, scope, monotonic, service, name, type, temporality, unit, description, attributes, metadata,
             first_bound, last_bound, residue, place)
     ORDER BY n.place
     ON CONFLICT (content_hash) DO UPDATE SET last_seen = current_date
     RETURNING content_hash, series_id";

/// Those of these series that are stored. Takes no lock.
pub(super) async fn stored(
    transaction: &Transaction<'_>,
    hashes: &[Hash128],
) -> Result<HashMap<Hash128, i64>, StoreError> {
    let uuids: Vec<Uuid> = hashes.iter().map(|hash| Uuid::from_bytes(hash.0)).collect();
    let sql = "SELECT content_hash, series_id FROM otel.otel_metric_series WHERE content_hash = ANY($1)";
    let rows = transaction.query_typed(sql, &[(&uuids, Type::UUID_ARRAY)]).await?;
    Ok(rows.iter().map(|row| (Hash128(row.get::<_, Uuid>(0).into_bytes()), row.get(1))).collect())
}

/// Stores series that the table has not, in the order of their hashes, and adds their ids to `found`. That their resources
/// and scopes are in use was checked in the transaction.
pub(super) async fn insert(
    transaction: &Transaction<'_>,
    new: &[(Hash128, &Series)],
    resource_ids: &HashMap<Hash128, i64>,
    scope_ids: &HashMap<Hash128, i32>,
    found: &mut HashMap<Hash128, i64>,
) -> Result<(), StoreError> {
    if !new.is_empty() {
        transaction.batch_execute(OWNERS_ARE_CHECKED).await?;
    }
    let mut left = new;
    while !left.is_empty() {
        let mut bytes = 0;
        let fits = |(_, series): &&(Hash128, &Series)| {
            bytes += series.row.bytes();
            bytes <= BYTES_AT_ONCE
        };
        let (new, later) = left.split_at(left.iter().take(AT_ONCE).take_while(fits).count().max(1));
        left = later;
        for row in Columns::new(new, resource_ids, scope_ids).insert(transaction).await? {
            found.insert(Hash128(row.get::<_, Uuid>(0).into_bytes()), row.get(1));
        }
    }
    Ok(())
}

/// Rows by column.
#[derive(Default)]
struct Columns<'a> {
    hashes: Vec<Uuid>,
    resources: Vec<i64>,
    scopes: Vec<i32>,
    monotonic: Vec<bool>,
    services: Vec<&'a str>,
    names: Vec<&'a str>,
    types: Vec<&'a str>,
    temporalities: Vec<&'a str>,
    units: Vec<&'a str>,
    descriptions: Vec<&'a str>,
    attributes: Vec<&'a str>,
    metadata: Vec<Option<&'a str>>,
    /// Where a row's bounds begin and end in `bounds`, counted from 1; none for a row without.
    first_bounds: Vec<Option<i32>>,
    last_bounds: Vec<Option<i32>>,
    bounds: Vec<f64>,
    residues: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    fn new(
        new: &[(Hash128, &'a Series)],
        resource_ids: &HashMap<Hash128, i64>,
        scope_ids: &HashMap<Hash128, i32>,
    ) -> Self {
        let mut columns = Self::default();
        for (hash, series) in new {
            let row = &series.row;
            columns.hashes.push(Uuid::from_bytes(hash.0));
            columns.resources.push(resource_ids[&series.resource]);
            columns.scopes.push(scope_ids[&series.scope]);
            columns.monotonic.push(row.monotonic);
            columns.services.push(&series.service_name);
            columns.names.push(&row.metric_name);
            columns.types.push(row.metric_type);
            columns.temporalities.push(&row.temporality);
            columns.units.push(&row.unit);
            columns.descriptions.push(&row.description);
            columns.attributes.push(&row.attributes);
            columns.metadata.push(row.metadata.as_deref());
            let before = columns.bounds.len() as i32;
            columns.bounds.extend(row.explicit_bounds.iter().flatten());
            let bounds = row.explicit_bounds.as_ref().map(|_| (before + 1, columns.bounds.len() as i32));
            columns.first_bounds.push(bounds.map(|(first, _)| first));
            columns.last_bounds.push(bounds.map(|(_, last)| last));
            columns.residues.push(row.residue.as_deref());
        }
        columns
    }

    async fn insert(&self, transaction: &Transaction<'_>) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let rows = transaction
            .query_typed(
                INSERT,
                &[
                    (&self.hashes, Type::UUID_ARRAY),
                    (&self.resources, Type::INT8_ARRAY),
                    (&self.scopes, Type::INT4_ARRAY),
                    (&self.monotonic, Type::BOOL_ARRAY),
                    (&self.services, Type::TEXT_ARRAY),
                    (&self.names, Type::TEXT_ARRAY),
                    (&self.types, Type::TEXT_ARRAY),
                    (&self.temporalities, Type::TEXT_ARRAY),
                    (&self.units, Type::TEXT_ARRAY),
                    (&self.descriptions, Type::TEXT_ARRAY),
                    (&self.attributes, Type::TEXT_ARRAY),
                    (&self.metadata, Type::TEXT_ARRAY),
                    (&self.first_bounds, Type::INT4_ARRAY),
                    (&self.last_bounds, Type::INT4_ARRAY),
                    (&self.bounds, Type::FLOAT8_ARRAY),
                    (&self.residues, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
        Ok(rows)
    }
}
