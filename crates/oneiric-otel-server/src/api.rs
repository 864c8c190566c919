//! The API listener: whether the process lives, whether it can acknowledge, and what else it tells about itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::{Method, StatusCode, header};
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

/// A page that a server tells about itself. It stands behind the tokens.
#[derive(Clone)]
pub struct Page {
    path: &'static str,
    content_type: &'static str,
    render: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Page {
    /// `render` is asked for every request to `path` and must be quick.
    pub fn new(
        path: &'static str,
        content_type: &'static str,
        render: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        Self { path, content_type, render: Arc::new(render) }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Further routes of the API listener. They stand behind the tokens.
#[derive(Debug, Clone)]
pub struct Routes {
    /// The routes. What they do not know is answered by the listener.
    pub router: Router,
    /// Says in their words why a request below `/api/` is turned away that shows no token of ours. The status is 401.
    pub unauthenticated: fn(reason: &str) -> Response<axum::body::Body>,
}

/// Answers requests of the API listener.
#[derive(Clone)]
pub(crate) struct Api {
    router: Router,
    unauthenticated: Option<fn(&str) -> Response<axum::body::Body>>,
}

#[derive(Clone)]
struct Asked {
    readiness: Readiness,
    tells_why: bool,
    stop: CancellationToken,
}

impl Api {
    /// What is asked by those who watch over processes, without a token.
    const OPEN: &[&str] = &["/healthz", "/readyz"];

    /// Not ready any more once `stop` is cancelled. `/readyz` is open to everybody, so why it is not ready is told only
    /// where no token guards the rest.
    pub(crate) fn new(
        readiness: Readiness,
        pages: Vec<Page>,
        routes: Option<Routes>,
        tells_why: bool,
        stop: CancellationToken,
    ) -> Self {
        let mut router = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(answer_readyz));
        for Page { path, content_type, render } in pages {
            router = router.route(path, get(async move || ([(header::CONTENT_TYPE, content_type)], render())));
        }
        let mut router = router.with_state(Asked { readiness, tells_why, stop });
        let unauthenticated = routes.as_ref().map(|routes| routes.unauthenticated);
        if let Some(routes) = routes {
            router = router.merge(routes.router);
        }
        Self { router, unauthenticated }
    }
}

async fn answer_readyz(State(asked): State<Asked>) -> (StatusCode, String) {
    if asked.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: shutting down\n".to_owned());
    }
    match (asked.readiness.0)().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) if asked.tells_why => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: /api/v1/health says why\n".to_owned()),
    }
}

impl Respond for Api {
    type Body = axum::body::Body;

    async fn respond(&self, request: Request<Incoming>) -> Response<axum::body::Body> {
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }

    /// A browser asks what it may do before it shows a token, and is answered without one.
    fn is_open(&self, request: &Request<Incoming>) -> bool {
        let asks_before =
            request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        asks_before || Self::OPEN.contains(&request.uri().path())
    }

    fn refuse(&self, path: &str, reason: &str) -> Option<Response<axum::body::Body>> {
        let refuse = self.unauthenticated.filter(|_| path.starts_with("/api/"))?;
        Some(refuse(reason))
    }
}
