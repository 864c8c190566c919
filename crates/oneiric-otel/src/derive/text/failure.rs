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
    (&["lock wait timeout", "deadlock"], "deadlock, waiting for a lock failed"),
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
            "resource_exhausted",
            "resourceexhausted",
        ],
        "rate limited, too many requests, quota exceeded",
    ),
    (
        &[
            "too many connections",
            "connection pool",
            "pool exhausted",
            "pool timeout",
            "remaining connection slots",
            "connectionpool",
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
    (&["certificate", "x509", "tls handshake", "ssl", "handshake"], "tls certificate or handshake failed"),
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
    (&["cancelled", "canceled", "aborted"], "cancelled"),
    (&["unavailable", "service down", "not reachable", "unreachable"], "service unavailable, could not be reached"),
    (&["unimplemented", "not implemented", "notimplemented", "unsupported"], "not implemented, not supported"),
    (&["out of stock", "insufficient stock", "sold out"], "out of stock"),
    (&["insufficient funds", "card declined", "payment declined"], "payment declined"),
];

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
        409 => "conflict, already exists",
        410 => "gone",
        412 => "precondition failed",
        413 => "payload too large",
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
        "1" | "cancelled" => "grpc cancelled",
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
        "12" | "unimplemented" => "grpc unimplemented, not supported",
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
    }
}
