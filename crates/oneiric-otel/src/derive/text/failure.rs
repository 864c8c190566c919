//! What went wrong, in the words people use for it.
//!
//! Telemetry says ECONNREFUSED, 14 or 429; people ask for what "could not be reached" or was "rate limited".

/// Marks in error types, messages and codes, and the words for them. The first that fit are taken.
const SIGNS: &[(&[&str], &str)] = &[
    (
        &[
            "connection refused",
            "connectionrefused",
            "econnrefused",
            "connect refused",
            "connection_refused",
            "actively refused",
        ],
        "connection refused, could not connect, service is down or unreachable",
    ),
    (
        &[
            "getaddrinfo",
            "enotfound",
            "eai_again",
            "name resolution",
            "no such host",
            "unknownhost",
            "name or service not known",
            "nxdomain",
            "dns",
        ],
        "host name could not be resolved, dns lookup failed, unreachable",
    ),
    (
        &["ehostunreach", "enetunreach", "no route to host", "network is unreachable", "host unreachable"],
        "network unreachable, could not connect",
    ),
    (
        &["serverselection", "server selection", "no suitable server", "no servers available", "not primary"],
        "database is down or unreachable, no server could be selected",
    ),
    (&["deadlock"], "deadlock, transactions wait for each other"),
    (&["lock wait timeout", "could not obtain lock"], "waiting for a lock took too long, row is locked"),
    (
        &["no instances available", "no healthy upstream", "no available server", "no route to service"],
        "no instance of the service is running, service is down or unreachable",
    ),
    (&["maxmemory", "oom command"], "memory of the cache is full"),
    (&["readonly", "read only", "read-only"], "read-only, only reads are accepted, writing is refused"),
    (&["all shards failed", "master_not_discovered"], "search index is broken or unavailable"),
    (
        &["has been modified", "could not serialize", "optimistic", "stale object", "write conflict"],
        "concurrent change, somebody else changed it at the same time",
    ),
    (&["overloaded", "overload"], "overloaded, too much load"),
    (
        &["too large", "toolarge", "larger than", "exceeds the maximum", "exceeds maximum"],
        "too large, too big, exceeds the limit",
    ),
    (
        &["insufficient stock", "insufficientstock", "insufficient_stock", "out of stock", "sold out"],
        "out of stock, sold out",
    ),
    (
        &[
            "insufficient funds",
            "insufficient_funds",
            "card declined",
            "card_declined",
            "carderror",
            "payment declined",
        ],
        "payment declined, card rejected by the bank",
    ),
    (
        &[
            "timeout",
            "timed out",
            "timedout",
            "deadline exceeded",
            "deadline_exceeded",
            "deadlineexceeded",
            "etimedout",
            "time limit",
        ],
        "timed out, no answer in time, took too long",
    ),
    (
        &[
            "connection reset",
            "econnreset",
            "broken pipe",
            "epipe",
            "connection aborted",
            "unexpected eof",
            "socket hang up",
            "connection closed",
            "connectionclosed",
            "server closed",
        ],
        "connection was lost, closed by the other side",
    ),
    (
        &[
            "rate limit",
            "ratelimit",
            "rate_limit",
            "too many requests",
            "throttl",
            "quota",
            "throughput",
            "resource_exhausted",
            "resourceexhausted",
        ],
        "rate limited, too many requests, quota exceeded",
    ),
    (
        &[
            "too many connections",
            "too many clients",
            "connection pool",
            "pool exhausted",
            "pool timeout",
            "remaining connection slots",
            "connectionpool",
            "hikaripool",
            "queuepool",
        ],
        "no free connections, connection pool exhausted",
    ),
    (
        &["circuit breaker", "circuitbreaker", "circuit open", "callnotpermitted"],
        "circuit breaker is open, calls are refused",
    ),
    (
        &["context_length", "context length", "maximum context", "too many tokens", "max_tokens", "token limit"],
        "prompt is too long for the model's context",
    ),
    (&["content_filter", "content filter", "content policy", "safety system"], "refused by the content filter"),
    (
        &[
            "unauthenticated",
            "unauthorized",
            "authentication",
            "invalid credentials",
            "invalid api key",
            "invalid token",
            "token expired",
            "jwt",
            "login failed",
        ],
        "not authenticated, login or credentials rejected",
    ),
    (
        &[
            "forbidden",
            "permission denied",
            "permission_denied",
            "permissiondenied",
            "access denied",
            "accessdenied",
            "not authorized",
            "eacces",
        ],
        "forbidden, access denied, no permission",
    ),
    (
        &[
            "smtpauthentication",
            "username and password not accepted",
            "password authentication failed",
            "wrong password",
        ],
        "wrong user or password",
    ),
    (
        &["certificate", "x509", "tls handshake", "ssl", "handshake"],
        "tls certificate or handshake failed, no secure connection",
    ),
    (&["out of memory", "outofmemory", "oomkill", "cannot allocate memory", "enomem"], "out of memory"),
    (&["no space left", "enospc", "disk full", "disk quota"], "disk is full, no space left"),
    (
        &[
            "duplicate key",
            "unique constraint",
            "already exists",
            "already_exists",
            "duplicateentry",
            "duplicate entry",
            "uniqueviolation",
        ],
        "already exists, duplicate entry, unique constraint violated",
    ),
    (
        &["foreign key", "integrity constraint", "check constraint", "constraint violation"],
        "database constraint violated",
    ),
    (
        &["syntax error", "sqlsyntax", "undefined column", "undefined table", "no such table", "no such column"],
        "database query is wrong",
    ),
    (
        &[
            "nullpointer",
            "nonetype",
            "null pointer",
            "cannot read propert",
            "undefined is not",
            "nil pointer",
            "null reference",
            "nullreference",
        ],
        "null pointer, a value is missing",
    ),
    (&["keyerror", "key error", "nosuchelement", "missing field", "missing key"], "a key or field is missing"),
    (
        &["division by zero", "zerodivision", "divide by zero", "arithmeticexception"],
        "division by zero, arithmetic error",
    ),
    (&["indexoutofbounds", "indexerror", "out of bounds"], "index out of range"),
    (&["classcast", "typeerror", "type mismatch", "cannot cast"], "value of the wrong type"),
    (&["stackoverflow", "stack overflow", "recursionerror", "maximum recursion"], "endless recursion, stack overflow"),
    (&["dimension", "shape mismatch"], "wrong size or number of dimensions"),
    (&["unknown column", "cannot query field", "unknown field"], "query is wrong, column or field does not exist"),
    (&["try again later", "temporarily"], "temporarily refused, to be tried again later"),
    (
        &[
            "jsondecode",
            "json parse",
            "unexpected token",
            "unmarshal",
            "deserializ",
            "malformed",
            "parseerror",
            "parse error",
            "invalid json",
            "cannot parse",
        ],
        "malformed data, could not be parsed",
    ),
    (
        &[
            "validation",
            "invalid argument",
            "invalid_argument",
            "invalidargument",
            "illegalargument",
            "valueerror",
            "bad request",
            "badrequest",
            "bad input",
            "invalid input",
            "unprocessable",
            "must be",
            "must not",
            "is required",
            "out of range",
        ],
        "bad request, invalid input, validation failed",
    ),
    (
        &["not found", "notfound", "not_found", "no such", "does not exist", "enoent", "missing"],
        "not found, does not exist, missing",
    ),
    (&["cancelled", "canceled", "aborted"], "cancelled, the caller gave up"),
    (&["unavailable", "service down", "not reachable", "unreachable"], "service unavailable, could not be reached"),
    (&["unimplemented", "not implemented", "notimplemented", "unsupported"], "not implemented, not supported"),
    (&["expired"], "expired, too old"),
];

/// An SQLSTATE in words; `None` for one that no error is known by.
pub(super) fn sqlstate(code: &str) -> Option<&'static str> {
    Some(match code.trim() {
        "08000" | "08001" | "08003" | "08004" | "08006" => "connection to the database failed or was lost",
        "22001" => "value is too long",
        "22003" => "number out of range",
        "22012" => "division by zero",
        "23502" => "a required value is missing",
        "23503" => "foreign key violated, what it refers to does not exist",
        "23505" => "already exists, duplicate entry, unique constraint violated",
        "23514" => "check constraint violated, invalid value",
        "25006" => "read-only, only reads are accepted",
        "28000" | "28P01" => "login to the database rejected, wrong user or password",
        "40001" => "concurrent change, conflict, transaction must be tried again",
        "40P01" => "deadlock, transactions wait for each other",
        "42501" => "permission denied, access denied, missing privilege",
        "42601" => "database query is wrong, syntax error",
        "42703" => "database query is wrong, column does not exist",
        "42P01" => "database query is wrong, table does not exist",
        "53100" => "disk is full, no space left",
        "53200" => "out of memory",
        "53300" => "no free connections, too many connections, too many clients",
        "55P03" => "lock not available, row is locked",
        "57014" => "query cancelled, statement timeout, took too long",
        "57P01" | "57P02" | "57P03" => "database is shutting down or not ready",
        _ => return None,
    })
}

/// Words for at most two signs in the text of an error.
pub(super) fn signs(error: &str) -> Vec<&'static str> {
    let lower = error.to_lowercase();
    let mut found = Vec::new();
    for (marks, words) in SIGNS {
        if marks.iter().any(|mark| lower.contains(mark)) {
            found.push(*words);
            if found.len() == 2 {
                break;
            }
        }
    }
    found
}

/// An HTTP status in words; `None` for those that tell of no failure.
pub(super) fn http(code: i64) -> Option<String> {
    let words = match code {
        400 => "bad request, invalid input",
        401 => "unauthorized, not authenticated",
        402 => "payment required",
        403 => "forbidden, access denied",
        404 => "not found, does not exist",
        405 => "method not allowed",
        408 => "request timeout, timed out",
        409 => "conflict, changed by somebody else or already exists",
        410 => "gone",
        412 => "precondition failed",
        413 => "payload too large, too big, exceeds the limit",
        415 => "unsupported media type",
        422 => "unprocessable, invalid input, validation failed",
        429 => "too many requests, rate limited",
        499 => "client closed the request, cancelled",
        500 => "internal server error",
        501 => "not implemented",
        502 => "bad gateway, upstream gave no valid answer",
        503 => "service unavailable, overloaded or down",
        504 => "gateway timeout, upstream timed out",
        507 => "insufficient storage",
        529 => "overloaded, too much load",
        _ if (400..=499).contains(&code) => "client error",
        _ if (500..=599).contains(&code) => "server error",
        _ => return None,
    };
    Some(format!("{code} {words}"))
}

/// A gRPC status, by number or name, in words; `None` for success and for what is no gRPC status.
pub(super) fn grpc(status: &str) -> Option<&'static str> {
    let lower = status.trim().to_lowercase();
    Some(match lower.as_str() {
        "1" | "cancelled" => "grpc cancelled, the caller gave up",
        "2" | "unknown" => "grpc unknown error",
        "3" | "invalid_argument" => "grpc invalid argument, bad request, invalid input",
        "4" | "deadline_exceeded" => "grpc deadline exceeded, timed out, no answer in time",
        "5" | "not_found" => "grpc not found, does not exist",
        "6" | "already_exists" => "grpc already exists, duplicate",
        "7" | "permission_denied" => "grpc permission denied, forbidden, access denied",
        "8" | "resource_exhausted" => "grpc resource exhausted, rate limited, too many requests",
        "9" | "failed_precondition" => "grpc failed precondition, not in the right state",
        "10" | "aborted" => "grpc aborted, conflict",
        "11" | "out_of_range" => "grpc out of range",
        "12" | "unimplemented" => "grpc unimplemented, not supported, server does not know the method",
        "13" | "internal" => "grpc internal error",
        "14" | "unavailable" => "grpc unavailable, service down, could not be reached",
        "15" | "data_loss" => "grpc data loss",
        "16" | "unauthenticated" => "grpc unauthenticated, credentials rejected",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_words() {
        assert!(signs("connect ECONNREFUSED 10.0.0.7:8443")[0].contains("could not connect"));
        assert!(signs("pymongo.errors.ServerSelectionTimeoutError: db:27017")[0].contains("database is down"));
        assert!(signs("RateLimitError: 429")[0].contains("too many requests"));
        assert!(signs("all is well").is_empty());
    }

    #[test]
    fn codes_become_words() {
        assert_eq!(http(403).as_deref(), Some("403 forbidden, access denied"));
        assert_eq!(http(418).as_deref(), Some("418 client error"));
        assert_eq!(http(200), None);
        assert_eq!(http(-1), None);
        assert_eq!(grpc("14"), grpc("UNAVAILABLE"));
        assert_eq!(grpc("0"), None);
        assert!(sqlstate("40P01").is_some_and(|words| words.contains("deadlock")));
        assert_eq!(sqlstate("00000"), None);
    }
}
