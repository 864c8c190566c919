//! What the API can be told.

use std::str::FromStr;
use std::time::Duration;

use http::{HeaderValue, Uri};

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
        if text == "*" {
            return Ok(Self(None));
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(wrong)?;
        // What a browser sends has neither path nor query nor a slash at its end.
        if format!("{scheme}://{authority}") != text {
            return Err(wrong());
        }
        HeaderValue::from_str(text).map(|value| Self(Some(value))).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_state_them() {
        for good in ["*", "https://a.example", "http://127.0.0.1:3000", "http://[::1]:3000"] {
            good.parse::<CorsOrigin>().expect(good);
        }
        for wrong in ["", "a.example", "https://a.example/", "https://a.example/x", "ftp://a.example", "https://u@a"] {
            assert!(wrong.parse::<CorsOrigin>().expect_err(wrong).contains("expected an origin"), "{wrong}");
        }
    }
}
