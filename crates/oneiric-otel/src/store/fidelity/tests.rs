use oneiric_otel_testkit::arbitrary;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use proptest::prelude::*;

use super::keys::{rank, rank_bytes, unrank};
use super::{Reader, Writer};
use crate::store::tree::Tree;

fn entry(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

fn hints_of(attributes: &[KeyValue]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.attributes(attributes);
    writer.hints().to_vec()
}

#[test]
fn plain_attributes_in_jsonb_order_need_no_hints() {
    let attributes = [
        entry("a", Value::IntValue(1)),
        entry("b", Value::DoubleValue(1.0)),
        entry("cc", Value::StringValue("text".to_owned())),
        entry("dd", Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(Value::BoolValue(true)) }] })),
        entry("eee", Value::KvlistValue(KeyValueList { values: vec![entry("x", Value::DoubleValue(0.1))] })),
    ];
    assert_eq!(hints_of(&attributes), Vec::<u8>::new());
}

#[test]
fn another_order_of_eleven_keys_costs_five_bytes() {
    let attributes: Vec<KeyValue> = (0..11).rev().map(|i| entry(&format!("key{i:02}"), Value::IntValue(i))).collect();
    assert_eq!(hints_of(&attributes).len(), 5);
}

#[test]
fn natural_form_is_what_people_query() {
    let attributes = [
        entry("b", Value::BytesValue(vec![1, 2, 3])),
        entry("n", Value::DoubleValue(f64::NAN)),
        entry("z", Value::StringValue("a\0b\"\n\u{1}".to_owned())),
    ];
    let mut writer = Writer::default();
    writer.attributes(&attributes);
    let json = std::str::from_utf8(writer.json()).expect("JSON is UTF-8");
    assert_eq!(json, "{\"b\":\"AQID\",\"n\":\"NaN\",\"z\":\"a\u{fffd}b\\\"\\n\\u0001\"}");
}

#[test]
fn hints_that_do_not_fit_are_an_error_and_no_panic() {
    let attributes = [entry("b", Value::IntValue(1)), entry("a", Value::IntValue(2))];
    let hints = hints_of(&attributes);
    let other = Tree::parse("{\"a\": 1}").expect("JSON");
    // One key has no rank to read, so the payload is taken for further hints that match nothing.
    let read = Reader::new(&hints).expect("hints").attributes(other);
    assert!(read.is_err() || read.is_ok_and(|read| read.len() == 1));
    for byte in 0..=255 {
        for tail in [&[byte][..], &[byte, 0xff], &[byte, 3, 10, 1]] {
            if let Ok(mut reader) = Reader::new(tail) {
                drop(reader.attributes(Tree::parse("{\"a\": [1, {\"b\": null}], \"c\": \"x\"}").expect("JSON")));
            }
        }
    }
}

fn written(writer: &mut Writer, attributes: &[KeyValue]) -> (Vec<u8>, Vec<u8>) {
    writer.clear();
    writer.attributes(attributes);
    (writer.json().to_vec(), writer.hints().to_vec())
}

#[test]
fn keys_that_are_alike_are_not_taken_for_each_other() {
    let entries = |keys: &[&str]| keys.iter().map(|key| entry(key, Value::IntValue(1))).collect::<Vec<_>>();
    let nested = Value::KvlistValue(KeyValueList { values: entries(&["ab", "c"]) });
    let mut used = Writer::default();
    for attributes in [
        entries(&["ab", "c"]),
        entries(&["a", "bc"]),
        entries(&["bc", "a"]),
        entries(&["abc"]),
        entries(&["a\0", "b"]),
        entries(&["", "abc"]),
        entries(&["abc", ""]),
        vec![entry("ab", nested), entry("c", Value::IntValue(2))],
        entries(&["ab", "c"]),
    ] {
        assert_eq!(written(&mut used, &attributes), written(&mut Writer::default(), &attributes), "{attributes:?}");
    }
}

#[test]
fn ranks_need_the_bytes_that_factorials_say() {
    assert_eq!([0, 1, 2, 5, 6, 8, 9, 11, 20].map(rank_bytes), [0, 0, 1, 1, 2, 2, 3, 4, 8]);
}

proptest! {
    #[test]
    fn every_permutation_has_a_rank(order in (0usize..21).prop_flat_map(|n| Just((0..n as u32).collect::<Vec<_>>()).prop_shuffle())) {
        prop_assert_eq!(unrank(rank(&order), order.len()), order);
    }

    #[test]
    fn what_was_written_before_changes_nothing(lists in proptest::collection::vec(arbitrary::attributes(), 1..12)) {
        let mut used = Writer::default();
        for attributes in lists {
            prop_assert_eq!(written(&mut used, &attributes), written(&mut Writer::default(), &attributes));
        }
    }
}
