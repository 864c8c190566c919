use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const DAY_NS: u64 = 1_795_176_000_000_000_000;

/// A span of an internal operation, from and to in milliseconds.
fn span(id: u64, parent: u64, name: &str, from: u64, to: u64) -> SpanFact {
    SpanFact {
        start_ns: DAY_NS + from * MS,
        duration_ns: (to - from) * MS,
        hash: id.cast_signed(),
        id: id.to_be_bytes(),
        parent: (parent != 0).then_some(parent.to_be_bytes()),
        service: "shop".into(),
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

fn of(span: SpanFact, service: &str, kind: &str) -> SpanFact {
    SpanFact { service: service.into(), kind: kind.into(), ..span }
}

/// `name from-to` of each step, in milliseconds.
fn path(spans: &[SpanFact]) -> String {
    let mut spans = spans.to_vec();
    spans.sort_by_key(|span| (span.start_ns, span.hash));
    let path = critical_path(&spans).expect("there are spans");
    let step =
        |step: &PathStep| format!("{} {}-{}", step.name, step.offset_ns / MS, (step.offset_ns + step.self_ns) / MS);
    path.steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

#[test]
fn children_one_after_the_other_with_time_of_their_own_between() {
    let spans = [span(1, 0, "root", 0, 100), span(2, 1, "a", 10, 40), span(3, 1, "b", 50, 90), span(4, 3, "c", 60, 70)];
    assert_eq!(path(&spans), "root 0-10, a 10-40, root 40-50, b 50-60, c 60-70, b 70-90, root 90-100");
    assert_eq!(path(&[span(1, 0, "alone", 0, 5)]), "alone 0-5");
    assert!(critical_path(&[]).is_none());
}

#[test]
fn of_children_at_the_same_time_the_one_that_ended_last_counts() {
    let spans = [span(1, 0, "root", 0, 100), span(2, 1, "short", 10, 60), span(3, 1, "long", 10, 90)];
    assert_eq!(path(&spans), "root 0-10, long 10-90, root 90-100");
    // One that overlaps the next did not hold it up, one before it did.
    let spans = [
        span(1, 0, "root", 0, 100),
        span(2, 1, "first", 0, 30),
        span(3, 1, "overlaps", 20, 60),
        span(4, 1, "last", 40, 100),
    ];
    assert_eq!(path(&spans), "first 0-30, root 30-40, last 40-100");
}

#[test]
fn what_nobody_waited_for_is_not_on_the_path() {
    let consumer = of(span(2, 1, "mail", 20, 30), "mailer", "consumer");
    assert_eq!(path(&[span(1, 0, "root", 0, 100), consumer]), "root 0-100");
    let publish = of(span(2, 1, "publish", 20, 30), "shop", "producer");
    let handled = of(span(3, 2, "handle", 25, 29), "mailer", "internal");
    assert_eq!(path(&[span(1, 0, "root", 0, 100), publish, handled]), "root 0-20, publish 20-30, root 30-100");
    let background = [span(1, 0, "root", 0, 100), span(2, 1, "job", 50, 5000), span(3, 1, "later", 200, 300)];
    assert_eq!(path(&background), "root 0-100");
    // Clocks are read one after the other.
    assert_eq!(path(&[span(1, 0, "root", 0, 1000), span(2, 1, "a", 500, 1005)]), "root 0-500, a 500-1000");
}

#[test]
fn a_server_whose_clock_is_wrong_is_moved_into_its_client() {
    for off in [0, 20_000, 60_000] {
        let spans = [
            span(1, 0, "root", 30_000, 30_100),
            of(span(2, 1, "call", 30_010, 30_090), "shop", "client"),
            of(span(3, 2, "serve", off, off + 60), "stock", "server"),
            of(span(4, 3, "query", off + 10, off + 50), "stock", "client"),
        ];
        let expected = "root 0-10, call 10-20, serve 20-30, query 30-70, serve 70-80, call 80-90, root 90-100";
        // In order of start the server may come first: its parent is there all the same.
        assert_eq!(path(&spans), expected, "{off}");
    }
}

#[test]
fn a_client_that_gave_up_waited_until_then() {
    let spans = [
        of(span(1, 0, "call", 0, 100), "shop", "client"),
        of(span(2, 1, "serve", 10, 5000), "stock", "server"),
        of(span(3, 2, "query", 20, 4000), "stock", "client"),
    ];
    assert_eq!(path(&spans), "call 0-10, serve 10-20, query 20-100");
}

#[test]
fn spans_without_their_parent_hang_below_the_root() {
    let spans = [span(1, 0, "root", 0, 100), span(3, 77, "lost", 20, 80), span(4, 3, "below", 30, 40)];
    assert_eq!(path(&spans), "root 0-20, lost 20-30, below 30-40, lost 40-80, root 80-100");
    // Without any root the earliest top is one.
    assert_eq!(path(&[span(3, 77, "top", 0, 50), span(4, 78, "other", 10, 20)]), "top 0-10, other 10-20, top 20-50");
}

#[test]
fn times_that_cannot_be_are_survived() {
    let mut backwards = span(2, 1, "backwards", 50, 50);
    backwards.duration_ns = 0u64.wrapping_sub(10 * MS);
    let mut timeless = span(3, 1, "timeless", 0, 0);
    timeless.start_ns = 0;
    let mut endless = span(4, 1, "endless", 20, 20);
    endless.duration_ns = u64::MAX - endless.start_ns;
    let loops = [span(5, 6, "a", 10, 20), span(6, 5, "b", 10, 20)];
    let mut spans = vec![span(1, 0, "root", 0, 100), backwards, timeless, endless];
    spans.extend(loops.clone());
    assert_eq!(path(&spans), "root 0-100");
    assert!(path(&loops).starts_with("a 0-") || path(&loops).starts_with("b 0-"));
    assert_eq!(path(&[span(1, 1, "own parent", 0, 3)]), "own parent 0-3");
}

#[test]
fn time_is_summed_by_operation() {
    let spans = [span(1, 0, "root", 0, 100), span(2, 1, "query", 0, 30), span(3, 1, "query", 30, 80)];
    let path = critical_path(&spans).expect("spans");
    assert_eq!((path.total_ns, path.clocks_corrected, path.steps_cut), (100 * MS, 0, false));
    let query = &path.operations[0];
    assert_eq!((query.name.as_str(), query.self_ns, query.spans), ("query", 80 * MS, 2));
    assert!((query.share - 0.8).abs() < 1e-9);
}

#[test]
fn huge_traces_of_any_shape_are_done_at_once() {
    const SPANS: u64 = 50_000;
    let chain = (1..=SPANS).map(|id| span(id, id - 1, "deep", id, 2 * SPANS - id)).collect::<Vec<_>>();
    let mut wide = vec![span(1, 0, "root", 0, SPANS)];
    wide.extend((2..=SPANS).map(|id| span(id, 1, "wide", id - 1, id)));
    let mut lost = vec![span(1, 0, "root", 0, SPANS)];
    lost.extend((2..=SPANS).map(|id| span(id, SPANS + id, "lost", id - 1, id)));
    let overlapping = (1..=SPANS).map(|id| span(id, id / 2, "same time", 0, 1000)).collect::<Vec<_>>();
    for spans in [chain, wide, lost, overlapping] {
        let path = critical_path(&spans).expect("spans");
        assert_eq!(path.total_ns, spans[0].duration_ns);
        assert!(path.steps.len() <= MAX_STEPS);
    }
}

proptest! {
    #[test]
    fn the_steps_cover_the_root_once(
        times in proptest::collection::vec((0u64..200, 0u64..100, 0usize..40, 0usize..5, 0usize..3), 1..40)
    ) {
        let kinds = ["internal", "client", "server", "producer", "consumer"];
        let services = ["a", "b", "c"];
        let mut spans: Vec<SpanFact> = (0..).zip(&times).map(|(index, (from, length, parent, kind, service))| {
            let parent = if index == 0 { 0 } else { *parent as u64 + 1 };
            of(span(index + 1, parent, "op", *from, from + length), services[*service], kinds[*kind])
        }).collect();
        let root = spans[0].clone();
        spans.sort_by_key(|span| (span.start_ns, span.hash));
        let place = spans.iter().position(|span| span.id == root.id).expect("the root");
        let (parts, _) = segments(&spans, place);
        let mut at = i128::from(root.start_ns);
        for part in &parts {
            prop_assert_eq!(part.from, at);
            prop_assert!(part.to > part.from);
            at = part.to;
        }
        prop_assert_eq!(at, i128::from(root.end_ns()));
    }
}
