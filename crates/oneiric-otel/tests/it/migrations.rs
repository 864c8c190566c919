//! The schema reaches its newest version from every earlier one, once, however many instances try.

use std::fmt::Write as _;

use oneiric_otel::store::{Database, SCHEMA_VERSION};
use oneiric_otel_testkit::database::TestDatabase;

fn open(test: &TestDatabase) -> Database {
    Database::new(test.url()).expect("a valid URL")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_earlier_version_can_be_upgraded() {
    for from in 0..=SCHEMA_VERSION {
        let test = TestDatabase::create().await;
        let database = open(&test);
        database.migrate_to(from).await.expect("migrates");
        database.migrate().await.expect("migrates");
        database.migrate_deferred().await.expect("migrates");
        let state = database.migration_state().await.expect("state");
        assert_eq!((state.version, state.pending.len(), state.pending_deferred.len()), (SCHEMA_VERSION, 0, 0));
        assert!(database.migrate().await.expect("nothing to do").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_together_migrate_once() {
    let test = TestDatabase::create().await;
    let databases: Vec<Database> = (0..6).map(|_| open(&test)).collect();
    let applied = futures::future::join_all(databases.iter().map(Database::migrate)).await;
    let mut names: Vec<String> = applied.into_iter().flat_map(|applied| applied.expect("migrates")).collect();
    assert!(names.iter().any(|name| name.starts_with(&format!("{SCHEMA_VERSION:04}_"))), "{names:?}");
    let total = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), total, "each once: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_indexes_are_built_once_and_a_cut_off_build_is_repeated() {
    let test = TestDatabase::create().await;
    let databases: Vec<Database> = (0..4).map(|_| open(&test)).collect();
    databases[0].migrate().await.expect("migrates");
    let client = test.client().await;
    // What an interrupted CREATE INDEX CONCURRENTLY leaves behind.
    client
        .batch_execute(
            "CREATE INDEX otel_resources_attributes ON otel_resources USING gin (attributes jsonb_path_ops);
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'otel_resources_attributes'::regclass",
        )
        .await
        .expect("left behind");
    let applied = futures::future::join_all(databases.iter().map(Database::migrate_deferred)).await;
    let total: usize = applied.into_iter().map(|applied| applied.expect("migrates").len()).sum();
    let deferred = "SELECT count(*) FROM otel_migrations WHERE track = 'deferred'";
    assert_eq!(test.count(deferred).await, i64::try_from(total).expect("few"), "each once");
    assert_eq!(total, 9);
    assert_eq!(test.count("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_or_altered_schema_is_refused() {
    let test = TestDatabase::create().await;
    let database = open(&test);
    database.migrate().await.expect("migrates");
    let client = test.client().await;
    client
        .batch_execute(
            "INSERT INTO otel_migrations (version, name, track, checksum) VALUES (9999, 'future', 'required', 'x')",
        )
        .await
        .expect("inserted");
    let error = database.migrate().await.expect_err("refused").to_string();
    assert!(error.contains("9999_future") && error.contains("newer"), "{error}");
    // One that still newer programs are needed for.
    let needs = |version: i32| format!("UPDATE otel_migrations SET works_with = {version} WHERE version = 9999");
    client.batch_execute(&needs(SCHEMA_VERSION + 1)).await.expect("updated");
    let error = database.migrate().await.expect_err("refused").to_string();
    assert!(error.contains("9999_future") && error.contains("newer"), "{error}");

    client.batch_execute("DELETE FROM otel_migrations WHERE version = 9999").await.expect("deleted");
    client.batch_execute("UPDATE otel_migrations SET checksum = 'other' WHERE version = 1").await.expect("updated");
    let error = database.migrate().await.expect_err("refused").to_string();
    assert!(error.contains("0001_telemetry"), "{error}");
    let conflict = database.migration_state().await.expect("state").conflict.expect("a conflict");
    assert!(conflict.contains("0001_telemetry"), "{conflict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_that_is_marked_compatible_is_worked_with() {
    let test = TestDatabase::create().await;
    let database = open(&test);
    database.migrate().await.expect("migrates");
    let newer = format!(
        "INSERT INTO otel_migrations (version, name, track, checksum, works_with)
         VALUES (9999, 'future', 'required', 'x', {SCHEMA_VERSION})"
    );
    test.client().await.batch_execute(&newer).await.expect("inserted");
    assert!(database.migrate().await.expect("nothing to do").is_empty());
    assert!(database.migrate_deferred().await.is_ok());
    let state = database.migration_state().await.expect("state");
    assert_eq!((state.version, state.conflict, state.newer), (9999, None, vec!["9999_future".to_owned()]));
    // What this program applied itself says who can still work with it.
    let marked =
        "SELECT count(*) FROM otel_migrations WHERE track = 'required' AND version > 12 AND works_with IS NULL";
    assert_eq!(test.count(marked).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_urls_are_refused_without_repeating_them() {
    let error = Database::new("mysql://user:secret@host/db").expect_err("refused").to_string();
    assert!(error.contains("postgresql://") && !error.contains("secret"), "{error}");
    let error = Database::new("postgresql://user:secret@host:port/db").expect_err("refused").to_string();
    assert!(!error.contains("secret"), "{error}");
}

/// Migration 19 finds models with and without gaps.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_lacks_few_vectors_is_complete_and_otherwise_the_fullest() {
    for (texts, vectors, complete) in
        [(2, [1, 2], "1,2"), (300, [250, 100], "1"), (300, [0, 297], "2"), (3, [0, 0], "")]
    {
        let test = TestDatabase::create().await;
        let database = open(&test);
        database.migrate_to(17).await.expect("migrates");
        let client = test.client().await;
        let mut sql = format!(
            "CREATE EXTENSION vector SCHEMA public;
             INSERT INTO otel_texts (text_hash, text_version, text, words)
             SELECT gen_random_uuid(), 1, 'text ' || n, '' FROM generate_series(1, {texts}) n;
             SELECT otel_register_model('model', 'f32', 3), otel_register_model('model', 'int8', 3);"
        );
        for (model, vectors) in (1..).zip(vectors) {
            write!(
                sql,
                "INSERT INTO otel_embeddings_{model} (text_id, embedding)
                 SELECT text_id, '[1,0,0]' FROM otel_texts ORDER BY text_id LIMIT {vectors};"
            )
            .expect("a string");
        }
        client.batch_execute(&sql).await.expect("as an earlier version left it");
        database.migrate().await.expect("migrates");
        let of = "SELECT coalesce(string_agg(model_id::text, ',' ORDER BY model_id), '') FROM otel_embedding_progress
                  WHERE complete_at IS NOT NULL";
        let seen: String = client.query_one(of, &[]).await.expect("progress").get(0);
        assert_eq!(seen, complete, "{texts} texts, {vectors:?} vectors");
    }
}
