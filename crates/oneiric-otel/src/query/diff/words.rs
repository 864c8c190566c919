//! A comparison in words.

use std::collections::BTreeSet;

use super::{ErrorDiff, MAX_VALUES, TraceDiff, as_long};

/// Says in words what the lists say.
pub(super) fn words(diff: &mut TraceDiff) {
    let mut say = |same: bool, agree: String, differ: String| {
        if same { diff.agree.push(agree) } else { diff.differ.push(differ) }
    };
    let services = &diff.services;
    let same_services = services.only_a.is_empty() && services.only_b.is_empty();
    let only = |side: &str, names: &[String]| {
        if names.is_empty() { String::new() } else { format!("; only {side}: {}", list(names)) }
    };
    say(
        same_services,
        format!("services: {}", list(&services.both)),
        format!(
            "services: {} in both{}{}",
            services.both.len(),
            only("a", &services.only_a),
            only("b", &services.only_b)
        ),
    );

    let shared = diff.errors.iter().filter(|error| error.count_a > 0 && error.count_b > 0);
    let shared: Vec<String> = shared.map(describe).collect();
    if !shared.is_empty() {
        say(true, format!("errors: {}", list(&shared)), String::new());
    }
    for (side, in_this, in_other) in [("a", 0, 1), ("b", 1, 0)] {
        let counts = |error: &ErrorDiff| [error.count_a, error.count_b];
        let only = diff.errors.iter().filter(|error| counts(error)[in_this] > 0 && counts(error)[in_other] == 0);
        let only: Vec<String> = only.map(describe).collect();
        if !only.is_empty() {
            say(false, String::new(), format!("errors only in {side}: {}", list(&only)));
        }
    }
    if diff.errors.is_empty() {
        say(true, "errors: none in either".to_owned(), String::new());
    }

    let share = (diff.same_structure * 100.0).floor();
    say(
        diff.structure.is_empty(),
        "structure: the same calls in the same places".to_owned(),
        format!("structure: {share} % of the spans are at the same place in both"),
    );
    let slower: Vec<String> = diff
        .operations
        .iter()
        .filter(|operation| operation.a.count > 0 && operation.b.count > 0)
        .filter(|operation| !as_long(operation.a.total_ns, operation.b.total_ns))
        .map(|operation| {
            let times = [operation.a.total_ns, operation.b.total_ns].map(|nanos| nanos as f64 / 1e6);
            format!(
                "{} {} took {:.1} ms in a, {:.1} ms in b",
                operation.service_name, operation.name, times[0], times[1]
            )
        })
        .collect();
    say(slower.is_empty(), "durations: about the same".to_owned(), format!("durations: {}", list(&slower)));
    let keys: BTreeSet<&str> = diff.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
    say(
        keys.is_empty(),
        "attributes: the same values".to_owned(),
        format!("attributes with other values: {}", list(&keys)),
    );
}

fn describe(error: &ErrorDiff) -> String {
    let what = [error.error_type.as_deref(), error.message.as_deref()];
    let what: Vec<&str> = what.into_iter().flatten().collect();
    let what = if what.is_empty() { "failed" } else { &what.join(": ") };
    format!("{} {}: {what}", error.service_name, error.name)
}

/// The first few, and how many more there are.
fn list(entries: &[String]) -> String {
    let shown = entries.iter().take(MAX_VALUES).map(String::as_str).collect::<Vec<_>>().join(", ");
    if entries.len() > MAX_VALUES { format!("{shown} and {} more", entries.len() - MAX_VALUES) } else { shown }
}
