//! Times as they are typed, and as they are shown.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "a module of the command line, whole")]
#[path = "../../crates/oneiric-otel-cli/src/moment.rs"]
mod moment;

fuzz_target!(|text: &str| {
    if let Ok(given) = text.parse::<moment::Moment>() {
        let shown = given.0.to_string();
        assert_eq!(shown.parse(), Ok(given), "a time that is shown is not the one that was typed");
        if let Ok(nanos) = u64::try_from(given.0.as_nanosecond()) {
            assert_eq!(moment::rfc3339(nanos).parse(), Ok(given));
            assert!(moment::show(nanos).starts_with(&moment::show_short(nanos)));
        }
    }
    let mut nanos = [0; 8];
    let length = text.len().min(8);
    nanos[..length].copy_from_slice(&text.as_bytes()[..length]);
    let nanos = u64::from_le_bytes(nanos);
    assert!(!moment::show(nanos).is_empty() && !moment::show_duration(nanos).is_empty());
    let time: moment::Moment = moment::rfc3339(nanos).parse().expect("RFC 3339");
    assert_eq!(u64::try_from(time.0.as_nanosecond()), Ok(nanos));
});
