use proptest::prelude::*;

use super::structure::MAX_PATH;
use super::*;

const MS: u64 = 1_000_000;
const A: TraceId = TraceId([1; 16]);
const B: TraceId = TraceId([2; 16]);

fn span(id: u8, parent: u8, service: &str, name: &str, ms: u64) -> DiffSpan {
    DiffSpan {
        id: vec![id; 8],
        parent: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        service: service.to_owned(),
        name: name.to_owned(),
        duration_ns: ms * MS,
        ..DiffSpan::default()
    }
}

fn failed(span: DiffSpan, error_type: &str, message: &str) -> DiffSpan {
    let (error_type, error_message) = (Some(error_type.to_owned()), Some(message.to_owned()));
    DiffSpan { failed: true, error_type, error_message, ..span }
}

fn with(mut span: DiffSpan, attributes: &[(&str, &str)]) -> DiffSpan {
    span.attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    span
}

fn shop() -> Vec<DiffSpan> {
    vec![
        span(1, 0, "shop", "GET /", 100),
        with(span(2, 1, "stock", "reserve", 60), &[("http.route", "/reserve"), ("thread.id", "7")]),
        failed(span(3, 2, "stock", "SELECT", 50), "Timeout", "no answer from 10.0.0.7:5432 in 50ms"),
    ]
}

#[test]
fn a_trace_agrees_with_itself_and_with_its_like() {
    let mut like = shop();
    // Other ids, another order, other numbers in the message, a little slower.
    for span in &mut like {
        span.id[0] += 100;
        if !span.parent.is_empty() {
            span.parent[0] += 100;
        }
        span.duration_ns += MS;
    }
    like[2].error_message = Some("no answer from 10.0.0.9:5432 in 51ms".to_owned());
    like[1].attributes[1].1 = "8".to_owned();
    like.reverse();
    let diff = diff(A, &shop(), B, &like);
    assert_eq!(diff.differ, Vec::<String>::new());
    let agree = [
        "services: shop, stock",
        "errors: stock SELECT: Timeout: no answer from # in #",
        "structure: the same calls in the same places",
        "durations: about the same",
        "attributes: the same values",
    ];
    assert_eq!(diff.agree, agree);
    assert!(diff.operations.iter().all(|operation| operation.same) && diff.structure.is_empty());
    assert!((diff.same_structure - 1.0).abs() < 1e-9 && diff.notes.is_empty());
    assert_eq!((diff.a.span_count, diff.a.error_count, diff.a.duration_ns), (3, 1, 100 * MS));
}

#[test]
fn every_part_that_differs_is_named() {
    let other = vec![
        span(1, 0, "shop", "GET /", 100),
        with(span(2, 1, "stock", "reserve", 200), &[("http.route", "/reserve"), ("retry", "1")]),
        span(3, 2, "stock", "SELECT", 50),
        span(4, 2, "stock", "SELECT", 50),
        failed(span(5, 1, "cache", "GET", 1), "Refused", "connection refused"),
    ];
    let diff = diff(A, &shop(), B, &other);
    assert_eq!(diff.services.both, ["shop", "stock"]);
    assert_eq!(diff.services.only_b, ["cache"]);
    let select = diff.operations.iter().find(|operation| operation.name == "SELECT").expect("in both");
    assert_eq!((select.a.count, select.b.count, select.a.errors, select.b.errors, select.same), (1, 2, 1, 0, false));
    assert_eq!(
        diff.operations.last().map(|operation| operation.name.as_str()),
        Some("GET /"),
        "what agrees comes last"
    );
    assert_eq!(diff.errors.len(), 2);
    assert_eq!(diff.attributes.len(), 1);
    assert_eq!((diff.attributes[0].key.as_str(), &diff.attributes[0].values_b[..]), ("retry", &["1".to_owned()][..]));
    let paths: Vec<String> = diff.structure.iter().map(|path| path.path.join(" > ")).collect();
    assert_eq!(paths, ["shop GET / > cache GET", "shop GET / > stock reserve > stock SELECT"]);
    assert!((diff.same_structure - 0.75).abs() < 1e-9);
    let differ = [
        "services: 2 in both; only b: cache",
        "errors only in a: stock SELECT: Timeout: no answer from # in #",
        "errors only in b: cache GET: Refused: connection refused",
        "structure: 75 % of the spans are at the same place in both",
        "durations: stock reserve took 60.0 ms in a, 200.0 ms in b",
        "attributes with other values: retry",
    ];
    // The two queries together took twice as long as the one.
    let mut differ = differ.map(str::to_owned).to_vec();
    differ[4] =
        "durations: stock SELECT took 50.0 ms in a, 100.0 ms in b, stock reserve took 60.0 ms in a, 200.0 ms in b"
            .to_owned();
    assert_eq!(diff.differ, differ);
}

#[test]
fn the_same_operation_in_another_place_is_another_structure() {
    let below_root = vec![span(1, 0, "s", "a", 1), span(2, 1, "s", "b", 1), span(3, 1, "s", "c", 1)];
    let below_b = vec![span(1, 0, "s", "a", 1), span(2, 1, "s", "b", 1), span(3, 2, "s", "c", 1)];
    let diff = diff(A, &below_root, B, &below_b);
    assert!(diff.operations.iter().all(|operation| operation.same));
    let paths: Vec<String> = diff.structure.iter().map(|path| path.path.join(">")).collect();
    assert_eq!(paths, ["s a>s c", "s a>s b>s c"]);
}

#[test]
fn long_lists_are_cut_and_that_is_said() {
    let many: Vec<DiffSpan> =
        (0..=250u8).map(|id| span(id, id.saturating_sub(1), "s", &format!("op {id}"), 1)).collect();
    let diff = diff(A, &many, B, &[]);
    assert_eq!((diff.operations.len(), diff.structure.len()), (MAX_ENTRIES, MAX_ENTRIES));
    assert_eq!(diff.notes[0], "only 200 of 251 operations are listed");
    assert!(diff.structure.iter().all(|path| path.path.len() <= MAX_PATH + 1));
    assert!(diff.same_structure.abs() < 1e-9);
}

#[test]
fn deep_traces_and_loops_are_compared_at_once() {
    let deep = |count: u32| -> Vec<DiffSpan> {
        let id = |number: u32| if number == 0 { Vec::new() } else { number.to_be_bytes().to_vec() };
        (1..=count)
            .map(|number| DiffSpan { id: id(number), parent: id(number - 1), ..span(0, 0, "s", "step", 1) })
            .collect()
    };
    let deeper = diff(A, &deep(30_000), B, &deep(30_001));
    assert_eq!(deeper.structure.len(), 1);
    let looped = vec![span(1, 2, "s", "a", 1), span(2, 1, "s", "b", 1), span(3, 3, "s", "c", 1)];
    let diff = diff(A, &looped, B, &looped);
    assert!(diff.structure.is_empty() && diff.differ.is_empty());
}

proptest! {
    #[test]
    fn it_does_not_matter_which_comes_first_or_in_which_order(
        a in proptest::collection::vec((0u8..9, 0u8..9, 0usize..3, 0u64..5, any::<bool>()), 0..9),
        b in proptest::collection::vec((0u8..9, 0u8..9, 0usize..3, 0u64..5, any::<bool>()), 0..9),
    ) {
        let spans = |list: Vec<(u8, u8, usize, u64, bool)>| -> Vec<DiffSpan> {
            (1..).zip(list).map(|(id, (_, parent, name, ms, fails))| {
                // Parents that come before, so that every order has the same tree.
                let span = span(id, parent % id, "s", ["x", "y", "z"][name], ms);
                if fails { failed(span, "E", "e") } else { span }
            }).collect()
        };
        let (a, b) = (spans(a), spans(b));
        let forth = diff(A, &a, B, &b);
        let mut shuffled = a.clone();
        shuffled.reverse();
        prop_assert_eq!(&diff(A, &shuffled, B, &b), &forth);
        let back = diff(B, &b, A, &a);
        prop_assert_eq!((&back.services.only_a, &back.services.only_b), (&forth.services.only_b, &forth.services.only_a));
        prop_assert!((back.same_structure - forth.same_structure).abs() < 1e-9);
        prop_assert_eq!(back.structure.len(), forth.structure.len());
        prop_assert!(diff(A, &a, A, &a).differ.is_empty());
        let json = serde_json::to_string(&forth);
        prop_assert!(json.is_ok());
    }
}
