//! SQL of the user's own: what an answer looks like, which roles it is run as, what a wrong question gets.

use std::time::Duration;

use oneiric_otel::query::{QueryError, QueryService, SqlAnswer, SqlRequest};
use oneiric_otel::store::{Database, Grantees, SqlReader, Truncated};
use oneiric_otel_testkit::{TestDatabase, TestRole, Version};
use serde_json::{Value, json};

use crate::scene::{Scene, failed, span};

/// A database with a role for SQL.
pub(crate) struct Desk {
    pub(crate) queries: QueryService,
    pub(crate) role: TestRole,
    pub(crate) test: TestDatabase,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        let scene = Scene::new().await;
        scene.spans("shop", vec![failed(span(1, 1, 0, "pay", Duration::ZERO), "card declined", &[])]).await;
        scene.derive().await;
        Self::on(scene.bench.test).await
    }

    pub(crate) async fn on(test: TestDatabase) -> Self {
        let role = test.create_role("reader").await;
        let database = Database::new(test.url()).unwrap();
        let grantees = Grantees { writer: None, reader: Some(role.name.clone()) };
        database.grant_roles(&grantees, false).await.unwrap();
        let queries = QueryService::new(database, None).with_sql(SqlReader::new(&role.url).unwrap());
        Self { queries, role, test }
    }

    pub(crate) async fn ask(&self, sql: &str) -> Result<SqlAnswer, QueryError> {
        self.queries.custom_query(&SqlRequest::new(sql)).await
    }

    pub(crate) async fn ask_with(&self, sql: &str, params: Value) -> Result<SqlAnswer, QueryError> {
        let Value::Array(params) = params else { panic!("a list of values") };
        self.queries.custom_query(&SqlRequest { params, ..SqlRequest::new(sql) }).await
    }

    /// The one value that a statement returns, as JSON.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let answer = self.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!((answer.rows.len(), answer.columns.len()), (1, 1), "{sql}");
        answer.rows[0][0].get().to_owned()
    }
}

fn rows(answer: &SqlAnswer) -> Value {
    serde_json::to_value(&answer.rows).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_columns_with_types_and_rows() {
    let desk = Desk::new().await;
    let answer = desk
        .ask("SELECT trace_id, service_name AS service, span_count, services, 1 AS x, 2 AS x FROM traces;\n ")
        .await;
    let answer = answer.unwrap();
    let columns: Vec<(&str, &str)> = answer.columns.iter().map(|c| (c.name.as_str(), c.r#type.as_str())).collect();
    assert_eq!(
        columns,
        [
            ("trace_id", "text"),
            ("service", "text"),
            ("span_count", "int4"),
            ("services", "_text"),
            ("x", "int4"),
            ("x", "int4")
        ]
    );
    assert_eq!(rows(&answer), json!([["00000000000000000000000000000002", "shop", 1, ["shop"], 1, 2]]));
    assert!(answer.truncated.is_none() && answer.elapsed_ms > 0.0);
    for sql in [
        "SHOW timezone",
        "EXPLAIN SELECT * FROM spans",
        "TABLE scopes",
        "VALUES (1), (2)",
        "WITH a AS (SELECT 1) TABLE a",
        "-- a question\nSELECT 1 -- and an end",
        "/* ; */ SELECT ';' AS \"a;b\" ; ",
        "(SELECT 1) UNION ALL SELECT 2",
    ] {
        let answer = desk.ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!answer.rows.is_empty(), "{sql}");
    }
    assert!(desk.ask("SELECT * FROM traces WHERE false").await.unwrap().rows.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_json_without_loss() {
    let desk = Desk::new().await;
    for (sql, json) in [
        ("NULL", "null"),
        ("true", "true"),
        ("(-32768)::int2", "-32768"),
        ("9007199254740992", "9007199254740992"),
        ("9007199254740993", "\"9007199254740993\""),
        ("(-9223372036854775808)::int8", "\"-9223372036854775808\""),
        ("0.1::float8", "0.1"),
        ("0.1::float4", "0.1"),
        ("1e300::float8", "1e+300"),
        ("'NaN'::float8", "\"NaN\""),
        ("'-Infinity'::float4", "\"-Infinity\""),
        ("0::numeric", "0"),
        ("-0.00012::numeric", "-0.00012"),
        ("12345678.90123456789::numeric", "12345678.90123456789"),
        ("100000000::numeric", "100000000"),
        ("1e20::numeric", "\"100000000000000000000\""),
        ("10000.5::numeric", "10000.5"),
        ("1.50::numeric", "1.50"),
        ("'NaN'::numeric", "\"NaN\""),
        ("avg(x) FROM (VALUES (1), (2), (2)) v (x)", "1.6666666666666667"),
        ("E'a\"\\n\\u0001é'", "\"a\\\"\\n\\u0001é\""),
        ("'\\x00ff'::bytea", "\"\\\\x00ff\""),
        ("'0af76519-16cd-43dd-8448-eb211c80319c'::uuid", "\"0af76519-16cd-43dd-8448-eb211c80319c\""),
        ("timestamptz '2026-11-20 12:00:00.000001+02'", "\"2026-11-20T10:00:00.000001Z\""),
        ("timestamptz 'infinity'", "\"infinity\""),
        ("timestamp '2026-11-20 12:00:00'", "\"2026-11-20T12:00:00\""),
        ("date '1969-12-31'", "\"1969-12-31\""),
        ("date '-infinity'", "\"-infinity\""),
        ("time '23:59:59.5'", "\"23:59:59.5\""),
        ("time '24:00'", "\"24:00:00\""),
        ("interval '1 year 2 months 3 days 4 hours 5 minutes 6.07 seconds'", "\"P1Y2M3DT4H5M6.07S\""),
        ("interval '-0.5 seconds'", "\"PT-0.5S\""),
        ("interval '0'", "\"PT0S\""),
        ("interval '2 days'", "\"P2D\""),
        ("'{\"a\": [1.0, 123456789012345678901234567890]}'::jsonb", "{\"a\": [1.0, 123456789012345678901234567890]}"),
        ("'{ \"b\":1}'::json", "{ \"b\":1}"),
        ("ARRAY['a', NULL]", "[\"a\",null]"),
        ("ARRAY[[1, 2], [3, 4]]", "[[1,2],[3,4]]"),
        ("'{}'::int8[]", "[]"),
        ("ARRAY['{\"a\": 1}'::jsonb]", "[{\"a\": 1}]"),
        // What comes as text.
        ("inet '10.0.0.1'", "\"10.0.0.1/32\""),
        ("ROW(1, 'x')", "\"(1,x)\""),
        ("int4range(1, 5)", "\"[1,5)\""),
        ("'pg_class'::regclass", "\"pg_class\""),
        ("'a b'::tsvector", "\"'a' 'b'\""),
        ("timetz '12:00+00'", "\"12:00:00+00\""),
        ("ARRAY[point(1, 2)]", "\"{\\\"(1,2)\\\"}\""),
        ("pg_sleep(0)", "null"),
    ] {
        assert_eq!(desk.value(&format!("SELECT {sql}")).await, json, "{sql}");
    }
    let deep = format!("SELECT '{}{}'::jsonb", "[".repeat(500), "]".repeat(500));
    assert_eq!(desk.value(&deep).await.len(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_18_answers_too() {
    let test = TestDatabase::create_on(Version::V18).await;
    Database::new(test.url()).unwrap().migrate().await.unwrap();
    let desk = Desk::on(test).await;
    let columns = "http_method, rpc_status_code, gen_ai_input_tokens, exception_type, event_count, resource_attributes";
    assert!(desk.ask(&format!("SELECT {columns} FROM spans")).await.unwrap().rows.is_empty());
    assert_eq!(desk.value("SELECT count(pg_try_advisory_lock(1))").await, "1");
    assert_eq!(desk.test.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await, 0);
    for sql in ["SELECT set_config('transaction_read_only', 'off', true)", "SELECT * FROM otel.otel_spans"] {
        assert!(matches!(desk.ask(sql).await, Err(QueryError::Sql(_))), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_come_as_text() {
    let desk = Desk::new().await;
    let client = desk.test.client().await;
    client
        .batch_execute("CREATE EXTENSION vector SCHEMA public; SELECT otel.otel_register_model('m', 'f32', 3)")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO otel_embeddings_1 SELECT text_id, now(), '[1,0,0]' FROM otel_texts")
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(desk.value("SELECT embedding FROM traces").await, "\"[1,0,0]\"");
    }
    assert_eq!(desk.value("SELECT embedding <=> '[1,0,0]' FROM traces").await, "0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_bound_and_typed_by_the_server() {
    let desk = Desk::new().await;
    let sql = "SELECT service_name FROM spans WHERE service_name = $1 AND duration_ms >= $2 AND start_time > $3
               AND attributes @> $4 AND name = ANY ($5) AND ($6::text IS NULL)";
    let params = json!(["shop", 1, "2026-01-01", {}, ["pay", "it's"], null]);
    assert_eq!(rows(&desk.ask_with(sql, params).await.unwrap()), json!([["shop"]]));
    let quoted = "x'; DROP VIEW spans; --";
    assert_eq!(rows(&desk.ask_with("SELECT $1", json!([quoted])).await.unwrap()), json!([[quoted]]));
    for (sql, params, message) in [
        ("SELECT $1::int", json!([]), "params: expected one value, for $1; 0 came"),
        ("SELECT 1", json!([1]), "params: expected no values: the statement has no $1, and 1 came"),
        ("SELECT $1::int + $2::int", json!([1]), "params: expected 2 values, for $1 to $2; 1 came"),
        ("SELECT $1::int", json!([[1]]), "params: expected a value of type int4 for $1, found a list"),
        ("SELECT $1::int", json!(["ten"]), "invalid input syntax for type integer: \"ten\" (SQLSTATE 22P02)"),
        ("SELECT $1::int", json!([1e30]), "invalid input syntax for type integer: \"1e+30\""),
        ("SELECT $1::text", json!(["a\u{0}b"]), "invalid byte sequence"),
    ] {
        let error = desk.ask_with(sql, params).await.unwrap_err().to_string();
        assert!(error.contains(message), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_says_is_passed_on_with_its_place() {
    let desk = Desk::new().await;
    for (sql, code, position) in [
        ("SELECT nothing FROM spans", "42703", Some(8)),
        ("SELECT 'é', nothing", "42703", Some(13)),
        ("SELEC 1", "42601", Some(1)),
        ("SELECT (1", "42601", Some(10)),
        ("SELECT * FROM nowhere", "42P01", Some(15)),
        ("SELECT 1/0", "22012", None),
        ("SELECT service_name::int FROM spans", "22P02", None),
    ] {
        let Err(QueryError::Sql(error)) = desk.ask(sql).await else { panic!("{sql}") };
        assert_eq!((error.code.as_str(), error.position), (code, position), "{sql}: {error}");
    }
    let Err(QueryError::Sql(error)) = desk.ask("SELECT name FROM spans WHERE nam = ''").await else { panic!() };
    assert_eq!(error.message, "column \"nam\" does not exist");
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("spans.name")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_named() {
    let desk = Desk::new().await;
    let request = || SqlRequest::new("SELECT 1");
    for (request, name) in [
        (SqlRequest::new(" \n"), "sql: "),
        (SqlRequest::new("SELECT '\u{0}'"), "sql: "),
        (SqlRequest::new(format!("SELECT '{}'", "x".repeat(1 << 20))), "sql: "),
        (SqlRequest::new("-- nothing"), "sql: "),
        (SqlRequest { max_rows: 0, ..request() }, "max_rows: "),
        (SqlRequest { max_rows: 100_001, ..request() }, "max_rows: "),
        (SqlRequest { max_bytes: 1, ..request() }, "max_bytes: "),
        (SqlRequest { timeout: Duration::from_secs(31), ..request() }, "timeout: "),
        (SqlRequest { timeout: Duration::ZERO, ..request() }, "timeout: "),
    ] {
        let error = desk.queries.custom_query(&request).await.unwrap_err();
        assert!(matches!(error, QueryError::InvalidArgument { .. }) && error.to_string().starts_with(name), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_bytes_end_an_answer_and_say_so() {
    let desk = Desk::new().await;
    let request = |sql: &str, max_rows, max_bytes| SqlRequest { max_rows, max_bytes, ..SqlRequest::new(sql) };
    let numbers = "SELECT n FROM generate_series(1, 1000) n";
    for (max_rows, rows, truncated) in
        [(10, 10, Some(Truncated::Rows)), (1000, 1000, None), (999, 999, Some(Truncated::Rows))]
    {
        let answer = desk.queries.custom_query(&request(numbers, max_rows, 1 << 20)).await.unwrap();
        assert_eq!((answer.rows.len(), answer.truncated), (rows, truncated));
    }
    let large = "SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n";
    let answer = desk.queries.custom_query(&request(large, 1000, 10_000)).await.unwrap();
    assert!((5..10).contains(&answer.rows.len()), "{}", answer.rows.len());
    assert_eq!(answer.truncated, Some(Truncated::Bytes));
    // One row that is too large comes after others, or alone.
    let growing = "SELECT repeat('x', 100 * n * n) FROM generate_series(1, 100) n ORDER BY n";
    let answer = desk.queries.custom_query(&request(growing, 1000, 1 << 20)).await.unwrap();
    assert!(answer.rows.len() > 10 && answer.truncated == Some(Truncated::Bytes));
    let error = desk.queries.custom_query(&request("SELECT repeat('x', 2000)", 10, 1024)).await.unwrap_err();
    assert!(error.to_string().contains("the first row is larger than the 1024 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volatile_column_is_computed_once_a_row() {
    let desk = Desk::new().await;
    let sql = "SELECT count(DISTINCT r) FROM (SELECT random()::text AS r FROM generate_series(1, 100)) q";
    assert_eq!(desk.value(sql).await, "100");
    let answer = desk
        .ask("SELECT r, r FROM (SELECT md5(random()::text) AS r FROM generate_series(1, 50) OFFSET 0) q")
        .await
        .unwrap();
    assert!(answer.rows.iter().all(|row| row[0].get() == row[1].get()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_given_more_later_is_refused_from_then_on() {
    let desk = Desk::new().await;
    let reader = SqlReader::new(&desk.role.url).unwrap().with_trust(Duration::ZERO);
    let queries = QueryService::new(Database::new(desk.test.url()).unwrap(), None).with_sql(reader);
    let ask = async || queries.custom_query(&SqlRequest::new("SELECT 1")).await;
    ask().await.unwrap();
    let client = desk.test.client().await;
    client.batch_execute(&format!("GRANT SELECT ON otel.otel_spans TO {}", desk.role.name)).await.unwrap();
    let error = ask().await.unwrap_err();
    assert!(matches!(&error, QueryError::Unavailable { reason } if reason.contains("otel_spans")), "{error}");
    client.batch_execute(&format!("REVOKE SELECT ON otel.otel_spans FROM {}", desk.role.name)).await.unwrap();
    ask().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_could_do_more_or_see_more_are_refused_with_what_to_do() {
    let desk = Desk::new().await;
    let refused = async |url: &str| {
        let queries =
            QueryService::new(Database::new(desk.test.url()).unwrap(), None).with_sql(SqlReader::new(url).unwrap());
        match queries.custom_query(&SqlRequest::new("SELECT 1")).await {
            Err(QueryError::Unavailable { reason }) => reason,
            other => panic!("{url}: {other:?}"),
        }
    };
    let without = QueryService::new(Database::new(desk.test.url()).unwrap(), None);
    let error = without.custom_query(&SqlRequest::new("SELECT 1")).await.unwrap_err().to_string();
    assert!(error.contains("CREATE ROLE otel_reader") && error.contains("GRANT SELECT ON otel.spans"), "{error}");

    let reason = refused(desk.test.url()).await;
    assert!(reason.contains("it is a superuser.") && reason.contains("GRANT SELECT ON otel.spans"), "{reason}");
    let stranger = desk.test.create_role("stranger").await;
    let reason = refused(&stranger.url).await;
    assert!(reason.contains("it may not read otel."), "{reason}");

    let admin = desk.test.client().await;
    let role = &desk.role.name;
    let other = desk.test.create_role("other").await.name;
    admin
        .batch_execute(&format!("CREATE TABLE public.orders (id int); GRANT SELECT ON public.orders TO {role}"))
        .await
        .unwrap();
    assert_eq!(desk.value("SELECT count(*) FROM public.orders").await, "0", "tables of the user's own can be granted");
    for (give, take, word) in [
        (
            format!("GRANT INSERT ON public.orders TO {role}"),
            format!("REVOKE INSERT ON public.orders FROM {role}"),
            "it may write to public.orders",
        ),
        (
            "GRANT UPDATE (id) ON public.orders TO PUBLIC".to_owned(),
            "REVOKE UPDATE (id) ON public.orders FROM PUBLIC".to_owned(),
            "it may write to public.orders",
        ),
        (
            format!("GRANT SELECT ON otel.otel_telemetry_dlq TO {role}"),
            format!("REVOKE SELECT ON otel.otel_telemetry_dlq FROM {role}"),
            "it may read otel.otel_telemetry_dlq",
        ),
        (
            format!("GRANT SELECT (sum) ON otel.otel_metrics TO {role}"),
            format!("REVOKE SELECT (sum) ON otel.otel_metrics FROM {role}"),
            "it may read otel.otel_metrics",
        ),
        (
            format!("GRANT CREATE ON SCHEMA public TO {role}"),
            format!("REVOKE CREATE ON SCHEMA public FROM {role}"),
            "it may make objects in schema public",
        ),
        (
            format!("GRANT EXECUTE ON FUNCTION otel.otel_make_partitions() TO {role}"),
            format!("REVOKE EXECUTE ON FUNCTION otel.otel_make_partitions() FROM {role}"),
            "it may call otel.otel_make_partitions",
        ),
        (
            format!("ALTER TABLE public.orders OWNER TO {role}"),
            "ALTER TABLE public.orders OWNER TO CURRENT_USER".to_owned(),
            "it owns public.orders",
        ),
        (
            format!("GRANT pg_read_server_files TO {role}"),
            format!("REVOKE pg_read_server_files FROM {role}"),
            "it is a member of pg_read_server_files",
        ),
        (format!("ALTER ROLE {role} CREATEROLE"), format!("ALTER ROLE {role} NOCREATEROLE"), "it may make roles"),
        // What it could become counts, also where it would have to switch.
        (
            format!("ALTER ROLE {role} NOINHERIT; GRANT INSERT ON public.orders TO {other}; GRANT {other} TO {role}"),
            format!("REVOKE {other} FROM {role}; ALTER ROLE {role} INHERIT"),
            "it may write to public.orders",
        ),
        (
            format!("REVOKE SELECT ON otel.logs FROM {role}"),
            format!("GRANT SELECT ON otel.logs TO {role}"),
            "it may not read otel.logs",
        ),
    ] {
        admin.batch_execute(&give).await.unwrap();
        let reason = refused(&desk.role.url).await;
        assert!(reason.contains(word) && reason.contains("db roles --reader"), "{give}: {reason}");
        admin.batch_execute(&take).await.unwrap();
    }
    let fit = SqlReader::new(&desk.role.url).unwrap();
    let queries = QueryService::new(Database::new(desk.test.url()).unwrap(), None).with_sql(fit);
    queries.custom_query(&SqlRequest::new("SELECT 1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_an_embedded_database_is_made_once_and_gets_a_new_password() {
    let test = TestDatabase::create().await;
    let database = Database::new(test.url()).unwrap();
    database.migrate().await.unwrap();
    let role = format!("{}_embedded", test.name());
    let made = futures::future::join_all((0..4).map(|_| database.make_reader(&role, "first"))).await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    database.make_reader(&role, "it's \\ new").await.unwrap();
    let sql = format!("SELECT rolconnlimit FROM pg_roles WHERE rolname = '{role}' AND NOT rolsuper");
    assert_eq!(test.count(&sql).await, 16);
    let location = test.url().split_once("://").unwrap().1;
    let location = location.split_once('@').map_or(location, |(_login, location)| location);
    let reader = SqlReader::new(&format!("postgresql://{role}:it%27s%20%5C%20new@{location}")).unwrap();
    let queries = QueryService::new(database, None).with_sql(reader);
    queries.custom_query(&SqlRequest::new("SELECT count(*) FROM traces")).await.unwrap();
}
