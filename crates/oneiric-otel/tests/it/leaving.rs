//! How an adapter ends, and what is found of one that ended: nothing that was accepted is forgotten.

use std::time::Duration;

use futures::FutureExt as _;
use oneiric_otel::derive::DeriveOptions;
use oneiric_otel::query::AttributeValue;
use oneiric_otel::storage::{
    Acknowledge, EmbeddingChoice, Level, LogEntry, NotStored, OtelStorage, OtelStorageBuilder, StorageError,
};
use oneiric_otel::store::Database;
use oneiric_otel_testkit::TestDatabase;
use tempfile::TempDir;

use crate::gate::{Fault, Gate};

/// A database behind a gate.
struct Stage {
    test: TestDatabase,
    gate: Gate,
    url: String,
    dir: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let test = TestDatabase::create().await;
        let (gate, url) = Gate::before_database(test.url()).await;
        Self { test, gate, url, dir: tempfile::tempdir().unwrap() }
    }

    fn builder(&self) -> OtelStorageBuilder {
        OtelStorage::builder()
            .connection_string(&self.url)
            .data_dir(self.dir.path())
            .embedding(EmbeddingChoice::None)
            .derive(DeriveOptions { interval: Duration::from_millis(50), ..DeriveOptions::default() })
            .cleanup_timeout(Duration::from_secs(3))
            .left_spools_interval(Duration::from_millis(50))
    }

    async fn storage(&self, builder: OtelStorageBuilder) -> OtelStorage {
        let storage = builder.build().unwrap();
        storage.init().await.unwrap();
        storage
    }

    /// Waits until there are so many log records; hangs, and so fails, when there never are.
    async fn await_logs(&self, count: i64) {
        while self.test.count("SELECT count(*) FROM otel.otel_logs").await != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn log(text: &str) -> LogEntry {
    LogEntry::new(Level::Error, text)
}

#[tokio::test]
async fn what_a_process_that_is_gone_left_is_written_by_another_that_runs() {
    let mut stage = Stage::new().await;
    stage.storage(stage.builder()).await.cleanup().await.unwrap();
    stage.gate.fail(Fault::Down).await;
    // Both find the database away and have a spool of their own.
    let (first, second) = (stage.storage(stage.builder()).await, stage.storage(stage.builder()).await);
    first.store_log(log("of the first")).unwrap().await.unwrap();
    first.cleanup().await.unwrap();
    stage.gate.recover().await;
    stage.await_logs(1).await;
    while second.health().await.unwrap().problems.iter().any(|problem| problem.contains("taken over")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    second.cleanup().await.unwrap();

    // Two end, and one that needs no spool starts.
    stage.gate.fail(Fault::Down).await;
    let (first, second) = (stage.storage(stage.builder()).await, stage.storage(stage.builder()).await);
    for storage in [&first, &second] {
        storage.store_log(log("of both")).unwrap().await.unwrap();
    }
    first.cleanup().await.unwrap();
    second.cleanup().await.unwrap();
    stage.gate.recover().await;
    let third = stage.storage(stage.builder().acknowledge(Acknowledge::Stored)).await;
    stage.await_logs(3).await;
    third.cleanup().await.unwrap();
}

#[tokio::test]
async fn a_cleanup_that_nobody_waits_for_goes_on_and_a_second_one_waits_for_it() {
    let mut stage = Stage::new().await;
    let builder = stage.builder().acknowledge(Acknowledge::Stored).cleanup_timeout(Duration::from_mins(1));
    let storage = stage.storage(builder).await;
    stage.gate.fail(Fault::Hanging).await;
    let receipt = storage.store_log(log("late")).unwrap();
    assert!(storage.cleanup().now_or_never().is_none(), "it has something to wait for");
    stage.gate.recover().await;
    storage.cleanup().await.unwrap();
    assert_eq!(receipt.await.unwrap().records, 1);
    stage.await_logs(1).await;

    // What went wrong is told to everybody.
    let storage = stage
        .storage(stage.builder().acknowledge(Acknowledge::Stored).cleanup_timeout(Duration::from_millis(100)))
        .await;
    stage.gate.fail(Fault::Hanging).await;
    let receipt = storage.store_log(log("lost")).unwrap();
    for _ in 0..2 {
        assert!(matches!(storage.cleanup().await, Err(StorageError::TimedOut { .. })));
    }
    assert_eq!(receipt.await, Err(NotStored::Interrupted));
}

#[tokio::test]
async fn a_cleanup_ends_an_init_that_waits_for_others() {
    let stage = Stage::new().await;
    Database::new(stage.test.url()).unwrap().migrate_to(1).await.unwrap();
    let mut client = stage.test.client().await;
    let transaction = client.transaction().await.unwrap();
    // As another process that migrates, for ever.
    transaction.batch_execute("LOCK TABLE otel.otel_migrations IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let storage = stage.builder().connection_string(stage.test.url()).build().unwrap();
    let starting = storage.clone();
    let starting = tokio::spawn(async move { starting.init().await });
    while let Err(StorageError::NotInitialised) = storage.cleanup().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(starting.await.unwrap(), Err(StorageError::Closed)));
    assert!(matches!(storage.init().await, Err(StorageError::Closed)));
    storage.cleanup().await.unwrap();
    transaction.rollback().await.unwrap();
}

#[tokio::test]
async fn what_can_never_be_stored_is_counted_and_no_failure_of_a_flush() {
    let stage = Stage::new().await;
    let storage = stage.builder().build().unwrap();
    storage.store_log(log("early")).unwrap_err();
    storage.init().await.unwrap();
    let mut entry = log("cut");
    entry.attributes.insert("long", AttributeValue::Cut { start: "a".to_owned(), kind: "string", length: 9 });
    let receipt = storage.store_log(entry).unwrap();
    storage.flush().await.unwrap();
    assert!(matches!(receipt.await, Err(NotStored::Rejected { .. })));
    let queue = storage.health().await.unwrap().queue;
    assert_eq!((queue.not_stored_records, queue.refused_records), (1, 1));
    storage.cleanup().await.unwrap();
}
