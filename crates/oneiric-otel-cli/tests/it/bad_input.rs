//! What goes wrong is said in one line, with what to do, and the exit code tells how.

use std::net::TcpListener;

use oneiric_otel_testkit::TestDatabase;

use crate::cli::{data_dir, run, run_with_input, text};

const UNKNOWN: &str = "00000000000000000000000000000001";

#[tokio::test]
async fn wrong_command_lines_end_with_2() {
    let cases: [(&[&str], &str); 13] = [
        (&["serve", "--bogus"], "--bogus"),
        (&["frobnicate"], "frobnicate"),
        (&["search"], "<TEXT>"),
        (&["search", "x", "--limit", "0"], "1..=1000"),
        (&["search", "x", "--since", "yesterday"], "RFC 3339"),
        (&["trace", "5b8efff798038103d269b633813fc6"], "32 hexadecimal digits"),
        (&["similar", UNKNOWN, "--threshold", "1.5"], "from 0 to 1"),
        (&["import", "-", "--signal", "spans"], "traces"),
        (&["serve", "--grpc-addr", "foo"], "HOST:PORT"),
        (&["search", " "], "expected words"),
        (&["traces", "--since", "2h", "--until", "5h"], "a time after --since"),
        (&["health", "--database-url", "mysql://root:s3cr3t@localhost/x"], "postgresql://"),
        (&["health", "--database-url", "postgresql://"], "postgresql://"),
    ];
    for (arguments, expected) in cases {
        let ended = run(arguments).await.expect(2);
        assert!(ended.stderr.contains(expected), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{arguments:?}: {}", ended.stdout);
        assert!(!ended.stderr.contains("s3cr3t"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn databases_that_cannot_be_had_are_told_with_what_to_do() {
    let cases = [
        ("postgresql://nobody@127.0.0.1:1/nothing", "127.0.0.1:1/nothing", "hint: check that PostgreSQL runs there"),
        ("postgresql:///nothing", "host", "hint: a URL looks like"),
        ("postgresql://u:s3cr3t@host:port/x", "database URL", "hint: a URL looks like"),
    ];
    for (url, expected, hint) in cases {
        // A server waits for a database that is merely away.
        let is_away = url.contains("127.0.0.1");
        let commands = if is_away { &["health", "traces"][..] } else { &["health", "traces", "serve"] };
        for command in commands {
            let ended = run(&[command, "--database-url", url]).await.expect(1);
            assert!(ended.stderr.contains("error: ") && ended.stderr.contains(expected), "{url}: {}", ended.stderr);
            assert!(ended.stderr.contains(hint), "{url}: {}", ended.stderr);
            assert!(!ended.stderr.contains("s3cr3t"), "{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_directory_without_a_database_is_not_read_and_not_filled() {
    let dir = data_dir();
    let empty = dir.path().join("nothing-here");
    for command in [&["traces"][..], &["health"], &["psql", "-c", "select 1"], &["trace", UNKNOWN]] {
        let ended = run(&[&["--data-dir", text(&empty)], command].concat()).await.expect(1);
        assert!(ended.stderr.starts_with("error: there is no database in "), "{}", ended.stderr);
        assert!(ended.stderr.contains("\nhint: "), "{}", ended.stderr);
    }
    assert!(!empty.exists());
}

#[tokio::test]
async fn a_schema_that_is_behind_is_named_and_migrated_on_request() {
    let database = TestDatabase::create().await;
    let behind = run(&["traces", "--database-url", database.url()]).await.expect(1);
    assert!(behind.stderr.contains("db migrate"), "{}", behind.stderr);
    run(&["health", "--database-url", database.url()]).await.expect(1);
    let migrated = run(&["db", "migrate", "--database-url", database.url()]).await.expect(0);
    assert!(migrated.stdout.contains("0001_telemetry"), "{}", migrated.stdout);
    let again = run(&["db", "migrate", "--json", "--database-url", database.url()]).await.expect(0).json();
    assert_eq!(again["applied"].as_array().map(Vec::len), Some(0));
    run(&["traces", "--database-url", database.url()]).await.expect(0);
    run(&["health", "--database-url", database.url()]).await.expect(0);
}

#[tokio::test]
async fn an_unknown_trace_is_not_found() {
    let database = TestDatabase::create().await;
    run(&["db", "migrate", "--database-url", database.url()]).await.expect(0);
    for command in ["trace", "similar"] {
        let ended = run(&[command, UNKNOWN, "--database-url", database.url()]).await.expect(1);
        assert!(ended.stderr.contains(&format!("trace {UNKNOWN}")), "{}", ended.stderr);
        assert!(ended.stderr.contains("not found") && ended.stderr.contains("\nhint: "), "{}", ended.stderr);
        assert!(ended.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_way_out() {
    let database = TestDatabase::create().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let arguments =
        ["serve", "--grpc-addr", &address, "--http-addr", free, "--api-addr", free, "--database-url", database.url()];
    let ended = run(&arguments).await.expect(1);
    assert!(ended.stderr.contains(&address) && ended.stderr.contains("already in use"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: give other addresses with --grpc-addr"), "{}", ended.stderr);
}

#[tokio::test]
async fn without_pgvector_everything_works_but_meaning() {
    let database = TestDatabase::create().await;
    // A server whose pgvector this role may not install looks like one that has none.
    let deny = "create function deny() returns event_trigger language plpgsql as
                $$ begin raise exception 'extensions are not allowed here'; end $$;
                create event trigger no_extensions on ddl_command_start when tag in ('CREATE EXTENSION')
                execute function deny()";
    database.client().await.batch_execute(deny).await.unwrap();
    let trace = "5b8efff798038103d269b633813fc60c";
    let input = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{trace}","spanId":"eee19b7ec3c1b174",
            "name":"print receipt","startTimeUnixNano":"1544712660000000000",
            "endTimeUnixNano":"1544712661000000000","status":{{"code":2,"message":"paper jam"}}}}]}}]}}]}}"#
    );
    let url = ["--database-url", database.url()];
    let imported =
        run_with_input(&[&["import", "-", "--json"], &url[..]].concat(), input.as_bytes()).await.expect(0).json();
    assert_eq!(imported["accepted"]["spans"], 1);
    assert_eq!(imported["derived"]["not_embedded"], "the database has no pgvector");

    let found = run(&[&["search", "paper jam", "--json"], &url[..]].concat()).await.expect(0).json();
    assert_eq!(found["hits"][0]["newest"]["trace_id"], trace);
    assert!(found["note"].as_str().unwrap().contains("only words were compared"), "{found:#}");

    let demo_database = TestDatabase::create().await;
    demo_database.client().await.batch_execute(deny).await.unwrap();
    let ports = ["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--api-addr=127.0.0.1:0"];
    let demo = [&["demo", "--once", "--database-url", demo_database.url()], &ports[..]].concat();
    let demo = run(&demo).await.expect(1);
    assert!(demo.stderr.contains("this database has no pgvector"), "{}", demo.stderr);

    let similar = run(&[&["similar", trace], &url[..]].concat()).await.expect(1);
    assert!(similar.stderr.contains("CREATE EXTENSION vector"), "{}", similar.stderr);
    let health = run(&[&["health"], &url[..]].concat()).await.expect(1);
    assert!(health.stdout.contains("a superuser can run CREATE EXTENSION vector"), "{}", health.stdout);
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_not_waited_for() {
    let database = TestDatabase::create().await;
    let url = ["--database-url", database.url()];
    run(&[&["db", "migrate"], &url[..]].concat()).await.expect(0);
    let client = database.client().await;
    client.batch_execute("begin; lock table otel.otel_telemetry_dlq in access exclusive mode").await.unwrap();
    let health = run(&[&["health"], &url[..]].concat()).await.expect(1);
    assert!(health.stderr.contains("did not answer within 10 s"), "{}", health.stderr);
    assert!(health.stderr.contains("\nhint: "), "{}", health.stderr);
    client.batch_execute("rollback").await.unwrap();
    run(&[&["health"], &url[..]].concat()).await.expect(0);
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for command in [&["traces"][..], &["import", "-"]] {
        let ended = run(&[&["--data-dir", text(file.path())], command].concat()).await.expect(1);
        assert!(ended.stderr.contains(" is no directory\nhint: "), "{}", ended.stderr);
    }
}
