//! What the API can be told.

use std::str::FromStr;
use std::time::Duration;

use http::HeaderValue;
use oneiric_otel::settings::is_origin;

/// Limits of the API, and which pages of others may ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiOptions {
    /// Origins whose pages may read answers in a browser. None: no page but those of this server.
    pub cors_origins: Vec<CorsOrigin>,
    /// How long a question may take until its answer begins.
    pub time_limit: Duration,
    /// Questions under way at a time, until the last byte of their answers. One more is told to come again.
    pub max_concurrent: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            // Longer than a statement may take, so that it is the statement of which is told.
            time_limit: Duration::from_secs(40),
            max_concurrent: 128,
            max_body_bytes: 2 << 20,
        }
    }
}

/// An origin as a browser states it, `https://host:port`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsOrigin(Option<HeaderValue>);

impl CorsOrigin {
    /// The origin; none for all.
    pub(crate) fn value(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }
}

impl FromStr for CorsOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected an origin such as https://dashboard.example.com:8443, without a path, or *".to_owned();
        if !is_origin(text) {
            return Err(wrong());
        }
        let value = HeaderValue::from_str(text).map_err(|_| wrong())?;
        Ok(Self((text != "*").then_some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_state_them() {
        let value = |text: &str| text.parse::<CorsOrigin>().map(|origin| origin.value().cloned());
        assert_eq!(value("*"), Ok(None));
        assert_eq!(value("https://a.example:1"), Ok(Some(HeaderValue::from_static("https://a.example:1"))));
        assert!(value("https://a.example/").expect_err("a path").contains("expected an origin"));
    }
}
