use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

/// A span that took 10 ms.
fn span(id: u8, parent: u8, service: &str, name: &str, start_ms: u64) -> SpanFact {
    SpanFact {
        start_ns: 1_700_000_000_000_000_000 + start_ms * MS,
        duration_ns: 10 * MS,
        hash: i64::from(id),
        id: [id; 8],
        parent: (parent != 0).then_some([parent; 8]),
        service: service.into(),
        name: name.into(),
        kind: "internal".into(),
        status: "unset".into(),
        http_status: None,
        agent: false,
        error_type: None,
        error_message: None,
        status_message: None,
    }
}

fn failed(mut span: SpanFact, message: &str) -> SpanFact {
    span.status = "error".into();
    span.status_message = Some(message.to_owned());
    span
}

fn summary(spans: &[SpanFact], logs: &[LogFact]) -> TraceSummary {
    summarise(&Totals::of(spans), spans, logs, &outline(spans).expect("there are spans"))
}

#[test]
fn an_ordinary_trace() {
    let mut root = span(1, 0, "shop", "GET /", 0);
    root.duration_ns = 50 * MS;
    let spans = [root, span(2, 1, "cart", "load", 5), span(3, 2, "cart", "SELECT", 6)];
    let summary = summary(&spans, &[]);
    assert_eq!(summary.service_name, "shop");
    assert_eq!(summary.root_name, "GET /");
    assert_eq!(summary.services, ["cart", "shop"]);
    assert_eq!((summary.span_count, summary.error_count, summary.status), (3, 0, "unset"));
    assert_eq!(summary.duration_ns, 50 * 1_000_000);
    assert!(summary.root_seen);
}

#[test]
fn the_order_of_arrival_does_not_matter_for_the_root() {
    let spans = [span(2, 1, "b", "late", 5), span(1, 0, "a", "root", 9)];
    assert_eq!(outline(&spans).expect("spans").root, 1);
    let missing = [span(3, 2, "c", "below", 1), span(2, 9, "b", "top", 4)];
    assert_eq!(outline(&missing).expect("spans").root, 1);
    assert!(!summary(&missing, &[]).root_seen);
}

#[test]
fn the_cause_is_the_deepest_failure_handed_up() {
    let spans = [
        failed(span(1, 0, "web", "GET", 0), "502"),
        failed(span(2, 1, "api", "call", 1), "upstream"),
        failed(span(3, 2, "db", "query", 2), "connection refused"),
        // Deeper, but its failure was dealt with: the span above it did not fail.
        span(4, 1, "api", "warm up", 3),
        span(5, 4, "cache", "get", 4),
        failed(span(6, 5, "cache", "lookup", 5), "miss"),
    ];
    assert_eq!(outline(&spans).expect("spans").cause, Some(2));
    assert_eq!(summary(&spans, &[]).error_message.as_deref(), Some("connection refused"));
}

#[test]
fn the_first_of_equally_deep_failures_is_the_cause() {
    let spans = [
        failed(span(1, 0, "web", "GET", 0), ""),
        failed(span(2, 1, "api", "second", 7), "b"),
        failed(span(3, 1, "api", "first", 2), "a"),
    ];
    assert_eq!(outline(&spans).expect("spans").cause, Some(2));
}

#[test]
fn error_logs_name_the_error_but_do_not_set_the_status() {
    let log = LogFact {
        time_ns: 1,
        service: "a".into(),
        severity: 17,
        body: "it broke".to_owned(),
        exception_type: None,
        exception_message: None,
    };
    let summary = summary(&[span(1, 0, "a", "root", 0)], &[log]);
    assert_eq!(summary.status, "unset");
    assert_eq!(summary.error_message.as_deref(), Some("it broke"));
}

#[test]
fn where_the_time_went() {
    let mut root = span(1, 0, "web", "GET", 0);
    root.duration_ns = 1000 * MS;
    let mut slow = span(2, 1, "stock", "reserve", 1);
    slow.duration_ns = 950 * MS;
    let spans = [root, slow, span(3, 1, "cart", "load", 2)];
    assert_eq!(outline(&spans).expect("spans").slowest, Some(Slowest { span: 1, callee: None }));
}

#[test]
fn a_wrapper_beside_the_work_took_no_time_of_its_own() {
    let lasting = |span: SpanFact, ms: u64| SpanFact { duration_ns: ms * MS, ..span };
    let spans = [
        lasting(span(1, 0, "gateway", "/*", 0), 1000),
        lasting(span(2, 1, "gateway", "handle", 0), 1000),
        lasting(span(3, 1, "gateway", "HTTP GET", 1), 990),
        lasting(span(4, 3, "route", "query", 600), 100),
    ];
    assert_eq!(outline(&spans).expect("spans").slowest, Some(Slowest { span: 2, callee: Some(3) }));
}

#[test]
fn times_at_the_edges() {
    let mut zero = span(1, 0, "a", "no time at all", 0);
    zero.start_ns = 0;
    zero.duration_ns = 0;
    let known = span(2, 1, "a", "real", 0);
    assert_eq!(summary(&[zero.clone(), known.clone()], &[]).duration_ns, 10_000_000);
    let mut endless = span(3, 0, "a", "to the end", 0);
    endless.start_ns = 1;
    endless.duration_ns = u64::MAX - 1;
    assert_eq!(summary(&[endless], &[]).duration_ns, i64::MAX);
    let mut reversed = known;
    reversed.duration_ns = 5u64.wrapping_neg();
    assert_eq!(summary(&[reversed], &[]).duration_ns, 0);
    assert_eq!(summary(&[zero], &[]).start_ns, 0);
}

#[test]
fn no_spans_no_outline() {
    assert_eq!(outline(&[]), None);
}

#[test]
fn very_long_runs_keep_their_beginning_and_their_end() {
    let spans: Vec<SpanFact> = (0..500u64)
        .map(|place| SpanFact { agent: true, hash: place as i64, ..span(1, 0, "agent", "step", place) })
        .collect();
    let steps = outline(&spans).expect("spans").agent_steps;
    assert_eq!(steps.len(), AGENT_STEPS_FIRST + AGENT_STEPS_LAST);
    assert_eq!((steps[0], steps[AGENT_STEPS_FIRST], steps[steps.len() - 1]), (0, 428, 499));
}

fn any_span() -> impl Strategy<Value = SpanFact> {
    (any::<u64>(), any::<u64>(), 0u8..6, 0u8..6, prop::bool::ANY, prop::bool::ANY, any::<Option<String>>()).prop_map(
        |(start_ns, duration_ns, id, parent, fails, agent, message)| SpanFact {
            start_ns,
            duration_ns,
            agent,
            status: if fails { "error".into() } else { "unset".into() },
            error_message: message,
            ..span(id, parent, "s", "n", 0)
        },
    )
}

proptest! {
    /// Loops of parents, ids that repeat, any time: always an answer that holds together.
    #[test]
    fn any_spans_have_a_summary(spans in prop::collection::vec(any_span(), 1..30)) {
        let outline = outline(&spans).expect("there are spans");
        let summary = summarise(&Totals::of(&spans), &spans, &[], &outline);
        prop_assert!(outline.root < spans.len());
        prop_assert_eq!(outline.cause.is_some(), spans.iter().any(SpanFact::failed));
        prop_assert!(summary.start_ns <= summary.end_ns);
        prop_assert!(summary.duration_ns >= 0);
        prop_assert_eq!(summary.span_count as usize, spans.len());
    }

    #[test]
    fn cutting_keeps_whole_characters(text in any::<String>(), bytes in 0usize..20) {
        let cut = cut(&text, bytes);
        prop_assert!(cut.len() <= bytes && text.starts_with(&cut));
    }
}
