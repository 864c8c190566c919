use oneiric_otel_testkit::arbitrary;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::otlp::canonical;

/// The decoder reads the same, to the bit.
fn assert_same(bytes: &[u8], view: &SpanView<'_>) {
    let decoded = Span::decode(bytes).expect("what is read in place can be decoded");
    assert_eq!(canonical::bytes(view), canonical::bytes(&decoded), "{decoded:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_read_in_place_is_what_the_decoder_reads(
        span in arbitrary::span(),
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::weighted(0.1, any::<Index>()),
    ) {
        let mut bytes = span.encode_to_vec();
        let length = bytes.len();
        if length > 0 {
            for (at, byte) in &changes {
                bytes[at.index(length)] = *byte;
            }
            bytes.truncate(cut.map_or(length, |cut| cut.index(length)));
        }
        if let Some(view) = super::span(&bytes) {
            assert_same(&bytes, &view);
        }
    }

    #[test]
    fn spans_in_which_nothing_is_odd_are_read_in_place(span in arbitrary::valid_span()) {
        let bytes = span.encode_to_vec();
        let view = super::span(&bytes);
        prop_assert!(view.is_some());
        if let Some(view) = &view {
            assert_same(&bytes, view);
        }
    }
}

fn attributes(value: any_value::Value) -> Vec<u8> {
    let value = Some(AnyValue { value: Some(value) });
    let attribute = KeyValue { key: "k".to_owned(), value, key_strindex: 0 };
    Span { attributes: vec![attribute], ..Span::default() }.encode_to_vec()
}

#[test]
fn what_is_odd_is_left_to_the_decoder() {
    let named = Span { name: "n".to_owned(), ..Span::default() }.encode_to_vec();
    let failed = Span { status: Some(Status { message: "m".to_owned(), code: 2 }), ..Span::default() }.encode_to_vec();
    let text = any_value::Value::StringValue;
    let two_values = [0x4a, 7, 0x12, 5, 0x10, 1, 0x0a, 1, b'x'];
    for (why, bytes) in [
        ("a second name replaces the first", [named.as_slice(), &named].concat()),
        ("a second status is merged with the first", [failed.as_slice(), &failed].concat()),
        ("a later version may have the field", [named.as_slice(), &[0x88, 1, 1]].concat()),
        ("a field beyond the bits that are kept", [named.as_slice(), &[0xc8, 3, 1]].concat()),
        ("a group", vec![0x0b, 0x0c]),
        ("a number in the place of a text", vec![0x28, 1]),
        ("not UTF-8", vec![0x2a, 1, 0xff]),
        ("cut off", vec![0x2a, 2, b'x']),
        ("a value of two kinds", two_values.to_vec()),
        ("a value not in UTF-8", vec![0x4a, 5, 0x12, 3, 0x0a, 1, 0xff]),
    ] {
        assert!(super::span(&bytes).is_none(), "{why}");
    }
    assert!(super::span(&attributes(text("x".to_owned()))).is_some());
    let nested = |depth| {
        let array = |inner| any_value::Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(inner) }] });
        attributes((0..depth).fold(text("x".to_owned()), |inner, _| array(inner)))
    };
    assert_same(&nested(5), &super::span(&nested(5)).expect("five arrays in each other"));
    assert!(super::span(&nested(40)).is_none());
}
