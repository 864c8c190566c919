//! Every trace ends in exactly one right row, however its spans and logs arrive and whatever is killed when.

use std::time::{Duration, Instant};

use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::otlp::Signal;
use oneiric_otel::store::Database;

use crate::scene::{Scene, failed, log, of_service, span, text};

const ZERO: Duration = Duration::ZERO;
const ERROR: i32 = 17;

#[tokio::test(flavor = "multi_thread")]
async fn a_late_root_rewrites_the_row_in_its_place() {
    let scene = Scene::new().await;
    scene.spans("cart", vec![span(1, 2, 1, "load", Duration::from_millis(5))]).await;
    let first = scene.derive().await;
    assert_eq!((first.traces, first.texts_new), (1, 1));
    let bucket = scene.row("SELECT bucket FROM otel_traces").await;
    assert_eq!(scene.row("SELECT (root_name, span_count, root_seen) FROM otel_traces").await, "(load,1,f)");

    scene.spans("shop", vec![span(1, 1, 0, "GET /cart", ZERO)]).await;
    scene.derive().await;
    assert_eq!(
        scene.row("SELECT (service_name, root_name, span_count, root_seen, services) FROM otel_traces").await,
        "(shop,\"GET /cart\",2,t,\"{cart,shop}\")"
    );
    assert_eq!(scene.row("SELECT bucket FROM otel_traces").await, bucket);
    assert_eq!(scene.row("SELECT seen_from = start_time FROM otel_traces").await, "true");
    assert_eq!(scene.bench.count("otel_trace_texts").await, 1, "the former text's link is gone");
    assert_eq!(scene.bench.count("otel_trace_touches").await, 0);
    assert_eq!(scene.derive().await.traces, 0, "nothing is left to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_error_logs_are_counted_and_told() {
    let scene = Scene::new().await;
    scene.spans("shop", vec![span(1, 1, 0, "GET /cart", ZERO)]).await;
    scene.derive().await;
    scene.logs("shop", vec![log(1, ERROR, "stock 17 is gone", ZERO), log(1, 9, "fine", ZERO)]).await;
    scene.derive().await;
    assert_eq!(
        scene.row("SELECT (log_count, status, error_message) FROM otel_traces").await,
        "(1,unset,\"stock 17 is gone\")"
    );
    assert_eq!(
        scene.row("SELECT text FROM traces").await,
        "shop reports an error: stock # is gone. Request shop GET /cart."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_is_telling_however_the_log_says_so() {
    let scene = Scene::new().await;
    let quiet = |body: &str| log(1, 9, body, ZERO);
    let mut event = quiet("by its event");
    event.event_name = "exception".to_owned();
    let mut of_type = quiet("by its type");
    of_type.attributes = vec![text("exception.type", "Bang")];
    let mut of_message = quiet("by its message");
    of_message.attributes = vec![text("exception.message", "boom")];
    scene.spans("shop", vec![span(1, 1, 0, "GET /cart", ZERO)]).await;
    scene.logs("shop", vec![event, of_type, of_message, quiet("not telling")]).await;
    scene.derive().await;
    assert_eq!(scene.row("SELECT log_count FROM otel_traces").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_came_hours_before_the_spans_are_found() {
    let scene = Scene::new().await;
    scene.logs("queue", vec![log(1, ERROR, "first try failed", ZERO)]).await;
    scene.logs("queue", vec![log(1, ERROR, "second try failed", Duration::from_mins(1))]).await;
    let derived = scene.derive().await;
    assert_eq!((derived.traces, derived.log_only), (0, 1));
    assert_eq!(scene.bench.count("otel_traces").await, 0, "no trace without a span");
    assert_eq!(scene.bench.count("otel_trace_touches").await, 0);

    scene.spans("worker", vec![span(1, 1, 0, "job", Duration::from_mins(150))]).await;
    scene.derive().await;
    assert_eq!(scene.row("SELECT (log_count, span_count) FROM otel_traces").await, "(2,1)");
    assert_eq!(scene.bench.count("otel_trace_orphans").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cause_of_a_failure_stands_in_the_row() {
    let scene = Scene::new().await;
    let root = failed(span(1, 1, 0, "POST /checkout", ZERO), "payment failed", &[]);
    let call = failed(
        span(1, 2, 1, "POST", Duration::from_millis(1)),
        "connect ECONNREFUSED 10.0.0.7:8443",
        &[("error.type", "ConnectionError"), ("peer.service", "payment")],
    );
    scene.spans("frontend", vec![root, call]).await;
    scene.derive().await;
    assert_eq!(
        scene.row("SELECT (status, error_count, error_type, error_message) FROM otel_traces").await,
        "(error,2,ConnectionError,\"connect ECONNREFUSED 10.0.0.7:8443\")"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_across_midnight_has_one_row() {
    let scene = Scene::new().await;
    let to_midnight = Duration::from_hours(12);
    scene.spans("a", vec![span(1, 2, 1, "after", to_midnight + Duration::from_millis(50))]).await;
    scene.derive().await;
    scene.spans("a", vec![span(1, 1, 0, "before", Duration::from_millis(12 * 3_600_000 - 50))]).await;
    scene.derive().await;
    scene.spans("a", vec![span(1, 3, 1, "next day", to_midnight + Duration::from_hours(24))]).await;
    scene.derive().await;
    assert_eq!(scene.row("SELECT array_agg((span_count, root_name)) FROM otel_traces").await, "{\"(3,before)\"}");
    assert_eq!(scene.row("SELECT start_time < bucket FROM otel_traces").await, "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_at_the_edges_are_derived() {
    let scene = Scene::new().await;
    let mut never = span(1, 1, 0, "no times", ZERO);
    (never.start_time_unix_nano, never.end_time_unix_nano) = (0, 0);
    let mut last = span(2, 1, 0, "the end of time", ZERO);
    (last.start_time_unix_nano, last.end_time_unix_nano) = (u64::MAX - 1, u64::MAX);
    let mut all = span(3, 1, 0, "all of time", ZERO);
    (all.start_time_unix_nano, all.end_time_unix_nano) = (1, u64::MAX);
    scene.spans("edge", vec![never, last, all]).await;
    assert_eq!(scene.derive().await.traces, 3);
    assert_eq!(
        scene.row("SELECT array_agg(duration_ns ORDER BY trace_id) FROM otel_traces").await,
        format!("{{0,1,{}}}", i64::MAX)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_quiet_traces_are_due() {
    let scene = Scene::new().await;
    scene.spans("a", vec![span(1, 1, 0, "root", ZERO)]).await;
    scene.spans("a", vec![span(2, 2, 9, "no root yet", ZERO)]).await;
    let client = scene.bench.test.client().await;
    assert_eq!(scene.deriver.derive_due().await.unwrap().traces, 0, "both were touched just now");
    client.batch_execute("UPDATE otel_trace_touches SET touched_at = touched_at - interval '3 seconds'").await.unwrap();
    assert_eq!(scene.deriver.derive_due().await.unwrap().traces, 1, "the one with a root");
    client.batch_execute("UPDATE otel_trace_touches SET touched_at = touched_at - interval '8 seconds'").await.unwrap();
    assert_eq!(scene.deriver.derive_due().await.unwrap().traces, 1, "the other one too");
}

/// What every trace of these tests must have come to: 3 spans, 1 log, one row, one link to its text, no touch left.
async fn assert_whole(scene: &Scene, traces: i64) {
    assert_eq!(scene.bench.count("otel_traces").await, traces);
    assert_eq!(
        scene
            .bench
            .count("otel_traces WHERE span_count = 3 AND log_count = 1 AND root_seen AND root_name = 'root'")
            .await,
        traces
    );
    assert_eq!(scene.bench.count("otel_trace_keys").await, traces);
    assert_eq!(
        scene
            .bench
            .count("otel_trace_texts l JOIN otel_traces t USING (trace_id, bucket) WHERE t.text_ids = ARRAY[l.text_id]")
            .await,
        traces
    );
    assert_eq!(scene.bench.count("otel_trace_texts").await, traces);
    assert_eq!(scene.bench.count("otel_trace_touches").await, 0);
    assert_eq!(scene.bench.count("otel_trace_orphans").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_half_of_each_trace_agree() {
    const TRACES: u64 = 200;
    let scene = Scene::new().await;
    let other = Deriver::new(Database::new(scene.bench.test.url()).unwrap(), DeriveOptions::default());
    let first_half = async {
        for trace in 0..TRACES {
            scene.spans("a", vec![span(trace, 1, 0, "root", ZERO), span(trace, 2, 1, "mine", ZERO)]).await;
            if trace % 10 == 0 {
                scene.derive().await;
            }
        }
        scene.derive().await;
    };
    let second_half = async {
        for trace in (0..TRACES).rev() {
            scene.logs("b", vec![log(trace, ERROR, "it broke", ZERO)]).await;
            scene.spans("b", vec![span(trace, 3, 1, "theirs", ZERO)]).await;
            if trace % 10 == 0 {
                other.derive_all_now().await.unwrap();
            }
        }
        other.derive_all_now().await.unwrap();
    };
    tokio::join!(first_half, second_half);
    scene.derive().await;
    assert_whole(&scene, TRACES as i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derivation_cut_off_anywhere_is_repeated() {
    const TRACES: u64 = 300;
    let scene = Scene::new().await;
    for trace in 0..TRACES {
        scene
            .spans(
                "a",
                vec![span(trace, 1, 0, "root", ZERO), span(trace, 2, 1, "x", ZERO), span(trace, 3, 1, "y", ZERO)],
            )
            .await;
        scene.logs("a", vec![log(trace, ERROR, "it broke", ZERO)]).await;
    }
    // Small batches, so that there are many places to be cut off at.
    let options = DeriveOptions { batch_traces: 5, ..DeriveOptions::default() };
    let victim = Deriver::new(
        Database::new(&format!(
            "{}{}application_name=victim",
            scene.bench.test.url(),
            if scene.bench.test.url().contains('?') { '&' } else { '?' }
        ))
        .unwrap(),
        options,
    );
    let killer = scene.bench.test.client().await;
    let mut cut_off = 0;
    for round in 0..40u64 {
        let killing = async {
            tokio::time::sleep(Duration::from_millis(round % 20)).await;
            killer
                .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim' AND datname = current_database()", &[])
                .await
                .unwrap()
        };
        let (result, _) = tokio::join!(victim.derive_all_now(), killing);
        cut_off += u32::from(result.is_err());
    }
    assert!(cut_off > 0, "no derivation was cut off, so this test showed nothing");
    scene.derive().await;
    assert_whole(&scene, TRACES as i64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_trace_in_trickles_is_read_a_bounded_number_of_times() {
    const SPANS: u64 = 100_000;
    const TRICKLE: u64 = 1_000;
    let scene = Scene::new().await;
    // Every trickle is followed by a look, and no quiet is asked for: the worst case for reading again and again.
    let options = DeriveOptions { quiet: ZERO, quiet_after_root: ZERO, ..DeriveOptions::default() };
    let eager = Deriver::new(scene.bench.store.clone(), options);
    let begun = Instant::now();
    let mut read = 0;
    let mut derivations = 0;
    for trickle in 0..SPANS / TRICKLE {
        let ids = trickle * TRICKLE + 1..=(trickle + 1) * TRICKLE;
        let spans = ids.map(|id| span(1, id, u64::from(id > 1), "step", Duration::from_millis(id * 100))).collect();
        scene.spans("agent", spans).await;
        let derived = eager.derive_due().await.unwrap();
        read += derived.spans_read;
        derivations += derived.traces;
    }
    let last = eager.derive_all_now().await.unwrap();
    read += last.spans_read;
    let bound = 9 * SPANS + u64::try_from(begun.elapsed().as_millis()).unwrap();
    assert!(read <= bound, "{read} spans were read in {derivations} derivations, {bound} are allowed");
    assert!(derivations < SPANS / TRICKLE, "every trickle was derived");
    assert_eq!(scene.row("SELECT (span_count, root_seen) FROM otel_traces").await, format!("({SPANS},t)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_traces_of_one_shape_share_a_text_and_a_vector() {
    let scene = Scene::new().await;
    let spans =
        (0..500).map(|trace| span(trace, 1, 0, &format!("GET /users/{trace}{trace}"), Duration::from_secs(trace)));
    scene.spans("users", spans.collect()).await;
    let derived = scene.derive().await;
    assert_eq!((derived.traces, derived.texts_new), (500, 1));
    assert_eq!(scene.embed().await.vectors, 1);
    assert_eq!(scene.embed().await.vectors, 0);
    assert_eq!(
        scene.bench.count("traces WHERE embedding IS NOT NULL AND embedding_model = 'all-MiniLM-L6-v2'").await,
        500
    );
    // More of the same needs no more.
    scene
        .bench
        .send(Signal::Traces, of_service("users", vec![span(9_999, 1, 0, "GET /users/77", ZERO)]))
        .await
        .unwrap();
    assert_eq!(scene.derive().await.texts_new, 0);
    assert_eq!(scene.bench.count("otel_embedding_work").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_larger_than_memory_allows_is_counted_whole_and_told_by_its_telling_spans() {
    const SPANS: u64 = 2_000;
    let scene = Scene::new().await;
    let step = |id: u64| span(1, id, u64::from(id > 1), "step", Duration::from_millis(id * 20));
    let mut spans: Vec<_> = (2..=SPANS).map(step).collect();
    // The root and the only failure lie in the middle of the time.
    spans.push(span(1, 1, 0, "the run", Duration::from_secs(20)));
    spans[1_000] = failed(spans[1_000].clone(), "the disk is full", &[]);
    scene.spans("agent", spans).await;
    let options = DeriveOptions { trace_spans: 100, ..DeriveOptions::default() };
    let derived = Deriver::new(scene.bench.store.clone(), options).derive_all_now().await.unwrap();
    assert_eq!((derived.traces, derived.spans_read), (1, SPANS));
    assert_eq!(
        scene.row("SELECT (span_count, error_count, root_seen, root_name, error_message) FROM otel_traces").await,
        format!("({SPANS},1,t,\"the run\",\"the disk is full\")")
    );
    assert_eq!(scene.row("SELECT duration_ns / 1000000 FROM otel_traces").await, "39970");
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_steps_are_read_up_to_a_number_of_bytes_the_first_and_the_last_before_others() {
    const STEPS: u64 = 24;
    let scene = Scene::new().await;
    for id in 2..2 + STEPS {
        let mut step = span(1, id, 1, "chat", Duration::from_secs(id));
        step.attributes = vec![
            text("gen_ai.operation.name", "chat"),
            text(
                "gen_ai.output.messages",
                &format!(
                    r#"[{{"role":"assistant","parts":[{{"type":"text","content":"I wrote chapter {}."}}]}}]"#,
                    char::from(b'A' + id as u8 - 2)
                ),
            ),
            text("a.page", &"x".repeat(1_000_000)),
        ];
        scene.spans("agent", vec![step]).await;
    }
    scene.spans("agent", vec![span(1, 1, 0, "run", ZERO)]).await;
    scene.spans("shop", vec![span(2, 1, 0, "GET /cart", ZERO)]).await;
    assert_eq!(scene.derive().await.traces, 2);
    let told = |letter: char| format!("otel_texts WHERE text LIKE '%chapter {letter}.%'");
    assert_eq!(scene.bench.count(&told('A')).await, 1, "the first");
    assert_eq!(scene.bench.count(&told(char::from(b'A' + STEPS as u8 - 1))).await, 1, "the last");
    assert_eq!(scene.bench.count(&told('L')).await, 0, "one in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_cannot_be_derived_is_set_aside_and_holds_up_no_other() {
    const TRACES: u64 = 100;
    const POISON: u64 = 40;
    let scene = Scene::new().await;
    let client = scene.bench.test.client().await;
    client.batch_execute("ALTER TABLE otel_traces ADD CONSTRAINT no CHECK (root_name <> 'poison')").await.unwrap();
    let name = |trace: u64| if trace == POISON { "poison" } else { "fine" };
    scene.spans("a", (0..TRACES).map(|trace| span(trace, 1, 0, name(trace), ZERO)).collect()).await;
    client.batch_execute("UPDATE otel_trace_touches SET touched_at = touched_at - interval '3 seconds'").await.unwrap();
    assert_eq!(scene.deriver.derive_due().await.unwrap().traces, TRACES - 1);
    assert_eq!(scene.derive().await.traces, 0, "it waits");
    assert_eq!(
        scene.row("SELECT array_agg((attempts, touched_at > clock_timestamp())) FROM otel_trace_touches").await,
        "{\"(1,t)\"}"
    );
    // What comes to it meanwhile is tried at once, and it waits longer.
    scene.spans("a", vec![span(POISON, 2, 1, "more", ZERO)]).await;
    assert_eq!(scene.derive().await.traces, 0);
    assert_eq!(scene.row("SELECT array_agg(attempts) FROM otel_trace_touches").await, "{2,2}");

    client.batch_execute("UPDATE otel_trace_touches SET touched_at = clock_timestamp(), attempts = 9").await.unwrap();
    assert_eq!(scene.derive().await.traces, 0);
    assert_eq!(scene.bench.count("otel_trace_touches").await, 0, "given up");
    client.batch_execute("ALTER TABLE otel_traces DROP CONSTRAINT no").await.unwrap();
    scene.spans("a", vec![span(POISON, 3, 1, "even more", ZERO)]).await;
    assert_eq!(scene.derive().await.traces, 1);
    assert_eq!(scene.row("SELECT span_count FROM otel_traces WHERE root_name = 'poison'").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_one_slot_leaves_the_others_alone() {
    let scene = Scene::new().await;
    let client = scene.bench.test.client().await;
    // Ids 0 and 1 lie in slots 1 and 2. The trigger's SQLSTATE says nothing about the values.
    client
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               RAISE EXCEPTION 'not now' USING ERRCODE = 'XX000'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON otel_trace_keys FOR EACH ROW
               WHEN (right(new.trace_id::text, 1) = '1') EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    scene.spans("a", vec![span(0, 1, 0, "root", ZERO), span(1, 1, 0, "root", ZERO)]).await;
    client.batch_execute("UPDATE otel_trace_touches SET touched_at = touched_at - interval '3 seconds'").await.unwrap();
    let error = scene.deriver.derive_due().await.expect_err("refused");
    assert!(error.to_string().contains("not now"), "{error}");
    assert_eq!(scene.bench.count("otel_traces").await, 1);
    assert_eq!(scene.bench.count("otel_trace_touches").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_piled_up_is_worked_off_in_chunks_and_nothing_is_passed_over() {
    const TRACES: u64 = 16 * 40;
    let scene = Scene::new().await;
    scene.spans("a", (0..TRACES).map(|trace| span(trace, 1, 0, "root", ZERO)).collect()).await;
    let client = scene.bench.test.client().await;
    // The first of every slot are not due and fill the first chunk.
    client
        .batch_execute(
            "UPDATE otel_trace_touches t SET touched_at = touched_at - interval '1 minute'
             FROM (SELECT trace_id, row_number() OVER (PARTITION BY slot ORDER BY trace_id) AS place
                   FROM otel_trace_touches) p
             WHERE p.trace_id = t.trace_id AND p.place > 12",
        )
        .await
        .unwrap();
    let options = DeriveOptions {
        batch_traces: 2,
        quiet_after_root: Duration::from_secs(30),
        quiet: Duration::from_secs(30),
        ..DeriveOptions::default()
    };
    let deriver = Deriver::new(scene.bench.store.clone(), options);
    assert_eq!(deriver.derive_due().await.unwrap().traces, TRACES - 16 * 12);
    assert_eq!(deriver.derive_all_now().await.unwrap().traces, 16 * 12);
    assert_eq!(scene.bench.count("otel_traces").await, TRACES as i64);
}
