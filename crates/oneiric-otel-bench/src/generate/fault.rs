//! What goes wrong.

/// One way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// `error.type`.
    pub kind: &'static str,
    /// The message; `{id}`, `{n}` and `{host}` are filled in, so that messages differ as real ones do.
    pub message: &'static str,
    /// The status code that the operation answers with.
    pub status: i64,
    /// Milliseconds that the failing step takes, when it takes longer than usual.
    pub waits_ms: u64,
}

const fn fault(kind: &'static str, message: &'static str, status: i64, waits_ms: u64) -> Fault {
    Fault { kind, message, status, waits_ms }
}

/// Every way to fail.
pub const FAULTS: [Fault; 14] = [
    fault("java.util.concurrent.TimeoutException", "no answer from {host} within 3000 ms", 504, 3000),
    fault("ECONNREFUSED", "connect ECONNREFUSED 10.1.{n}.9:5432", 503, 2),
    fault("PSQLException", "deadlock detected: process {n} waits for ShareLock on transaction {id}", 500, 1000),
    fault("UniqueViolation", "duplicate key value violates unique constraint, key (id)=({id}) already exists", 409, 3),
    fault("NullPointerException", "Cannot invoke \"Customer.address()\" because \"customer\" is null", 500, 1),
    fault("ValidationError", "field 'postal_code' of {id} does not match ^[0-9]{5}$", 422, 1),
    fault("Unauthenticated", "token of user u-{id} expired {n} minutes ago", 401, 1),
    fault("PermissionDenied", "role reader may not change object {id}", 403, 1),
    fault("RateLimitExceeded", "429 Too Many Requests: quota of tenant t-{n} is used up, retry after 30 s", 429, 2),
    fault("OutOfMemoryError", "Java heap space: could not allocate {n} MB", 500, 800),
    fault("SSLHandshakeException", "certificate of {host} expired on 2026-10-01", 502, 20),
    fault("UnknownHostException", "lookup {host}: no such host", 502, 5),
    fault("JsonParseException", "Unexpected end of input at line {n} column 17, while reading {id}", 500, 1),
    fault("PoolExhausted", "HikariPool-1: connection is not available, request timed out after 5000 ms", 503, 5000),
];
