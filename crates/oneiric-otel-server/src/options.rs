//! What a server can be told: addresses, who may talk to it, and limits.

use std::time::Duration;

use crate::security::{TlsFiles, TokenSource};
use crate::server::ServerError;

/// The budget is counted in KiB; below this rounding would matter.
const MIN_IN_FLIGHT_BYTES: usize = 64 << 10;

/// Addresses, guards and limits of a server. [`ServerOptions::default`] listens on loopback only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// Where OTLP/gRPC is expected, as `HOST:PORT`. Port 0 picks a free one; host `localhost` is 127.0.0.1 and ::1.
    pub grpc_addr: String,
    /// Where OTLP/HTTP is expected. Both listeners speak both protocols, so a sender that mixes them up is served.
    pub http_addr: String,
    /// Where `/healthz` and `/readyz` are answered. `None`: nowhere.
    pub api_addr: Option<String>,
    /// TLS on every listener. `None`: connections are in the clear.
    pub tls: Option<TlsFiles>,
    /// Bearer tokens, of which every request must show one; `/healthz` and `/readyz` need none. `None`: everybody who
    /// can connect may send.
    pub tokens: Option<TokenSource>,
    /// Largest request message in bytes, measured as sent and again after decompression.
    pub max_request_bytes: usize,
    /// Bytes of all requests being received, decompressed or stored at one time. What has not arrived does not count.
    /// Beyond it requests wait, read no further, for `admission_wait`, and are then answered as unavailable. An eighth
    /// is for requests of at most 64 KiB only. At least three times `max_request_bytes` and 64 KiB.
    pub max_in_flight_bytes: usize,
    /// How long a request may wait for its share of `max_in_flight_bytes`.
    pub admission_wait: Duration,
    /// Open connections on the OTLP listeners together. Beyond it the one that has been idle longest is closed in favour
    /// of a new one; while all have requests in flight, new ones wait in the kernel's queue.
    pub max_connections: usize,
    /// How long the body of one request may take to arrive. One that keeps to less than 64 KiB in 10 s is given up
    /// before.
    pub body_timeout: Duration,
    /// How long the head of a request may take to arrive, and how long a connection without requests is kept.
    pub idle_timeout: Duration,
    /// How long requests in flight may take to finish once the server stops.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            grpc_addr: "127.0.0.1:4317".to_owned(),
            http_addr: "127.0.0.1:4318".to_owned(),
            api_addr: Some("127.0.0.1:16686".to_owned()),
            tls: None,
            tokens: None,
            max_request_bytes: 64 << 20,
            max_in_flight_bytes: 256 << 20,
            admission_wait: Duration::from_secs(5),
            max_connections: 2048,
            body_timeout: Duration::from_mins(1),
            // Longer than a minute: exporters of metrics commonly speak once a minute, and a connection that closes
            // just as they do costs them a retry.
            idle_timeout: Duration::from_secs(150),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl ServerOptions {
    pub(crate) fn check(&self) -> Result<(), ServerError> {
        if self.max_request_bytes == 0 {
            return Err(ServerError::Option("max_request_bytes: expected at least 1".to_owned()));
        }
        let least = self.max_request_bytes.saturating_mul(3).max(MIN_IN_FLIGHT_BYTES);
        if self.max_in_flight_bytes < least {
            return Err(ServerError::Option(format!(
                "max_in_flight_bytes: {} given, expected at least {least} (three times max_request_bytes, 64 KiB)",
                self.max_in_flight_bytes
            )));
        }
        if self.max_connections == 0 {
            return Err(ServerError::Option("max_connections: expected at least 1".to_owned()));
        }
        Ok(())
    }
}
