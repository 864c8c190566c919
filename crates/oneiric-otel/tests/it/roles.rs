//! Three roles on one database: who may do what, and that a role without an owner's rights is enough to serve.

use std::sync::Arc;
use std::time::Duration;

use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::embed::{EmbedError, EmbedOptions, Embedder, EmbeddingModel, EmbeddingWorker};
use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Ingest, IngestOptions, Replayer, Request};
use oneiric_otel::query::{QueryService, SearchRequest, TraceFilter};
use oneiric_otel::store::retention::CollectionRun;
use oneiric_otel::store::{Database, ErrorClass, Granted, Grantees};
use oneiric_otel_testkit::{TestDatabase, TestRole};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::scene::{NOON, SECOND, failed, span};
use crate::writing::{gauge, log, request};

const ZERO: Duration = Duration::ZERO;
const YEAR: u64 = 365 * 24 * 3600 * SECOND;

/// A database with an owner who has migrated it.
struct Cast {
    owner: TestRole,
    writer: TestRole,
    reader: TestRole,
    stranger: TestRole,
    test: TestDatabase,
}

impl Cast {
    async fn new() -> Self {
        let cast = Self::without_schema().await;
        cast.database(&cast.owner).migrate().await.unwrap();
        cast
    }

    async fn without_schema() -> Self {
        let test = TestDatabase::create().await;
        let owner = test.create_role("owner").await;
        let writer = test.create_role("writer").await;
        let reader = test.create_role("reader").await;
        let stranger = test.create_role("stranger").await;
        let sql = format!(
            "GRANT CREATE ON DATABASE {} TO {}; CREATE EXTENSION vector SCHEMA public",
            test.name(),
            owner.name
        );
        test.client().await.batch_execute(&sql).await.unwrap();
        Self { owner, writer, reader, stranger, test }
    }

    #[expect(clippy::unused_self, reason = "a role lives no longer than its cast")]
    fn database(&self, role: &TestRole) -> Database {
        Database::new(&role.url).unwrap()
    }

    async fn grant(&self) -> Granted {
        let grantees = Grantees { writer: Some(self.writer.name.clone()), reader: Some(self.reader.name.clone()) };
        self.database(&self.owner).grant_roles(&grantees, false).await.unwrap()
    }

    /// What lies in the schema, by the letter of its kind: tables and partitions (r, p), views (v), functions (f).
    async fn objects(&self, kinds: &str) -> Vec<String> {
        let sql = "SELECT format('otel.%I', relname) FROM pg_class
                   WHERE relnamespace = 'otel'::regnamespace AND strpos($1, relkind::text) > 0
                   UNION SELECT oid::regprocedure::text FROM pg_proc
                   WHERE pronamespace = 'otel'::regnamespace AND strpos($1, 'f') > 0 ORDER BY 1";
        let rows = self.test.client().await.query(sql, &[&kinds]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Every right on everything in the schema.
    async fn rights(&self) -> Vec<String> {
        let sql = "SELECT format('%s %s', relname, relacl) FROM pg_class WHERE relnamespace = 'otel'::regnamespace
                   UNION ALL SELECT format('%s %s', proname, proacl) FROM pg_proc WHERE pronamespace = 'otel'::regnamespace
                   UNION ALL SELECT format('%s.%s %s', attrelid::regclass, attname, attacl) FROM pg_attribute
                   WHERE attacl IS NOT NULL
                   UNION ALL SELECT format('%s %s', nspname, nspacl) FROM pg_namespace ORDER BY 1";
        self.test.client().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

async fn connect(role: &TestRole) -> Client {
    let (client, connection) = tokio_postgres::connect(&role.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[track_caller]
fn assert_denied<T>(what: &str, result: Result<T, tokio_postgres::Error>) {
    match result {
        Ok(_) => panic!("{what}: this must not be allowed"),
        Err(error) => assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{what}: {error:?}"),
    }
}

/// Gives every text the same vector.
struct Constant(EmbeddingModel);

impl Constant {
    fn new(name: &str, dimension: usize) -> Arc<Self> {
        Arc::new(Self(EmbeddingModel { name: name.to_owned(), dimension, precision: "f32".to_owned() }))
    }
}

impl Embedder for Constant {
    fn model(&self) -> &EmbeddingModel {
        &self.0
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vector = vec![0.0; self.0.dimension];
        vector[0] = 1.0;
        Ok(vec![vector; texts.len()])
    }

    fn token_count(&self, text: &str) -> usize {
        text.len()
    }
}

async fn send(ingest: &Ingest, signal: Signal, body: Vec<u8>) {
    let request = Request { signal, encoding: Encoding::Protobuf, body: body.into() };
    ingest.submit(request).await.unwrap();
}

fn at(span: Span, start: u64) -> Span {
    Span { start_time_unix_nano: start, end_time_unix_nano: start + 1000, ..span }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_does_all_that_a_server_does() {
    let cast = Cast::new().await;
    cast.grant().await;
    let owner = cast.test.client().await;
    owner.batch_execute("ALTER TABLE otel_spans ADD CHECK (name <> 'poison')").await.unwrap();
    let database = cast.database(&cast.writer);
    assert!(database.migrate().await.unwrap().is_empty());
    assert!(database.migrate_deferred().await.unwrap().is_empty());
    assert_eq!(database.migration_state().await.unwrap().pending_deferred.len(), 9, "that is the owner's work");

    // Spans of all times, one of them twice and one that is refused, logs, points.
    let ingest = Ingest::start(database.clone(), IngestOptions::default());
    let failed = failed(span(1, 1, 0, "pay", ZERO), "card refused", &[]);
    let poison = Span { name: "poison".to_owned(), ..span(1, 2, 1, "", ZERO) };
    let spans = vec![
        failed.clone(),
        failed,
        poison,
        at(span(2, 1, 0, "long ago", ZERO), YEAR),
        at(span(3, 1, 0, "last century", ZERO), 25 * YEAR),
        at(span(4, 1, 0, "later", ZERO), NOON + 12 * YEAR),
        at(span(5, 1, 0, "far away", ZERO), 140 * YEAR),
    ];
    send(&ingest, Signal::Traces, request(spans)).await;
    send(&ingest, Signal::Traces, request(vec![span(1, 3, 1, "again", ZERO), span(2, 1, 0, "x", ZERO)])).await;
    send(&ingest, Signal::Logs, request(vec![log("one"), log("one")])).await;
    send(&ingest, Signal::Metrics, request(vec![gauge("g", &[1.0, 2.0])])).await;
    send(&ingest, Signal::Metrics, request(vec![gauge("g", &[1.0, 3.0])])).await;
    for (table, rows) in [("otel_spans", 7), ("otel_logs", 2), ("otel_metrics", 3), ("otel_telemetry_dlq", 1)] {
        assert_eq!(cast.test.count(&format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
    }

    let deriver = Deriver::new(database.clone(), DeriveOptions::default());
    assert_eq!(deriver.derive_all_now().await.unwrap().traces, 5);
    send(&ingest, Signal::Traces, request(vec![span(1, 4, 1, "late", ZERO)])).await;
    assert_eq!(deriver.derive_all_now().await.unwrap().traces, 1);

    // Two models, each with a table that is made now; a text that comes later; another server with the same model.
    for (name, dimension) in [("small", 3), ("large", 2048), ("small", 3)] {
        let embedder = Constant::new(name, dimension);
        let worker = EmbeddingWorker::new(database.clone(), embedder, EmbedOptions::default(), deriver.texts_written());
        assert_eq!(worker.embed_all_now().await.unwrap().failed, 0);
    }
    let texts = cast.test.count("SELECT count(*) FROM otel_texts").await;
    assert!(texts >= 5);
    for table in ["otel_embeddings_1", "otel_embeddings_2"] {
        assert_eq!(cast.test.count(&format!("SELECT count(*) FROM {table}")).await, texts);
    }
    owner.batch_execute("UPDATE otel_embedding_models SET last_used = now() - interval '2 days'").await.unwrap();
    let worker = EmbeddingWorker::new(
        database.clone(),
        Constant::new("small", 3),
        EmbedOptions::default(),
        deriver.texts_written(),
    );
    worker.embed_all_now().await.unwrap();
    assert_eq!(
        cast.test.count("SELECT count(*) FROM otel_embedding_models WHERE last_used > now() - interval '1 day'").await,
        1
    );
    let index = "SELECT otel.otel_build_vector_index(1::smallint)";
    let writer = connect(&cast.writer).await;
    assert!(writer.query_one(index, &[]).await.unwrap().get::<_, bool>(0));
    assert!(!writer.query_one(index, &[]).await.unwrap().get::<_, bool>(0), "it is there");
    assert_eq!(
        cast.test.count("SELECT count(*) FROM pg_index WHERE indexrelid = 'otel_embeddings_1_hnsw'::regclass").await,
        1
    );

    // Reading and looking after it.
    let queries = QueryService::new(database.clone(), Some(Constant::new("small", 3)));
    let search = SearchRequest { text: "card refused".to_owned(), limit: 10, filter: TraceFilter::default() };
    let found = queries.search_traces(&search).await.unwrap();
    assert!(!found.hits.is_empty());
    assert_eq!(database.trace_spans(span(1, 1, 0, "", ZERO).trace_id.try_into().unwrap()).await.unwrap().len(), 3);
    assert_eq!(database.census().await.unwrap().dead_letters, 1);
    assert!(database.status().await.unwrap().schema.pending.is_empty());
    assert_eq!(database.make_partitions().await.unwrap(), 0);
    assert_eq!(database.forget_requests(ZERO).await.unwrap(), 6);
    owner.batch_execute("ALTER TABLE otel_spans DROP CONSTRAINT otel_spans_name_check; UPDATE otel_telemetry_dlq SET next_retry_at = now()").await.unwrap();
    let replayed = Replayer::new(database.clone(), Replayer::EVERY).replay_due().await.unwrap();
    assert_eq!(replayed.stored, 1);
    assert_eq!(database.forget_dead_letters(ZERO).await.unwrap(), 1);

    // What the owner retires comes back when a writer wants it.
    let owning = cast.database(&cast.owner);
    owning.migrate_deferred().await.unwrap();
    for table in ["otel_resources", "otel_scopes", "otel_metric_series"] {
        owner.batch_execute(&format!("UPDATE {table} SET last_seen = current_date - 3")).await.unwrap();
    }
    let everything = CollectionRun { at_once: true, trust_clock: true, ..CollectionRun::default() };
    assert_eq!(database.collect(&everything).await.unwrap_err().class(), ErrorClass::Misconfigured);
    assert_eq!(owning.collect(&everything).await.unwrap().retired, 3);
    send(&ingest, Signal::Metrics, request(vec![gauge("g", &[4.0])])).await;
    assert_eq!(cast.test.count("SELECT count(*) FROM otel_metric_series WHERE retirement IS NULL").await, 1);
    assert_eq!(cast.test.count("SELECT count(*) FROM otel_resources").await, 1);

    // Texts are deleted over the owner's connection.
    owner
        .batch_execute("DELETE FROM otel_trace_texts; UPDATE otel_texts SET created_at = now() - interval '2 hours'")
        .await
        .unwrap();
    assert_eq!(deriver.collect_texts().await.unwrap(), 0);
    assert!(deriver.maintaining_over(owning).collect_texts().await.unwrap() >= 5);

    // Partitions that a writer needed belong to the owner.
    let foreign = "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                   WHERE c.relnamespace = 'otel'::regnamespace AND r.rolname NOT LIKE '%_owner'";
    assert_eq!(cast.test.count(foreign).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_can_neither_drop_nor_alter() {
    let cast = Cast::new().await;
    cast.grant().await;
    let writer = connect(&cast.writer).await;
    for table in cast.objects("rp").await {
        for statement in [
            format!("DROP TABLE {table}"),
            format!("ALTER TABLE {table} ADD COLUMN mine integer"),
            format!("ALTER TABLE {table} OWNER TO CURRENT_USER"),
            format!("TRUNCATE {table}"),
            format!("CREATE INDEX ON {table} ((1))"),
            format!("GRANT SELECT ON {table} TO {}", cast.stranger.name),
            format!("CREATE RULE mine AS ON INSERT TO {table} DO INSTEAD NOTHING"),
        ] {
            // A grant that grants nothing is a warning to PostgreSQL where the role has some right without the option.
            match writer.batch_execute(&statement).await {
                Ok(()) => assert!(statement.starts_with("GRANT"), "{statement}"),
                Err(error) => {
                    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error:?}");
                }
            }
        }
    }
    assert!(!cast.rights().await.iter().any(|right| right.contains(&cast.stranger.name)));
    for statement in [
        "CREATE TABLE otel.mine (a integer)",
        "CREATE FUNCTION otel.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE VIEW otel.traces AS SELECT 1",
        "CREATE OR REPLACE FUNCTION otel.otel_make_partitions() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION otel.otel_make_partitions() SECURITY INVOKER",
        "DROP SCHEMA otel CASCADE",
        "UPDATE otel.otel_spans SET name = 'x'",
        "DELETE FROM otel.otel_spans",
        "UPDATE otel.otel_resources SET service_name = 'x'",
        "UPDATE otel.otel_partitioned_tables SET parent = 'otel_texts'",
        "INSERT INTO otel.otel_partitioned_tables (parent) VALUES ('otel_texts')",
        "UPDATE otel.otel_embedding_models SET name = 'x'",
        "INSERT INTO otel.otel_migrations (version, name, track, checksum) VALUES (9, 'x', 'required', 'x')",
        "SELECT FROM otel.otel_roles",
        "INSERT INTO otel.otel_roles VALUES (current_user::regrole, 'writer')",
    ] {
        // "must be owner of" has the same code as "permission denied".
        assert_denied(statement, writer.batch_execute(statement).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_with_the_owners_rights_do_nothing_else() {
    let cast = Cast::new().await;
    cast.grant().await;
    let writer = connect(&cast.writer).await;
    // What it could find instead of ours, had the functions no search path of their own.
    writer
        .batch_execute(
            "CREATE TEMP TABLE otel_partitioned_tables (parent text, step text, ahead integer, retention interval);
             INSERT INTO pg_temp.otel_partitioned_tables VALUES ('otel_texts', 'day', 3, '1 day'),
               ('otel_spans', 'day''; DROP TABLE otel.otel_texts; --', 3, '1 day');
             CREATE FUNCTION pg_temp.otel_vector_schema() RETURNS name LANGUAGE sql AS 'SELECT ''pg_temp''::name';
             CREATE FUNCTION pg_temp.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''DROP TABLE otel.otel_texts''';
             CREATE FUNCTION pg_temp.date_trunc(text, timestamptz) RETURNS timestamptz LANGUAGE sql AS
               'DROP TABLE otel.otel_texts; SELECT $2';
             SET search_path = pg_temp, pg_catalog, otel",
        )
        .await
        .unwrap();
    let before = cast.objects("rpvf").await;
    for parent in ["otel_texts", "pg_class", "otel_spans; DROP TABLE otel.otel_texts", "otel_spans\" --", ""] {
        let made = writer.execute("SELECT otel.otel_ensure_partition($1, now())", &[&parent]).await;
        assert_eq!(made.unwrap_err().code(), Some(&SqlState::RAISE_EXCEPTION), "{parent}");
    }
    writer.execute("SELECT otel.otel_make_partitions()", &[]).await.unwrap();
    for dimension in [-1, 0, 40_000] {
        writer.execute("SELECT otel.otel_register_model('x', 'f32', $1)", &[&dimension]).await.unwrap_err();
    }
    writer.execute("SELECT otel.otel_build_vector_index(7::smallint)", &[]).await.unwrap_err();
    writer.execute("SELECT otel.otel_register_model(NULL, 'f32', 3)", &[]).await.unwrap_err();
    assert_eq!(cast.objects("rpvf").await, before);

    let name = "x'; DROP TABLE otel.otel_texts; --";
    let sql = "SELECT otel.otel_register_model($1, $1, 3), otel.otel_ensure_partition('otel_spans', '1500-01-01'),
                      otel.otel_ensure_partition('otel_spans', 'infinity')";
    let row = writer.query_one(sql, &[&name]).await.unwrap();
    let model = row.get::<_, i16>(0);
    assert!(row.get::<_, bool>(1) && row.get::<_, bool>(2));
    let after = cast.objects("rpvf").await;
    let new: Vec<&String> = after.iter().filter(|object| !before.contains(object)).collect();
    assert_eq!(
        new,
        [&format!("otel.otel_embeddings_{model}"), "otel.otel_spans_before_2000", "otel.otel_spans_from_2100"],
    );
    assert_eq!(after.len(), before.len() + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_the_views_and_nothing_else() {
    let cast = Cast::new().await;
    cast.grant().await;
    let worker = |name: &str| {
        let embedder = Constant::new(name, 3);
        EmbeddingWorker::new(cast.database(&cast.writer), embedder, EmbedOptions::default(), Arc::default())
    };
    let ingest = Ingest::start(cast.database(&cast.writer), IngestOptions::default());
    let span = Span { events: vec![Event::default()], links: vec![Link::default()], ..span(1, 1, 0, "a", ZERO) };
    send(&ingest, Signal::Traces, request(vec![span])).await;
    send(&ingest, Signal::Logs, request(vec![log("one")])).await;
    send(&ingest, Signal::Metrics, request(vec![gauge("g", &[1.0])])).await;
    Deriver::new(cast.database(&cast.writer), DeriveOptions::default()).derive_all_now().await.unwrap();
    let reader = connect(&cast.reader).await;
    // The views, one of which changes as models come.
    for model in ["first", "second"] {
        let views = cast.objects("v").await;
        assert!(views.len() >= 10);
        for view in views {
            let rows = reader.query(&format!("SELECT * FROM {view}"), &[]).await.unwrap();
            assert_eq!(rows.len(), 1, "{view}");
            for statement in [
                format!("INSERT INTO {view} DEFAULT VALUES"),
                format!("DELETE FROM {view}"),
                format!("DROP VIEW {view}"),
                format!("COMMENT ON VIEW {view} IS ''"),
            ] {
                let error = reader.batch_execute(&statement).await.unwrap_err();
                // A view of several tables cannot be written to, whoever asks.
                let codes = [&SqlState::INSUFFICIENT_PRIVILEGE, &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
                assert!(codes.contains(&error.code().unwrap()), "{statement}: {error:?}");
            }
        }
        worker(model).embed_all_now().await.unwrap();
    }
    let embedded = reader.query_one("SELECT embedding::text, embedding_model FROM otel.traces", &[]).await.unwrap();
    assert_eq!((embedded.get(0), embedded.get(1)), ("[1,0,0]", "second"));
    assert_nothing_else(&cast, &reader).await;
    assert_denied("a table", reader.batch_execute("CREATE TABLE otel.mine (a integer)").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_else_can_do_nothing() {
    let cast = Cast::new().await;
    cast.grant().await;
    let stranger = connect(&cast.stranger).await;
    for view in cast.objects("v").await {
        assert_denied(&view, stranger.batch_execute(&format!("SELECT FROM {view}")).await);
    }
    assert_nothing_else(&cast, &stranger).await;
    let of_all = "SELECT count(*) FROM (
        SELECT relacl AS acl, relowner AS owner, 'r'::\"char\" AS kind FROM pg_class WHERE relnamespace = 'otel'::regnamespace
        UNION ALL SELECT proacl, proowner, 'f' FROM pg_proc WHERE pronamespace = 'otel'::regnamespace
        UNION ALL SELECT nspacl, nspowner, 'n' FROM pg_namespace WHERE nspname = 'otel') o,
        aclexplode(coalesce(acl, acldefault(kind, owner))) a WHERE a.grantee = 0";
    assert_eq!(cast.test.count(of_all).await, 0, "nothing in the schema is PUBLIC's");
}

/// No table and no function of the schema is the role's to use.
async fn assert_nothing_else(cast: &Cast, client: &Client) {
    for table in cast.objects("rp").await {
        for statement in [
            format!("SELECT FROM {table}"),
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("DROP TABLE {table}"),
        ] {
            assert_denied(&statement, client.batch_execute(&statement).await);
        }
    }
    let functions = cast.objects("f").await;
    assert!(functions.len() >= 7);
    // What the views call is granted with them.
    for function in functions.iter().filter(|name| !name.contains("otel_attr")) {
        let sql = "SELECT pg_catalog.has_function_privilege($1, 'EXECUTE')";
        let may = client.query_one(sql, &[function]).await;
        // Without the right to look into the schema it cannot even be named.
        assert!(may.is_err() || !may.unwrap().get::<_, bool>(0), "{function}");
    }
    assert_denied("partitions", client.execute("SELECT otel.otel_make_partitions()", &[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn granting_again_changes_nothing_and_a_dry_run_grants_nothing() {
    let cast = Cast::new().await;
    let before = cast.rights().await;
    let grantees = Grantees { writer: Some(cast.writer.name.clone()), reader: Some(cast.reader.name.clone()) };
    let planned = cast.database(&cast.owner).grant_roles(&grantees, true).await.unwrap();
    assert_eq!(cast.rights().await, before);
    let granted = cast.grant().await;
    assert_eq!(granted, planned);
    assert!(granted.notes.is_empty(), "{:?}", granted.notes);
    let after = cast.rights().await;
    assert_ne!(after, before);
    assert_eq!(cast.grant().await, granted);
    assert_eq!(cast.rights().await, after);
    let outside: Vec<&String> =
        after.iter().filter(|right| !before.contains(right) && !right.contains("otel")).collect();
    let views = cast.objects("v").await;
    let name = |right: &str| format!("otel.{}", right.split(' ').next().unwrap());
    assert!(outside.iter().all(|right| views.contains(&name(right))), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_cannot_have_a_part_are_told_why() {
    let cast = Cast::new().await;
    let owner = cast.database(&cast.owner);
    let writer = |name: &str| Grantees { writer: Some(name.to_owned()), reader: None };
    for unknown in ["no \"such\" role'; --", "public", ""] {
        let error = owner.grant_roles(&writer(unknown), false).await.unwrap_err();
        let name = unknown.replace('"', "\"\"");
        assert!(error.to_string().contains(&format!("CREATE ROLE \"{name}\" LOGIN")), "{error}");
    }
    let error = cast.database(&cast.stranger).grant_roles(&writer(&cast.writer.name), false).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    cast.grant().await;
    let error = cast.database(&cast.writer).grant_roles(&writer(&cast.stranger.name), false).await.unwrap_err();
    assert!(error.to_string().contains("does not own"), "{error}");
    let error = owner.grant_roles(&writer(&cast.reader.name), false).await.unwrap_err();
    assert!(error.to_string().contains("granted the part of the reader"), "{error}");

    // What is not ours to grant is said.
    let (database, admin) = (cast.test.name(), cast.test.client().await);
    let sql = format!(
        "REVOKE TEMPORARY, CONNECT ON DATABASE {database} FROM PUBLIC; REVOKE USAGE ON SCHEMA public FROM PUBLIC;
         GRANT CONNECT ON DATABASE {database} TO {}",
        cast.owner.name
    );
    admin.batch_execute(&sql).await.unwrap();
    let notes = cast.grant().await.notes.join("\n");
    for right in ["GRANT CONNECT ON DATABASE", "GRANT TEMPORARY ON DATABASE", "GRANT USAGE ON SCHEMA public"] {
        assert!(notes.contains(right), "{notes}");
    }
    let notes = owner.grant_roles(&writer(&cast.owner.name), true).await.unwrap().notes.join("\n");
    assert!(notes.contains("has the rights of the schema's owner"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_characters_can_be_granted() {
    let cast = Cast::new().await;
    let admin = cast.test.client().await;
    let name = format!("{}_odd \"name\" of $1 \\ '; --", cast.test.name());
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    admin.batch_execute(&format!("CREATE ROLE {quoted}")).await.unwrap();
    let grantees = Grantees { writer: Some(name.clone()), reader: None };
    let granted = cast.database(&cast.owner).grant_roles(&grantees, false).await;
    let may = admin.query_one("SELECT has_table_privilege($1, 'otel.otel_spans', 'INSERT')", &[&name]).await;
    let worker = EmbeddingWorker::new(
        cast.database(&cast.owner),
        Constant::new("model", 3),
        EmbedOptions::default(),
        Arc::default(),
    );
    let embedded = worker.embed_all_now().await;
    let vectors = admin.query_one("SELECT has_table_privilege($1, 'otel.otel_embeddings_1', 'INSERT')", &[&name]).await;
    admin.batch_execute(&format!("DROP OWNED BY {quoted}; DROP ROLE {quoted}")).await.unwrap();
    granted.unwrap();
    embedded.unwrap();
    assert!(may.unwrap().get::<_, bool>(0) && vectors.unwrap().get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_grants_what_it_adds() {
    let cast = Cast::new().await;
    cast.grant().await;
    let granted = cast.rights().await;
    // As if a view and a table had not been there when the roles were granted, and the latest migrations neither.
    let admin = cast.test.client().await;
    let sql = format!(
        "REVOKE ALL ON otel_ingest_ledger FROM {}; REVOKE ALL ON metrics FROM {};
         DELETE FROM otel_migrations WHERE version = 3;
         ALTER TABLE otel_telemetry_dlq DROP COLUMN records, DROP COLUMN last_error",
        cast.writer.name, cast.reader.name
    );
    admin.batch_execute(&sql).await.unwrap();
    assert_ne!(cast.rights().await, granted);
    assert_eq!(cast.database(&cast.owner).migrate().await.unwrap(), ["0003_dead_letters"]);
    assert_eq!(cast.rights().await, granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_on_an_old_schema_is_sent_to_the_owner() {
    let cast = Cast::without_schema().await;
    let writer = cast.database(&cast.writer);
    let error = writer.migrate().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Misconfigured);
    assert!(error.to_string().contains("permission denied for database"), "{error}");

    cast.database(&cast.owner).migrate_to(1).await.unwrap();
    let sql = format!("GRANT USAGE ON SCHEMA otel TO {0}; GRANT SELECT ON otel_migrations TO {0}", cast.writer.name);
    cast.test.client().await.batch_execute(&sql).await.unwrap();
    let error = writer.migrate().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Misconfigured);
    let text = error.to_string();
    assert!(text.contains("at version 1") && text.contains("oneiric-otel db migrate"), "{text}");
    let error = cast.database(&cast.owner).grant_roles(&Grantees::default(), false).await.unwrap_err().to_string();
    assert!(error.contains("db migrate"), "{error}");
    cast.database(&cast.owner).migrate().await.unwrap();
    assert!(writer.migrate().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_roles_is_upgraded_through_every_version() {
    let cast = Cast::without_schema().await;
    let owner = cast.database(&cast.owner);
    owner.migrate_to(4).await.unwrap();
    let parts = format!(
        "INSERT INTO otel_roles (role, part) VALUES ('{}'::regrole, 'writer'), ('{}'::regrole, 'reader')",
        cast.writer.name, cast.reader.name
    );
    cast.test.client().await.batch_execute(&parts).await.unwrap();
    owner.migrate().await.unwrap();
    let upgraded = cast.rights().await;
    assert!(upgraded.iter().any(|rights| rights.contains("otel_resources.retirement")), "{upgraded:?}");
    cast.grant().await;
    assert_eq!(cast.rights().await, upgraded, "nothing was missing");
}
