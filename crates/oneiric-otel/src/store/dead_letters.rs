//! Dead letters: what the database refuses, kept as OTLP that can be sent again.

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::error::StoreError;
use super::residue::without_nul;
use super::write::Store;
use crate::otlp::Signal;
use crate::otlp::canonical::Hash128;

/// The word for a signal in the table.
pub(crate) fn telemetry_type(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "trace",
        Signal::Metrics => "metric",
        Signal::Logs => "log",
    }
}

/// A dead letter to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) signal: Signal,
    /// Records in `raw_data`.
    pub(crate) records: u64,
    /// The class of the error, as in logs and metrics.
    pub(crate) class: &'a str,
    pub(crate) message: &'a str,
    /// An `Export*ServiceRequest` in protobuf.
    pub(crate) raw_data: &'a [u8],
}

/// Writes a dead letter.
pub(crate) async fn bury(transaction: &Transaction<'_>, dead: &DeadLetter<'_>) -> Result<(), StoreError> {
    transaction
        .execute(
            "INSERT INTO otel.otel_telemetry_dlq (telemetry_type, records, error_class, error_message, raw_data)
             VALUES ($1, $2, $3, $4, $5)",
            &[
                &telemetry_type(dead.signal),
                &i32::try_from(dead.records).unwrap_or(i32::MAX),
                &dead.class,
                &without_nul(dead.message),
                &dead.raw_data,
            ],
        )
        .await?;
    Ok(())
}

impl Store {
    /// Makes a dead letter of a whole request, unless it was stored before.
    pub(crate) async fn bury(&self, request_hash: Hash128, dead: &DeadLetter<'_>) -> Result<(), StoreError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute("SET LOCAL synchronous_commit = on").await?;
        let is_new = transaction
            .execute(
                "INSERT INTO otel.otel_ingest_ledger (request_hash, records, signal) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING",
                &[
                    &Uuid::from_bytes(request_hash.0),
                    &i32::try_from(dead.records).unwrap_or(i32::MAX),
                    &dead.signal.as_str(),
                ],
            )
            .await?;
        if is_new > 0 {
            bury(&transaction, dead).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
