//! Writing as a role that does not own the schema.

use std::time::Duration;

use oneiric_otel_testkit::TestDatabase;
use serde_json::json;

use crate::cli::{Serving, data_dir, run, run_with_input, text};

fn request(number: u64) -> Vec<u8> {
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": format!("{:032x}", number + 1), "spanId": format!("{:016x}", number + 1), "name": "tick",
        "startTimeUnixNano": "1794000000000000000", "endTimeUnixNano": "1794000000001000000"
    }]}]}]})
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_writes_as_one_role_and_maintains_as_another() {
    let database = TestDatabase::create().await;
    let (owner, writer) = (database.create_role("owner").await, database.create_role("writer").await);
    let reader = database.create_role("reader").await;
    let sql = format!("GRANT CREATE ON DATABASE {} TO {}", database.name(), owner.name);
    database.client().await.batch_execute(&sql).await.unwrap();

    let import = ["import", "-", "--no-wait", "--database-url", &writer.url];
    let refused = run_with_input(&import, &request(0)).await.expect(1);
    assert!(refused.stderr.contains("oneiric-otel db migrate"), "{}", refused.stderr);
    // Makes the schema, without what may take long.
    run_with_input(&["import", "-", "--no-wait", "--database-url", &owner.url], &request(0)).await.expect(0);

    let parts = ["--writer", &writer.name, "--reader", &reader.name];
    let roles = [&["db", "roles", "--database-url", &owner.url], &parts[..]].concat();
    let planned = run(&[&roles[..], &["--dry-run"]].concat()).await.expect(0).stdout;
    assert!(planned.contains(&format!("GRANT USAGE ON SCHEMA otel TO \"{}\";\n", reader.name)), "{planned}");
    run_with_input(&import, &request(1)).await.expect(1);
    run(&roles).await.expect(0);
    run_with_input(&import, &request(1)).await.expect(0);

    let dir = data_dir();
    let urls = ["--database-url", &writer.url, "--maintenance-url", &owner.url];
    let serving = Serving::start(&[&["--data-dir", text(dir.path())], &urls[..]].concat()).await;
    // The owner's work goes on in the background.
    while database.count("SELECT count(*) FROM otel_migrations WHERE track = 'deferred'").await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    serving.terminate().await;
    assert_eq!(serving.end().await, Some(0));
    let spans = ["psql", "--database-url", &reader.url, "-Atc", "select count(*) from spans"];
    assert_eq!(run(&spans).await.expect(0).stdout, "2\n");

    let unknown = run(&["db", "roles", "--database-url", &owner.url, "--writer", "nobody-here"]).await.expect(1);
    assert!(unknown.stderr.contains("CREATE ROLE \"nobody-here\" LOGIN"), "{}", unknown.stderr);
    let refused = run(&["db", "roles", "--database-url", &writer.url, "--reader", &reader.name]).await.expect(1);
    assert!(refused.stderr.contains("does not own"), "{}", refused.stderr);
}

#[tokio::test]
async fn what_is_missing_is_said_before_anything_is_opened() {
    run(&["db", "roles"]).await.expect(2);
    let alone = run(&["health", "--maintenance-url", "postgresql://u:secret@127.0.0.1:1/d"]).await.expect(2);
    assert!(alone.stderr.contains("--database-url") && !alone.stderr.contains("secret"), "{}", alone.stderr);
    let wrong = ["health", "--database-url", "postgresql://127.0.0.1:1/d", "--maintenance-url", "u:secret@h"];
    let wrong = run(&wrong).await.expect(2);
    assert!(wrong.stderr.contains("--maintenance-url") && !wrong.stderr.contains("secret"), "{}", wrong.stderr);
}
