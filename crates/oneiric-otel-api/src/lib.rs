//! The query API: every call of [`oneiric_otel::query::QueryService`] over HTTP, as JSON, under `/api/v1/`.
//!
//! A thin door. It reads parameters strictly, asks the service, and writes what it says; it knows no SQL and no table.
//! Who may ask is checked before a request comes here.
//!
//! Promises: a parameter that is not known, or a value that is not understood, is refused with its name and what is
//! accepted, never ignored. Errors are problem details of RFC 9457 and tell nothing of the inside. What is answered is
//! what the OpenAPI document at `/api/v1/openapi.json` says, which is made from the types that are answered with. Work
//! is bounded in number and time, and a request whose client has gone is dropped with all that it waits for.

mod answer;
mod asking;
mod body;
mod frame;
mod openapi;
mod options;
mod parameters;
mod problem;
mod routes;
#[cfg(test)]
mod tests;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use oneiric_otel::query::QueryService;
use tokio::sync::watch;

pub use options::{ApiOptions, CorsOrigin};
use problem::Problem;

/// The routes of the API, to be served by a listener. `service` is whom to ask: it may be replaced while the API
/// runs, as by one that has a model.
pub fn router(service: watch::Receiver<QueryService>, options: &ApiOptions) -> Router {
    let (routes, document) = openapi::describe(routes::all());
    let routes = routes.with_state(Asked { service }).merge(openapi::page(&document));
    frame::around(routes, options)
}

/// The answer to a question of somebody who shows no token, or a wrong one, with the reason.
pub fn unauthenticated(reason: &str) -> Response {
    Problem::unauthenticated(reason).into_response()
}

/// The OpenAPI document of the API, as it is served.
pub fn document() -> utoipa::openapi::OpenApi {
    openapi::describe(routes::all()).1
}

/// What handlers ask.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    service: watch::Receiver<QueryService>,
}

impl Asked {
    /// The service as it is now.
    pub(crate) fn service(&self) -> QueryService {
        self.service.borrow().clone()
    }
}
