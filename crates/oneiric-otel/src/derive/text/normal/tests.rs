use proptest::prelude::*;

use super::*;

#[test]
fn ids_and_numbers_are_masked() {
    let cases = [
        ("GET /api/v1/users/42/orders/7f9c2ba4e88f", "GET /api/v1/users/#/orders/#"),
        ("order 123e4567-e89b-12d3-a456-426614174000 lost", "order # lost"),
        ("connect ECONNREFUSED 10.0.0.7:8443", "connect ECONNREFUSED #"),
        ("2023-01-29T08:50:01.123Z WARN retry in 250ms", "# WARN retry in #ms"),
        (
            "No contacts according to contactsId 4d2a46c7-71cb-4cf1-b5bb-b68406d9da6f",
            "No contacts according to contactsId #",
        ),
        ("user42 of ts-travel2-service", "user# of ts-travel2-service"),
        ("sha256 of utf8 in s3", "sha256 of utf8 in s3"),
        ("request failed with status 503 after 4 tries", "request failed with status 503 after # tries"),
        ("pointer 0x7ffe12", "pointer #"),
        ("[1, 2, 3]", "[#]"),
        ("deadbeefdeadbeefdeadbeefdeadbeef", "#"),
        ("a beef cafe", "a beef cafe"),
    ];
    for (before, after) in cases {
        assert_eq!(mask(before), after, "{before}");
    }
}

#[test]
fn prose_keeps_its_numbers() {
    assert_eq!(mask_ids("3 of 20 rows, key a8f3k2l9x7c6v5b4"), "3 of 20 rows, key #");
}

#[test]
fn log_lines_are_told_as_people_would() {
    let cases = [
        (
            "16:43:26.379 ERROR c.s.ContactsServiceImpl#175 TraceID: fbb1c2904ee397adaf90efb157db6791 SpanID: 66efc3be7e5d090c \
             [findContactsById][No contacts according to contactsId]",
            "find Contacts By Id No contacts according to contacts Id",
        ),
        (
            "Servlet.service() threw exception [Request processing failed; nested exception is \
             java.lang.IllegalStateException: No instances available for ts-food-service] with root cause",
            "Illegal State Exception: No instances available for ts-food-service with root cause",
        ),
        ("a.B: outer\n  at x.y(Z.java:1)\nCaused by: java.net.ConnectException: refused", "Connect Exception: refused"),
        ("Traceback (most recent call last):\n  File \"x.py\", line 3\nValueError: bad date", "Value Error: bad date"),
        ("[2026-11-20 12:00:01] WARN: trace_id=4bf92f3577b34da6a3ce929d0e0e4736 disk is full", "disk is full"),
        ("12:00:01 WARN [main] com.example.app.StockTable: 3 rows are gone", "main # rows are gone"),
        ("com.example.app.StockTable", "Stock Table"),
        ("java.net.ConnectException: refused", "Connect Exception: refused"),
        ("gRPC error", "gRPC error"),
        ("", ""),
    ];
    for (before, after) in cases {
        assert_eq!(line(before), after, "{before}");
    }
}

#[test]
fn control_characters_escapes_and_overrides_go() {
    assert_eq!(clean("\u{1b}[31mred\u{1b}[0m\r\n\tplain\0\u{202e}evil\u{200b}"), "red plain evil");
    assert_eq!(clean("\u{1b}"), "");
    assert_eq!(clean("  "), "");
}

#[test]
fn durations_have_few_steps() {
    let cases = [
        (0, "under 1 ms"),
        (1_400_000, "1 ms"),
        (1_500_000, "2 ms"),
        (230_000_000, "200 ms"),
        (1_930_000_000, "2 seconds"),
        (3_500_000_000, "5 seconds"),
        (50_000_000_000, "1 minute"),
        (u64::MAX, "many days"),
    ];
    for (nanoseconds, words) in cases {
        assert_eq!(duration(nanoseconds), words, "{nanoseconds}");
    }
}

proptest! {
    #[test]
    fn masking_ends_and_leaves_no_control_character(text in any::<String>()) {
        let masked = mask(&text);
        prop_assert!(!masked.contains(char::is_control));
        prop_assert!(!mask_ids(&text).contains(char::is_control));
        prop_assert!(!line(&text).contains(char::is_control));
        prop_assert_eq!(clean(&masked), masked.clone());
        // Masked once, nothing is left to mask.
        prop_assert_eq!(mask(&masked), masked);
    }

    #[test]
    fn numbers_do_not_tell_texts_apart(a in 10u32..1_000_000, b in 10u32..1_000_000) {
        prop_assert_eq!(mask(&format!("item {a} of user{a}")), mask(&format!("item {b} of user{b}")));
    }

    #[test]
    fn durations_never_shrink(a in any::<u64>(), b in any::<u64>()) {
        let place = |ns| STEPS.iter().position(|(_, words)| *words == duration(ns)).map_or(if ns < 700_000 { 0 } else { 99 }, |at| at + 1);
        prop_assert!(place(a.min(b)) <= place(a.max(b)));
    }
}
