//! What a statement of the user's must not be able to do, and that the next one never notices that somebody tried.

use std::time::Duration;

use oneiric_otel::query::{QueryError, SqlRequest};

use crate::sql::Desk;

/// What the attack got to see.
async fn outcome(desk: &Desk, sql: &str) -> String {
    match desk.ask(sql).await {
        Ok(answer) => serde_json::to_string(&answer.rows).unwrap(),
        Err(QueryError::InvalidArgument { name, .. }) => format!("refused: {name}"),
        Err(QueryError::Sql(error)) => format!("{}: {}", error.code, error.message),
        Err(error) => panic!("{sql}: {error:?}"),
    }
}

/// The pool answers as before, and nothing is left of whatever was tried: no lock, no table, no setting, no listener.
async fn assert_unharmed(desk: &Desk, after: &str) {
    // More than there are connections at a time, so that each of them is asked.
    let asked = (0..8).map(|_| desk.value("SELECT count(*) FROM spans"));
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| answer == "1"), "after {after}: {answers:?}");
    let settings = "SELECT current_setting('statement_timeout') || current_setting('transaction_read_only')
                           || current_setting('work_mem') || current_setting('search_path') || current_user";
    let found = desk.value(settings).await;
    // Nothing of ours sets it, so that what the server gives to everybody is what must be found again.
    let work_mem: String = desk.test.client().await.query_one("SHOW work_mem", &[]).await.unwrap().get(0);
    let expected = ["30s", "on", &work_mem, "otel, public", &desk.role.name];
    assert!(expected.iter().all(|part| found.contains(part)), "after {after}: {found}");
    let locks = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype IN ('advisory', 'object') AND database = (SELECT oid FROM pg_database WHERE datname = '{}')",
        desk.test.name()
    );
    assert_eq!(desk.test.count(&locks).await, 0, "after {after}");
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'evil%'";
    assert_eq!(desk.test.count(left).await, 0, "after {after}");
    assert_eq!(desk.test.count("SELECT count(*) FROM otel_spans").await, 1, "after {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_refused() {
    let desk = Desk::new().await;
    for sql in [
        "DO $$ BEGIN PERFORM 1; END $$",
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "SAVEPOINT statement",
        "RELEASE SAVEPOINT statement",
        "SET TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET statement_timeout = 0",
        "RESET ALL",
        "SET ROLE postgres",
        "RESET ROLE",
        "DISCARD ALL",
        "LISTEN evil",
        "NOTIFY evil",
        "LOCK TABLE otel.spans IN ACCESS SHARE MODE",
        "COPY (SELECT 1) TO STDOUT",
        "COPY (SELECT 1) TO '/tmp/evil'",
        "COPY (SELECT 1) TO PROGRAM 'touch /tmp/evil'",
        "COPY pg_class TO STDOUT",
        "PREPARE evil AS SELECT 1",
        "DECLARE evil CURSOR WITH HOLD FOR SELECT 1",
        "CREATE TABLE evil (a int)",
        "CREATE TEMP TABLE evil (a int)",
        "SELECT 1 AS a INTO TEMP evil",
        "DELETE FROM otel.spans",
        "TRUNCATE otel.otel_spans",
        "DROP VIEW otel.spans",
        "VACUUM",
        "CHECKPOINT",
        "SELECT",
        "-- SELECT 1",
        ";",
    ] {
        let outcome = outcome(&desk, sql).await;
        let codes = ["refused: sql", "42501", "25006", "42809", "42601", "55000"];
        assert!(codes.iter().any(|code| outcome.starts_with(code)), "{sql}: {outcome}");
    }
    assert_unharmed(&desk, "statements without rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_written_or_read_that_is_not_a_view() {
    let desk = Desk::new().await;
    for (sql, codes) in [
        ("DELETE FROM otel.otel_spans RETURNING 1", &["42501", "25006", "refused"][..]),
        ("INSERT INTO otel.spans (name) VALUES ('x') RETURNING 1", &["42501", "55000", "refused"]),
        ("WITH gone AS (DELETE FROM otel.otel_spans RETURNING 1) SELECT * FROM gone", &["0A000", "42501", "25006"]),
        ("SELECT * FROM otel.spans FOR UPDATE", &["42501", "25006", "0A000"]),
        ("SELECT * FROM otel.otel_spans", &["42501"]),
        ("SELECT * FROM otel.otel_telemetry_dlq", &["42501"]),
        ("SELECT * FROM otel.otel_ingest_ledger", &["42501"]),
        ("SELECT * FROM otel.otel_migrations", &["42501"]),
        ("SELECT otel.otel_make_partitions()", &["42501"]),
        ("SELECT * FROM pg_authid", &["42501"]),
        ("SELECT rolpassword FROM pg_shadow", &["42501", "42703"]),
        ("SELECT pg_read_file('/etc/passwd')", &["42501"]),
        ("SELECT pg_ls_dir('.')", &["42501"]),
        ("SELECT lo_import('/etc/passwd')", &["42501", "25006"]),
        ("SELECT lo_create(0)", &["42501", "25006", "[["]),
        ("SELECT lo_from_bytea(0, 'evil')", &["42501", "25006", "[["]),
        ("SELECT pg_reload_conf()", &["42501"]),
        ("SELECT set_config('transaction_read_only', 'off', true)", &["25001"]),
        ("SELECT set_config('transaction_read_only', 'off', false)", &["25001"]),
        ("SELECT set_config('role', 'postgres', false)", &["42501", "22023"]),
        ("SELECT set_config('session_authorization', 'postgres', false)", &["42501", "22023"]),
        ("SELECT set_config('temp_file_limit', '-1', false)", &["42501"]),
        ("SELECT nextval('otel.otel_resources_resource_id_seq')", &["42501", "25006"]),
        ("SELECT query_to_xml('DELETE FROM otel.otel_spans', true, true, '')", &["42501", "25006", "0A000", "22023"]),
        ("SELECT 1; DELETE FROM otel.otel_spans", &["42601"]),
        ("SELECT 1; SELECT 2", &["42601"]),
        ("EXPLAIN ANALYZE DELETE FROM otel.otel_spans", &["42501", "25006"]),
        ("EXPLAIN ANALYZE CREATE TABLE evil AS SELECT 1", &["42501", "25006"]),
    ] {
        let outcome = outcome(&desk, sql).await;
        assert!(codes.iter().any(|code| outcome.starts_with(code)), "{sql}: {outcome}");
    }
    assert_unharmed(&desk, "attempts to write").await;
    let large_objects = desk.test.count("SELECT count(*) FROM pg_largeobject_metadata").await;
    assert_eq!(large_objects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_its_statement() {
    let desk = Desk::new().await;
    for sql in [
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock(n) FROM generate_series(1, 100) n",
        "SELECT pg_advisory_xact_lock_shared(2)",
        "SELECT pg_advisory_lock(3), 1/0",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT set_config('statement_timeout', '0', true)",
        "SELECT set_config('work_mem', '1GB', false)",
        "SELECT set_config('search_path', 'public', false)",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT pg_notify('evil', 'x')",
        "SELECT pg_export_snapshot()",
    ] {
        outcome(&desk, sql).await;
        assert_unharmed(&desk, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_cancelled_on_the_server_too() {
    let desk = Desk::new().await;
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename = '{}' AND state = 'active'",
        desk.test.name(),
        desk.role.name
    );
    for sql in [
        "SELECT pg_sleep(600)",
        "SELECT set_config('statement_timeout', '0', true), pg_sleep(600)",
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
        "WITH RECURSIVE bomb AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM bomb) SELECT count(*) FROM bomb",
        "SELECT count(*) FROM spans a, generate_series(1, 100000) b WHERE repeat(a.name, 1000) ~ '(x+x+)+y' OR b > 0 AND pg_sleep(600) IS NULL",
        "SHOW /* SELECT pg_sleep(600) */ timezone",
        "EXPLAIN ANALYZE SELECT pg_sleep(600)",
    ] {
        let request = SqlRequest { timeout: Duration::from_millis(300), ..SqlRequest::new(sql) };
        match desk.queries.custom_query(&request).await {
            Err(QueryError::Sql(error)) => assert_eq!(error.code, "57014", "{sql}: {error}"),
            Ok(_) => assert!(sql.starts_with("SHOW"), "{sql}"),
            Err(error) => panic!("{sql}: {error:?}"),
        }
        while desk.test.count(&running).await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_unharmed(&desk, "statements without end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_leaves_nothing_running() {
    let desk = Desk::new().await;
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename = '{}' AND query LIKE '%pg_sleep%' AND state = 'active'",
        desk.test.name(),
        desk.role.name
    );
    // More than may run at a time: those that wait go away too.
    let asked: Vec<_> = (0..6)
        .map(|_| {
            let queries = desk.queries.clone();
            tokio::spawn(async move { queries.custom_query(&SqlRequest::new("SELECT pg_sleep(29)")).await.is_ok() })
        })
        .collect();
    while desk.test.count(&running).await < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for question in asked {
        question.abort();
    }
    while desk.test.count(&running).await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_unharmed(&desk, "clients that went away").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_is_not_fetched() {
    let desk = Desk::new().await;
    for sql in [
        "SELECT repeat('x', 1000000000)",
        "SELECT repeat('x', 100000000)::bytea",
        "SELECT jsonb_build_object('a', repeat('x', 100000000))",
        "SELECT array_agg(n) FROM generate_series(1, 10000000) n",
        "SELECT ROW(repeat('x', 100000000))",
        "SELECT string_agg(n::text, ',') FROM generate_series(1, 5000000) n",
        "--\rSELECT repeat('x', 100000000) AS\nexplain",
        "--\rSELECT repeat('x', 100000000) AS\nshow",
    ] {
        let outcome = outcome(&desk, sql).await;
        // 54000: too large for an answer, or, of the server itself, too large for a value.
        assert!(outcome.starts_with("54000") || outcome.starts_with("53200"), "{sql}: {outcome}");
    }
    for sql in [
        "SELECT * FROM generate_series(1, 100000000)",
        "SELECT n, repeat('x', 1000000) FROM generate_series(1, 1000) n",
        "--\rSELECT n AS\nexplain FROM generate_series(1, 100000000) n",
    ] {
        let answer = desk.ask(sql).await.unwrap();
        assert!(answer.truncated.is_some() && answer.rows.len() <= 10_000, "{sql}");
    }
    assert_unharmed(&desk, "large answers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_breaks_out_of_the_wrapping() {
    let desk = Desk::new().await;
    for sql in [
        "SELECT 1) AS s(c1) LIMIT 5) AS r OFFSET 0) AS q; DELETE FROM otel.otel_spans; --",
        "SELECT 1) UNION SELECT (2",
        "SELECT 1 /*",
        "SELECT 1 */",
        "SELECT '",
        "SELECT $$",
        "SELECT $a$ ) $b$",
        "SELECT \"",
        "SELECT E'\\'",
        "SELECT U&'\\",
        "SELECT 1 \\; SELECT 2",
        "SELECT inet '1.1.1.1') AS s(c1) --",
    ] {
        let outcome = outcome(&desk, sql).await;
        assert!(outcome.starts_with("42601") || outcome.starts_with("42"), "{sql}: {outcome}");
    }
    // What is whole by itself is no way out either.
    for (sql, value) in [
        ("SELECT ')' -- ) AS s(c1) LIMIT 5", "\")\""),
        ("SELECT $x$) -- $x$", "\") -- \""),
        ("SELECT ')' /* ( /* ( */ */", "\")\""),
        ("SELECT inet '10.0.0.1' -- ;", "\"10.0.0.1/32\""),
        ("SELECT fits FROM (SELECT 7 AS fits) q", "7"),
        ("SELECT c1 FROM (SELECT 8 AS c1) r", "8"),
        ("SELECT 1 -- ;;; ", "1"),
    ] {
        assert_eq!(desk.value(sql).await, value, "{sql}");
    }
    assert_unharmed(&desk, "odd quotes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_from_outside_is_replaced() {
    let desk = Desk::new().await;
    desk.value("SELECT 1").await;
    let end =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{}'", desk.role.name);
    assert!(desk.test.count(&end).await > 0);
    // At most the one question that met the dead connection fails, and says that the database was away.
    let mut failed = 0;
    while let Err(error) = desk.ask("SELECT 1").await {
        assert!(matches!(error, QueryError::Store(_)), "{error:?}");
        failed += 1;
        assert!(failed < 6);
    }
    assert_unharmed(&desk, "ended sessions").await;
}
