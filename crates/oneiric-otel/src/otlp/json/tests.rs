use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, Metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;

use super::*;

fn spans(json: &str) -> Decoded<Span> {
    decode(json.as_bytes()).unwrap()
}

/// A request whose one scope group has these elements.
fn request(records: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{records}]}}]}}]}}"#)
}

fn value(json: &str) -> Result<Option<Value>, String> {
    decode_message::<AnyValue>(json).map(|value| value.value)
}

#[test]
fn ids_are_hex_of_either_case_and_any_whole_number_of_bytes() {
    let span: Span =
        decode_message(r#"{"traceId":"5B8EFFf7","spanId":"","links":[{"traceId":"0A","spanId":"ff"}]}"#).unwrap();
    assert_eq!(span.trace_id, [0x5b, 0x8e, 0xff, 0xf7]);
    assert_eq!(span.links[0].trace_id, [0x0a]);
    assert_eq!(span.links[0].span_id, [0xff]);
    for (id, said) in [
        ("W47/95gDgQPSabYzgT/GDA==", "looks like base64; OTLP/JSON ids are hex"),
        ("W47_95gDgQPSabYzgT_GDA", "looks like base64; OTLP/JSON ids are hex"),
        ("7uGbfsPBsXM=", "looks like base64; OTLP/JSON ids are hex"),
        ("xyz", "odd number"),
        ("zz", "is not hex"),
    ] {
        let error = decode_message::<LogRecord>(&format!(r#"{{"traceId":"{id}"}}"#)).unwrap_err();
        assert!(error.starts_with("traceId: ") && error.contains(said), "{error}");
    }
}

#[test]
fn enums_are_numbers_known_or_not() {
    let span: Span = decode_message(r#"{"kind":77,"status":{"code":-3}}"#).unwrap();
    assert_eq!((span.kind, span.status.unwrap().code), (77, -3));
    for kind in [r#""SPAN_KIND_SERVER""#, r#""2""#] {
        let error = decode_message::<Span>(&format!(r#"{{"kind":{kind}}}"#)).unwrap_err();
        assert!(error.starts_with("kind: ") && error.contains("written as their number"), "{error}");
    }
    assert!(decode_message::<Span>(r#"{"kind":2147483648}"#).is_err());
}

#[test]
fn unknown_and_snake_case_keys_are_ignored() {
    let span: Span =
        decode_message(r#"{"trace_id":"00","name":"n","new":{"deep":[1,{"x":null}]},"start_time_unix_nano":"1"}"#)
            .unwrap();
    assert_eq!(span, Span { name: "n".to_owned(), ..Span::default() });
}

#[test]
fn integers_are_numbers_or_decimal_strings() {
    for (json, expected) in [
        ("18446744073709551615", u64::MAX),
        (r#""18446744073709551615""#, u64::MAX),
        ("0", 0),
        ("-0", 0),
        ("1.0", 1),
        ("1e3", 1000),
        (r#""1.5e1""#, 15),
        ("null", 0),
    ] {
        let span: Span = decode_message(&format!(r#"{{"startTimeUnixNano":{json}}}"#)).unwrap();
        assert_eq!(span.start_time_unix_nano, expected, "{json}");
    }
    for json in ["-1", "1.5", "18446744073709551616", r#""-1""#, r#""x""#, r#""""#, "true", "[]", r#""NaN""#] {
        let error = decode_message::<Span>(&format!(r#"{{"startTimeUnixNano":{json}}}"#)).unwrap_err();
        assert!(error.contains("decimal string"), "{json}: {error}");
    }
    assert_eq!(value(r#"{"intValue":"-9223372036854775808"}"#), Ok(Some(Value::IntValue(i64::MIN))));
    assert_eq!(value(r#"{"intValue":-9223372036854775808}"#), Ok(Some(Value::IntValue(i64::MIN))));
    assert!(value(r#"{"intValue":"9223372036854775808"}"#).is_err());
    let span: Span = decode_message(r#"{"flags":"257","droppedLinksCount":4294967295}"#).unwrap();
    assert_eq!((span.flags, span.dropped_links_count), (257, u32::MAX));
    assert!(decode_message::<Span>(r#"{"flags":4294967296}"#).is_err());
    let point: HistogramDataPoint =
        decode_message(r#"{"count":"3","bucketCounts":["1",2],"explicitBounds":["5",-0.0]}"#).unwrap();
    assert_eq!((point.count, point.bucket_counts), (3, vec![1, 2]));
    assert_eq!(point.explicit_bounds[1].to_bits(), (-0.0_f64).to_bits());
}

#[test]
fn doubles_are_numbers_or_strings() {
    for (json, expected) in [
        ("1", 1.0_f64),
        ("-0", -0.0),
        ("-0.0", -0.0),
        ("0.1", 0.1),
        (r#""0.1""#, 0.1),
        ("5e-324", 5e-324),
        ("1.7976931348623157e308", f64::MAX),
        (r#""Infinity""#, f64::INFINITY),
        (r#""-Infinity""#, f64::NEG_INFINITY),
        (r#""NaN""#, f64::NAN),
        ("18446744073709551615", 18_446_744_073_709_551_615.0),
    ] {
        let Ok(Some(Value::DoubleValue(found))) = value(&format!(r#"{{"doubleValue":{json}}}"#)) else {
            panic!("{json} is a double");
        };
        assert_eq!(found.to_bits(), expected.to_bits(), "{json}");
    }
    for json in [r#""inf""#, r#""nan""#, r#""1e999""#, "1e999", r#""""#, "true"] {
        assert!(value(&format!(r#"{{"doubleValue":{json}}}"#)).is_err(), "{json}");
    }
}

#[test]
fn bytes_are_base64_of_either_alphabet_padded_or_not() {
    for json in [r#""+/8=""#, r#""+/8""#, r#""-_8""#, r#""-_8=""#] {
        assert_eq!(value(&format!(r#"{{"bytesValue":{json}}}"#)), Ok(Some(Value::BytesValue(vec![0xfb, 0xff]))));
    }
    assert_eq!(value(r#"{"bytesValue":""}"#), Ok(Some(Value::BytesValue(Vec::new()))));
    assert!(value(r#"{"bytesValue":"***"}"#).unwrap_err().contains("bytes are base64"));
}

#[test]
fn every_kind_of_value_is_read_and_empty_is_not_absent() {
    assert_eq!(value("{}"), Ok(None));
    assert_eq!(value(r#"{"stringValue":null}"#), Ok(None));
    assert_eq!(value(r#"{"stringValue":"\u0000"}"#), Ok(Some(Value::StringValue("\0".to_owned()))));
    assert_eq!(value(r#"{"boolValue":false}"#), Ok(Some(Value::BoolValue(false))));
    assert_eq!(value(r#"{"stringValueStrindex":7}"#), Ok(Some(Value::StringValueStrindex(7))));
    assert_eq!(value(r#"{"arrayValue":{"values":null}}"#), Ok(Some(Value::ArrayValue(ArrayValue::default()))));
    let Ok(Some(Value::ArrayValue(mixed))) = value(r#"{"arrayValue":{"values":[{"intValue":1},{},null]}}"#) else {
        panic!("an array");
    };
    let kinds: Vec<Option<Value>> = mixed.values.into_iter().map(|value| value.value).collect();
    assert_eq!(kinds, [Some(Value::IntValue(1)), None, None]);
    let Ok(Some(Value::KvlistValue(list))) =
        value(r#"{"kvlistValue":{"values":[{"key":"k"},{"key":"k","value":{}}]}}"#)
    else {
        panic!("a map");
    };
    assert_eq!(list.values[0].value, None);
    assert_eq!(list.values[1].value, Some(AnyValue::default()));
}

#[test]
fn two_members_of_a_oneof_and_repeated_keys_are_refused() {
    let error = value(r#"{"stringValue":"a","intValue":"1"}"#).unwrap_err();
    assert!(error.contains("a second value, `intValue`"), "{error}");
    assert_eq!(value(r#"{"stringValue":null,"intValue":"1"}"#), Ok(Some(Value::IntValue(1))));
    let error = decode_message::<Metric>(r#"{"gauge":{},"sum":{}}"#).unwrap_err();
    assert!(error.contains("a second data, `sum`"), "{error}");
    let error = decode_message::<Span>(r#"{"name":"a","name":"b"}"#).unwrap_err();
    assert!(error.contains("duplicate field `name`"), "{error}");
}

#[test]
fn metrics_of_every_kind_are_read() {
    let kinds = [
        r#"{"gauge":{"dataPoints":[{"asInt":"-5","exemplars":[{"asDouble":1,"traceId":"0A","spanId":"0b"}]}]}}"#,
        r#"{"sum":{"dataPoints":[{"asDouble":"NaN"}],"aggregationTemporality":2,"isMonotonic":true}}"#,
        r#"{"histogram":{"dataPoints":[{"count":2,"sum":0,"min":null}],"aggregationTemporality":1}}"#,
        r#"{"exponentialHistogram":{"dataPoints":[{"scale":-3,"positive":{},"zeroThreshold":-0.0}]}}"#,
        r#"{"summary":{"dataPoints":[{"quantileValues":[{"quantile":0.5,"value":"Infinity"}]}]}}"#,
    ];
    let read: Vec<Data> = kinds.iter().map(|json| decode_message::<Metric>(json).unwrap().data.unwrap()).collect();
    let Data::Gauge(gauge) = &read[0] else { panic!("a gauge") };
    assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsInt(-5)));
    assert_eq!(gauge.data_points[0].exemplars[0].trace_id, [10]);
    let Data::Sum(sum) = &read[1] else { panic!("a sum") };
    assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
    let Data::Histogram(histogram) = &read[2] else { panic!("a histogram") };
    assert_eq!((histogram.data_points[0].sum, histogram.data_points[0].min), (Some(0.0), None));
    let Data::ExponentialHistogram(exponential) = &read[3] else { panic!("an exponential histogram") };
    let ExponentialHistogramDataPoint { scale, positive, negative, zero_threshold, .. } = &exponential.data_points[0];
    assert!(*scale == -3 && positive.is_some() && negative.is_none() && zero_threshold.is_sign_negative());
    let Data::Summary(summary) = &read[4] else { panic!("a summary") };
    assert_eq!(summary.data_points[0].quantile_values[0].value.to_bits(), f64::INFINITY.to_bits());
}

#[test]
fn one_bad_record_does_not_cost_its_neighbours_and_its_path_is_exact() {
    let deep = format!("{}{}", r#"{"arrayValue":{"values":["#.repeat(5000), r"]}}".repeat(5000));
    let bad = [
        r#"{"traceId":5}"#.to_owned(),
        r#"{"attributes":[{"key":"a"},{"key":"b","value":{"intValue":"x"}}]}"#.to_owned(),
        format!(r#"{{"attributes":[{{"key":"deep","value":{deep}}}]}}"#),
        "7".to_owned(),
        r#"{"name":"\ud800"}"#.to_owned(),
        "null".to_owned(),
    ];
    let records: Vec<String> = bad.iter().flat_map(|bad| [r#"{"name":"good"}"#.to_owned(), bad.clone()]).collect();
    let decoded = spans(&request(&records.join(",")));
    assert_eq!(decoded.groups[0].records.len(), bad.len());
    let paths: Vec<&str> = decoded.undecodable.iter().map(|lost| lost.path.as_str()).collect();
    assert_eq!(paths[0], "resourceSpans[0].scopeSpans[0].spans[1].traceId");
    assert_eq!(paths[1], "resourceSpans[0].scopeSpans[0].spans[3].attributes[1].value.intValue");
    assert!(decoded.undecodable[2].reason.contains("recursion limit"), "{:?}", decoded.undecodable[2]);
    assert_eq!(paths[3], "resourceSpans[0].scopeSpans[0].spans[7]");
    assert_eq!(decoded.undecodable[3].reason, "invalid type: integer `7`, expected Span as an object");
    assert_eq!(paths[4], "resourceSpans[0].scopeSpans[0].spans[9].name");
    assert_eq!(paths[5], "resourceSpans[0].scopeSpans[0].spans[11]");
    assert_eq!(decoded.undecodable.iter().map(|lost| lost.records).sum::<u64>(), bad.len() as u64);
}

#[test]
fn nesting_up_to_the_limit_is_read() {
    // Two levels for the attribute's list and object, one for the innermost value, three for each array around it.
    let levels = (128 - 4) / 3;
    let deep = format!("{}{{}}{}", r#"{"arrayValue":{"values":["#.repeat(levels), r"]}}".repeat(levels));
    let json = format!(r#"{{"attributes":[{{"value":{deep}}}]}}"#);
    let span: Span = decode_message(&json).unwrap();
    assert_eq!(String::from_utf8(encode_message(&span)).unwrap(), json);
}

#[test]
fn a_bad_resource_or_scope_loses_the_records_under_it_only() {
    let decoded: Decoded<Metric> = decode(
        br#"{"resourceMetrics":[
            {"schemaUrl":1,"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":[{},{}]}},{"sum":{"dataPoints":[{"asInt":"x"},1]}},{}]}]},
            {"resource":{"attributes":7},"scopeMetrics":[{"metrics":[3]}]},
            {"scopeMetrics":[{"scope":{"name":1},"metrics":[{"summary":{"dataPoints":[{}]}}]},{"metrics":[{"name":"kept"}]}]},
            {"resource":1}
        ]}"#,
    )
    .unwrap();
    let found: Vec<(&str, u64)> = decoded.undecodable.iter().map(|lost| (lost.path.as_str(), lost.records)).collect();
    assert_eq!(
        found,
        [
            ("resourceMetrics[0].schemaUrl", 4),
            ("resourceMetrics[1].resource.attributes", 1),
            ("resourceMetrics[2].scopeMetrics[0].scope.name", 1),
        ]
    );
    assert_eq!(decoded.groups.len(), 1);
    assert_eq!(decoded.groups[0].records[0].name, "kept");
}

#[test]
fn null_and_empty_envelopes_hold_nothing() {
    for json in [
        "{}",
        r#"{"resourceSpans":null}"#,
        r#"{"resourceSpans":[]}"#,
        r#"{"resourceSpans":[{}]}"#,
        r#"{"resourceSpans":[{"resource":null,"scopeSpans":null,"schemaUrl":null}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"scope":null,"spans":null,"schemaUrl":null}]}]}"#,
        r#"{"resource_spans":[{"scope_spans":[{"spans":[{}]}]}]}"#,
    ] {
        let decoded = spans(json);
        assert!(decoded.groups.is_empty() && decoded.undecodable.is_empty(), "{json}");
    }
}

#[test]
fn absent_and_empty_resources_stay_apart() {
    let decoded = spans(
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]},{"scopeSpans":[{"scope":{},"spans":[{}]}],"resource":{}}]}"#,
    );
    assert_eq!(decoded.groups[0].resource.resource, None);
    assert_eq!(decoded.groups[1].resource.resource, Some(Resource::default()));
    assert!(decoded.groups[0].scope.scope.is_none() && decoded.groups[1].scope.scope.is_some());
}

#[test]
fn what_is_no_request_is_malformed_and_says_where() {
    for (json, said) in [
        ("", "line 1 column 0"),
        ("[]", "expected an export request as an object"),
        ("null", "expected an export request as an object"),
        (r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{]}]}]}"#, "line 1 column"),
        (r#"{"resourceSpans":{}}"#, "resourceSpans: invalid type: map, expected a list at line 1 column"),
        (r#"{"resourceSpans":[{"scopeSpans":[3]}]}"#, "resourceSpans[0].scopeSpans[0]: invalid type: integer `3`"),
        (r#"{"resourceSpans":[],"resourceSpans":[]}"#, "duplicate field `resourceSpans`"),
        (r#"{"resourceSpans":[]} {}"#, "trailing characters"),
    ] {
        let refused = decode::<Span>(json.as_bytes()).unwrap_err();
        assert!(refused.reason.contains(said), "{json}: {}", refused.reason);
        assert!(refused.reason.contains("resourceSpans"), "{}", refused.reason);
    }
    let refused = decode::<Span>(b"{\"a\":\"\xff\"}").unwrap_err();
    assert!(refused.reason.contains("byte 6 is not UTF-8"), "{}", refused.reason);
}

#[test]
fn writing_gives_the_form_every_reader_accepts() {
    let json = concat!(
        r#"{"traceId":"0aff","name":"n","kind":3,"startTimeUnixNano":"18446744073709551615","#,
        r#""attributes":[{"key":"a","value":{"intValue":"1"}},{"key":"b","value":{"doubleValue":"-Infinity"}},"#,
        r#"{"key":"c","value":{"bytesValue":"+/8="}},{"key":"d","value":{"stringValue":""}},{"key":"e","value":{}},"#,
        r#"{"key":"f"},{"key":"g","value":{"doubleValue":-0.0}},{"key":"h","value":{"arrayValue":{}}}],"status":{}}"#,
    );
    let read: Span = decode_message(json).unwrap();
    assert_eq!(String::from_utf8(encode_message(&read)).unwrap(), json);
    assert_eq!(read.attributes[5], KeyValue { key: "f".to_owned(), ..KeyValue::default() });

    let request = concat!(
        r#"{"resourceSpans":[{"resource":{},"scopeSpans":[{"scope":{"name":"s"},"spans":[{"name":"1"}],"schemaUrl":"u"},"#,
        r#"{"spans":[{"name":"2"},{}]}],"schemaUrl":"v"},{"scopeSpans":[{"spans":[{}]}]}]}"#,
    );
    assert_eq!(String::from_utf8(encode(&spans(request).groups)).unwrap(), request);
}
