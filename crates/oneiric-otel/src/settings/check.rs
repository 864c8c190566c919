//! What settings must be together.

use super::error::{Problem, SettingsError, Source};
use super::table::{DEFAULT_MODEL, EmbeddingPrecision, Settings, StorageBackend};

/// Of the vectors of the model in this process.
const DEFAULT_DIMENSION: usize = 384;

impl Settings {
    /// Whether every setting is in its range and goes together with the others, for settings that a program has made.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        let mut problems = Vec::new();
        for setting in Self::table() {
            let looked = self.groups().iter().find_map(|group| group.look(setting.name));
            if let Some((shown, false)) = looked {
                problems.push(Problem::Value {
                    origin: Source::Program,
                    key: setting.name,
                    accepted: setting.accepts.to_string(),
                    found: (!setting.holds_password).then(|| shown.to_string()),
                });
            }
        }
        problems.extend(self.conflicts());
        SettingsError::of(problems)
    }

    /// What does not go together.
    pub(super) fn conflicts(&self) -> Vec<Problem> {
        let mut conflicts = Vec::new();
        let mut conflict = |key, reason: &str| conflicts.push(Problem::Conflict { key, reason: reason.to_owned() });
        if self.connection_string.is_none() {
            if self.maintenance_url.is_some() {
                conflict(
                    "maintenance_url",
                    "there is no connection_string (--database-url) of which it could be another way to the same database",
                );
            }
            if self.reader_url.is_some() {
                conflict("reader_url", "there is no connection_string (--database-url) of which it could be a replica");
            }
            if self.sql_reader_url.is_some() {
                conflict(
                    "sql_reader_url",
                    "there is no connection_string (--database-url); the embedded database has a role of its own for SQL",
                );
            }
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => conflict("tls_cert", "it needs tls_key (--tls-key)"),
            (None, Some(_)) => conflict("tls_key", "it needs tls_cert (--tls-cert)"),
            _ => {}
        }
        if self.tls_client_ca.is_some() && self.tls_cert.is_none() {
            conflict("tls_client_ca", "it needs tls_cert (--tls-cert) and tls_key");
        }
        if let Some((key, reason)) = self.retention_conflict() {
            conflict(key, &reason);
        }
        if self.forward_otlp.is_none() {
            if self.forward_headers.is_some() {
                conflict("forward_headers", "it needs forward_otlp (--forward-otlp)");
            }
            if self.forward_ca.is_some() {
                conflict("forward_ca", "it needs forward_otlp (--forward-otlp)");
            }
        }
        self.otlp_conflicts(&mut conflict);
        if self.token_file.is_some() && self.tokens.is_some() {
            conflict("tokens", "tokens are given twice, here and by token_file: leave one of them out");
        }
        if self.embedding_endpoint.url.is_none() {
            if self.embedding_model != DEFAULT_MODEL {
                conflict(
                    "embedding_model",
                    "another than all-MiniLM-L6-v2 needs embedding_endpoint.url, which serves it",
                );
            }
            if self.embedding_dimension.is_some_and(|dimension| dimension != DEFAULT_DIMENSION) {
                conflict("embedding_dimension", "all-MiniLM-L6-v2 has 384");
            }
            if self.embedding_endpoint.api_key.is_some() {
                conflict("embedding_endpoint.api_key", "there is no embedding_endpoint.url to show it to");
            }
        }
        if self.embedding_endpoint.url.is_some() && self.embedding_precision != EmbeddingPrecision::Int8 {
            conflict("embedding_precision", "embedding_endpoint.url computes the vectors, in a precision of its own");
        }
        let least = self.limits.max_request_bytes.saturating_mul(3);
        if self.limits.max_in_flight_bytes < least {
            let reason = format!("expected at least three times limits.max_request_bytes, which is {least}");
            conflict("limits.max_in_flight_bytes", &reason);
        }
        conflicts
    }

    fn otlp_conflicts(&self, conflict: &mut impl FnMut(&'static str, &str)) {
        let sends = self.storage_backend != StorageBackend::Postgresql;
        match (&self.otlp.endpoint, sends) {
            (None, true) => conflict("otlp.endpoint", "storage_backend is otlp or both, which send there"),
            (Some(_), false) => conflict(
                "otlp.endpoint",
                "storage_backend is postgresql: otlp or both send there; a server passes on with forward_otlp",
            ),
            _ => {}
        }
        if self.otlp.endpoint.is_none() {
            if self.otlp.headers.is_some() {
                conflict("otlp.headers", "it needs otlp.endpoint");
            }
            if self.otlp.ca.is_some() {
                conflict("otlp.ca", "it needs otlp.endpoint");
            }
        }
    }
}
