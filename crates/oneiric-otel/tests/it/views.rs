//! The friendly views: what stands in their columns, what the planner makes of them, and that everything is explained.

use std::time::Duration;

use oneiric_otel::conventions::{CONVENTIONS, convention, same_names};
use oneiric_otel::store::Database;
use oneiric_otel_testkit::TestDatabase;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use crate::scene::{NOON, SECOND, Scene, failed, log, span, text, trace_id};

const ZERO: Duration = Duration::ZERO;

/// What has no comment in the schema, partitions aside.
const UNEXPLAINED: &str = "
    SELECT format('%s.%s', attrelid::regclass, attname) AS what FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'otel'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
    UNION ALL
    SELECT oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = 'otel'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
      AND obj_description(oid, 'pg_class') IS NULL
    UNION ALL
    SELECT oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace = 'otel'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    ORDER BY 1";

fn integer(key: &str, value: i64) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::IntValue(value)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn double(key: &str, value: f64) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::DoubleValue(value)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

async fn explain(test: &TestDatabase, sql: &str) -> String {
    let rows = test.client().await.query(&format!("EXPLAIN {sql}"), &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

async fn names(test: &TestDatabase, sql: &str) -> Vec<String> {
    test.client().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_view_column_and_function_is_explained() {
    let test = TestDatabase::create().await;
    let database = Database::new(test.url()).unwrap();
    database.migrate().await.unwrap();
    assert_eq!(names(&test, UNEXPLAINED).await, [""; 0]);
    let register = "CREATE EXTENSION vector SCHEMA public; SELECT otel.otel_register_model('m', 'f32', 3)";
    test.client().await.batch_execute(register).await.unwrap();
    assert_eq!(names(&test, UNEXPLAINED).await, [""; 0], "with the table and the columns of a model");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_of_traces_has_its_columns_whether_the_model_or_the_migration_came_first() {
    let columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'otel.traces'::regclass AND attnum > 0";
    let register = |name: &str, dimension: u8| format!("SELECT otel.otel_register_model('{name}', 'f32', {dimension})");
    let mut found = Vec::new();
    for model_first in [true, false] {
        let test = TestDatabase::create().await;
        let database = Database::new(test.url()).unwrap();
        database.migrate_to(4).await.unwrap();
        let client = test.client().await;
        client
            .batch_execute("CREATE EXTENSION vector SCHEMA public; CREATE VIEW public.theirs AS SELECT * FROM traces")
            .await
            .unwrap();
        if model_first {
            client.batch_execute(&register("first", 3)).await.unwrap();
        }
        let before = names(&test, columns).await;
        database.migrate().await.unwrap();
        let after = names(&test, columns).await;
        assert_eq!(after[..before.len()], before, "columns are only added");
        client.batch_execute(&register("other", 4)).await.unwrap();
        let mut last = names(&test, columns).await;
        assert_eq!(last[..after.len()], after);
        assert_eq!(names(&test, UNEXPLAINED).await, [""; 0]);
        last.sort();
        found.push(last);
    }
    assert_eq!(found[0], found[1]);
    for column in ["trace_uuid", "embedding", "embedding_model", "partition_time"] {
        assert!(found[0].iter().any(|name| name == column), "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_found_under_old_and_new_names() {
    let scene = Scene::new().await;
    let spans = [
        vec![
            text("http.method", "GET"),
            text("http.target", "/cart"),
            integer("net.peer.port", 8080),
            text("db.system", "redis"),
            text("db.statement", "GET cart"),
            text("rpc.service", "shop.Cart"),
            text("rpc.method", "Get"),
            integer("rpc.grpc.status_code", 14),
            text("gen_ai.system", "openai"),
            integer("gen_ai.usage.prompt_tokens", 7),
            text("enduser.id", "u1"),
        ],
        vec![
            text("http.request.method", "GET"),
            text("url.path", "/cart"),
            text("server.port", "8080"),
            text("db.system.name", "redis"),
            text("db.query.text", "GET cart"),
            text("rpc.method", "shop.Cart/Get"),
            text("rpc.status_code", "UNAVAILABLE"),
            text("gen_ai.provider.name", "openai"),
            double("gen_ai.usage.input_tokens", 7.0),
            text("user.id", "u1"),
        ],
    ];
    let spans = spans.into_iter().zip(1..).map(|(attributes, id)| Span { attributes, ..span(1, id, 0, "x", ZERO) });
    scene.spans("shop", spans.collect()).await;
    let columns = "http_method, url_path, server_port, db_system, db_query_text, rpc_method, rpc_status_code,
                   gen_ai_system, gen_ai_input_tokens, user_id";
    let rows = names(&scene.bench.test, &format!("SELECT ROW({columns})::text FROM spans ORDER BY span_id")).await;
    assert_eq!(rows, ["(GET,/cart,8080,redis,\"GET cart\",shop.Cart/Get,UNAVAILABLE,openai,7,u1)"; 2]);
    let both = "SELECT otel_attr(attributes, 'http.method') || otel_attr(attributes, 'http.request.method')
                FROM spans ORDER BY span_id";
    assert_eq!(names(&scene.bench.test, both).await, ["GETGET"; 2], "whichever name is asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_knows_the_names_that_the_program_knows() {
    let test = TestDatabase::create().await;
    Database::new(test.url()).unwrap().migrate().await.unwrap();
    let client = test.client().await;
    let attribute = async |attributes: &[&str], name: &str| {
        let json = attributes.iter().map(|key| ((*key).to_owned(), (*key).into())).collect::<serde_json::Map<_, _>>();
        let json = serde_json::Value::Object(json).to_string();
        let row = client.query_one("SELECT otel_attr($1::text::jsonb, $2)", &[&json, &name]).await.unwrap();
        row.get::<_, Option<String>>(0)
    };
    let names = CONVENTIONS.iter().flat_map(|group| [group.name].into_iter().chain(group.former.iter().copied()));
    for name in names {
        let mut order = same_names(name);
        order.extend(convention(name).into_iter().flat_map(|group| group.stand_ins));
        // Each is found when those before it are missing.
        for (index, first) in order.iter().enumerate() {
            let found = attribute(&order[index..], name).await;
            assert_eq!(found.as_deref(), Some(*first), "{name} among {:?}", &order[index..]);
        }
        let all: Vec<&str> =
            CONVENTIONS.iter().flat_map(|group| group.former.iter().copied().chain([group.name])).collect();
        let others: Vec<&str> = all.into_iter().filter(|other| !order.contains(other)).collect();
        assert_eq!(attribute(&others, name).await, None, "{name}");
    }
    assert_eq!(attribute(&["order.id"], "order.id").await.as_deref(), Some("order.id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_read_where_there_are_numbers() {
    let test = TestDatabase::create().await;
    Database::new(test.url()).unwrap().migrate().await.unwrap();
    let client = test.client().await;
    for (json, number, integer) in [
        ("1", Some(1.0), Some(1)),
        ("\"-12\"", Some(-12.0), Some(-12)),
        ("2.5", Some(2.5), None),
        ("\"1e99\"", Some(1e99), None),
        ("9223372036854775807", Some(9_223_372_036_854_775_807.0), None),
        ("9199999999999999999", Some(9.2e18), None),
        ("1795176000000000001", Some(1_795_176_000_000_000_001.0), Some(1_795_176_000_000_000_001_i64)),
        ("\"1e999\"", None, None),
        ("\"12 apples\"", None, None),
        ("\"\"", None, None),
        ("null", None, None),
        ("true", None, None),
        ("[1]", None, None),
        ("{\"a\": 1}", None, None),
    ] {
        let sql = "SELECT otel_attr_number(jsonb_build_object('k', $1::text::jsonb), 'k'),
                          otel_attr_integer(jsonb_build_object('k', $1::text::jsonb), 'k')";
        let row = client.query_one(sql, &[&json]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), (number, integer), "{json}");
    }
    let row = client.query_one("SELECT otel_attr_number(NULL, 'k'), otel_attr('{\"k\": 1}', NULL)", &[]).await.unwrap();
    assert_eq!((row.get::<_, Option<f64>>(0), row.get::<_, Option<&str>>(1)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_links_and_exceptions_have_rows() {
    let scene = Scene::new().await;
    let exception = |after: u64, message: &str| Event {
        time_unix_nano: NOON + after,
        name: "exception".to_owned(),
        attributes: vec![
            text("exception.type", "java.io.IOException"),
            text("exception.message", message),
            text("exception.stacktrace", "at Main"),
        ],
        ..Event::default()
    };
    let note = Event { time_unix_nano: NOON, name: "note".to_owned(), ..Event::default() };
    let link = Link { trace_id: trace_id(7), span_id: vec![9; 8], ..Link::default() };
    let events = vec![note, exception(1_500, "first"), exception(SECOND, "last")];
    let root = Span { events, links: vec![link], ..failed(span(1, 1, 0, "pay", ZERO), "", &[]) };
    scene.spans("shop", vec![root, span(1, 2, 1, "child", ZERO)]).await;
    let row = |sql| scene.row(sql);
    assert_eq!(
        row("SELECT (string_agg(concat_ws(' ', position, name, exception_message, time), '; ' ORDER BY position)) FROM span_events").await,
        "1 note 2026-11-20 12:00:00+00; 2 exception first 2026-11-20 12:00:00.000001+00; 3 exception last 2026-11-20 12:00:01+00"
    );
    assert_eq!(row("SELECT time_unix_nano FROM span_events WHERE position = 2").await, (NOON + 1_500).to_string());
    assert_eq!(
        row("SELECT (linked_trace_id, linked_span_id, span_name) FROM span_links").await,
        "(00000000000000000000000000000008,0909090909090909,pay)"
    );
    assert_eq!(
        row("SELECT (exception_type, exception_message, exception_stacktrace, event_count, link_count, is_root, is_error)
             FROM spans WHERE is_root").await,
        "(java.io.IOException,last,\"at Main\",3,1,t,t)"
    );
    assert_eq!(row("SELECT (exception_type, event_count, is_root) FROM spans WHERE NOT is_root").await, "(,0,f)");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_have_levels_and_both_times() {
    let scene = Scene::new().await;
    let mut late = log(1, 18, "disk full", ZERO);
    late.observed_time_unix_nano = NOON + SECOND;
    let logs = [0, 1, 4, 5, 12, 13, 20, 24, 99].map(|severity| log(1, severity, "x", ZERO));
    scene.logs("shop", logs.into_iter().chain([late]).collect()).await;
    let levels = "SELECT string_agg(coalesce(level, '-'), ' ' ORDER BY severity_number) FROM logs WHERE body = 'x'";
    assert_eq!(scene.row(levels).await, "- trace trace debug info warn error fatal -");
    let late = "SELECT (level, observed_time - time) FROM logs WHERE body = 'disk full'";
    assert_eq!(scene.row(late).await, "(error,00:00:01)");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_reach_partitions_and_indexes_through_the_views() {
    let scene = Scene::new().await;
    let old = span(1, 1, 0, "old", ZERO);
    let year_2020 = Span { start_time_unix_nano: 1_600_000_000 * SECOND, ..old };
    scene.spans("shop", vec![year_2020, span(2, 1, 0, "new", ZERO)]).await;
    scene.logs("shop", vec![log(1, 9, "x", ZERO)]).await;
    let test = &scene.bench.test;
    let all = explain(test, "SELECT name FROM otel.spans").await;
    assert!(all.contains("_2020"), "{all}");

    for (sql, must, must_not) in [
        ("SELECT name FROM otel.spans WHERE start_time > now() - interval '1h'", "Subplans Removed", "_2020"),
        ("SELECT http_method FROM otel.spans WHERE start_time > '2026-11-20'", "otel_spans_2026", "_2020"),
        ("SELECT name FROM otel.span_events WHERE span_start_time > '2026-11-20'", "otel_spans_2026", "_2020"),
        ("SELECT body FROM otel.logs WHERE time > now() - interval '1h'", "otel_logs_2026", "otel_scopes"),
        ("SELECT value FROM otel.metrics WHERE time > now() - interval '1h'", "otel_metrics_2026", "otel_resources"),
        // Joins that are not asked for are not made.
        ("SELECT count(*), max(duration_ms) FROM otel.spans", "otel_spans", "otel_resources"),
        ("SELECT scope_name FROM otel.spans", "otel_scopes", "otel_resources"),
        ("SELECT count(*) FROM otel.metrics", "otel_metrics", "otel_metric_series"),
        ("SELECT root_name FROM otel.traces", "otel_traces", "otel_texts"),
    ] {
        let plan = explain(test, sql).await;
        assert!(plan.contains(must) && !plan.contains(must_not), "{sql}\n{plan}");
    }
    // An index that can be used is used, were the tables as large as they get.
    let id = "0af7651916cd43dd8448eb211c80319c";
    for (sql, index) in [
        (format!("SELECT name FROM otel.spans WHERE trace_uuid = '{id}'"), "_pkey"),
        (format!("SELECT body FROM otel.logs WHERE trace_uuid = '{id}'"), "_trace_id_idx"),
        (format!("SELECT root_name FROM otel.traces WHERE trace_uuid = '{id}'"), "_pkey"),
        (format!("SELECT name FROM otel.span_events WHERE trace_uuid = '{id}'"), "_pkey"),
        ("SELECT name FROM otel.spans WHERE is_error AND start_time > '2026-11-20'".to_owned(), "_start_time_idx"),
        (
            "SELECT name FROM otel.spans WHERE service_name = 'shop' AND start_time > '2026-11-20'".to_owned(),
            "_service_name_start_time_idx",
        ),
    ] {
        let plan = explain_large(test, &sql).await;
        assert!(plan.contains(index) && !plan.contains("Seq Scan on otel_"), "{sql}\n{plan}");
    }
    let join = "SELECT t.root_name, s.name FROM otel.traces t JOIN otel.spans s USING (trace_uuid)
                WHERE t.start_time > '2026-11-20' AND t.is_error AND s.start_time > '2026-11-20'";
    let plan = explain_large(test, join).await;
    assert!(plan.contains("Index Cond: ((trace_id = t"), "{plan}");
}

/// As the planner sees it where scans of whole tables are out of the question.
async fn explain_large(test: &TestDatabase, sql: &str) -> String {
    let client = test.client().await;
    let dear =
        "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off";
    client.batch_execute(dear).await.unwrap();
    let rows = client.query(&format!("EXPLAIN {sql}"), &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}
