//! The service that a request asks.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use oneiric_otel::query::QueryService;

use crate::Asked;

/// The service as it is now; one that looks for itself and remembers nothing, if the request says `Cache-Control: no-cache`.
#[derive(Debug)]
pub(crate) struct Asking(pub(crate) QueryService);

impl FromRequestParts<Asked> for Asking {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, asked: &Asked) -> Result<Self, Infallible> {
        let service = asked.service();
        let said = parts.headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
        let fresh = said.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("no-cache"));
        Ok(Self(if fresh { service.bypassing_cache() } else { service }))
    }
}
