//! What is embedded.

/// What somebody asks, in words.
pub(super) const QUESTIONS: [&str; 8] = [
    "could not reach the payment service",
    "language model requests were throttled",
    "product suggestions took too long to arrive",
    "why did checkout fail this morning",
    "deadlock in the inventory database",
    "access was denied by a policy",
    "which runs ended before the tests had passed",
    "the message broker refused connections",
];

/// Sentences like those made of traces, 20 to 120 word pieces long, always the same.
pub(super) fn texts(count: usize) -> Vec<String> {
    let services = ["checkout", "payment-service", "mahavishnu", "inventory_db", "api.gateway", "frontend"];
    let causes = [
        "timed out waiting for a database connection",
        "403 forbidden, access denied by policy",
        "connection refused by the message broker",
        "deadlock detected while waiting for a lock",
        "retries exhausted after 3 attempts",
    ];
    let operations = ["process_repository", "POST /api/v1/orders", "SELECT orders", "PlaceOrder", "publish orders"];
    let text = |index: usize| {
        let mut text = format!(
            "The service {} failed in {} because {}.",
            services[index % 6],
            operations[index / 6 % 5],
            causes[index / 30 % 5]
        );
        for service in services.iter().take(1 + index * 7 % 5) {
            let step = format!(" Then {service} ran {} with error {}.", operations[index % 5], index * 31 % 997);
            text.push_str(&step);
        }
        text
    };
    (0..count).map(text).collect()
}
