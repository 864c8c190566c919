//! The API listener: for now only whether the process lives and whether it can acknowledge.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::connection::Respond;

type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Asks whether the server can acknowledge requests now. Cheap to clone.
#[derive(Clone)]
pub struct Readiness(Arc<dyn Fn() -> Answer + Send + Sync>);

impl Readiness {
    /// `ask` answers with what is in the way, or with nothing. It is asked for every request to `/readyz`, so it must
    /// be quick and bounded in time.
    pub fn new<F, A>(ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(ask())))
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").finish_non_exhaustive()
    }
}

/// Answers requests of the API listener.
#[derive(Clone)]
pub(crate) struct Api(Router);

#[derive(Clone)]
struct Asked {
    readiness: Readiness,
    stop: CancellationToken,
}

impl Api {
    /// What is asked by those who watch over processes, without a token.
    pub(crate) const OPEN: &[&str] = &["/healthz", "/readyz"];

    /// Not ready any more once `stop` is cancelled.
    pub(crate) fn new(readiness: Readiness, stop: CancellationToken) -> Self {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(answer_readyz))
            .with_state(Asked { readiness, stop });
        Self(router)
    }
}

async fn answer_readyz(State(asked): State<Asked>) -> (StatusCode, String) {
    if asked.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: shutting down\n".to_owned());
    }
    match (asked.readiness.0)().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

impl Respond for Api {
    type Body = axum::body::Body;

    async fn respond(&self, request: Request<Incoming>) -> Response<axum::body::Body> {
        let Ok(response) = self.0.clone().oneshot(request).await;
        response
    }
}
