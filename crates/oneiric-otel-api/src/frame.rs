//! What is around every route: bounds, conditional requests, compression, what browsers of other origins may do, and
//! answers to what is asked in vain.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};

use crate::options::{ApiOptions, CorsOrigin};
use crate::problem::{Problem, ProblemType};

/// Puts the frame around routes.
pub(crate) fn around(routes: Router, options: &ApiOptions) -> Router {
    let bounds = Bounds { under_way: Arc::new(Semaphore::new(options.max_concurrent)), time: options.time_limit };
    let mut routes = routes
        .route("/api/v1/{*unknown}", any(unknown))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(options.max_body_bytes))
        .layer(from_fn_with_state(bounds, bound))
        .layer(from_fn(answer_options))
        .layer(from_fn(unchanged))
        .layer(CompressionLayer::new());
    if !options.cors_origins.is_empty() {
        routes = routes.layer(cors(&options.cors_origins));
    }
    routes
}

async fn unknown() -> Problem {
    Problem::new(ProblemType::NotFound, "there is no such path; /api/v1/openapi.json lists all")
}

async fn wrong_method() -> Problem {
    Problem::new(ProblemType::MethodNotAllowed, "this path is not for that method; the header Allow says for which")
}

#[derive(Debug, Clone)]
struct Bounds {
    under_way: Arc<Semaphore>,
    time: Duration,
}

/// Lets a question through if not too many are under way, and ends it when it takes too long. Dropped, a question drops
/// what it waits for, down to its SQL.
async fn bound(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let Ok(permit) = bounds.under_way.try_acquire_owned() else {
        return Problem::new(ProblemType::Unavailable, "too many questions at a time; ask again later").into_response();
    };
    let Ok(response) = tokio::time::timeout(bounds.time, next.run(request)).await else {
        let limit = bounds.time.as_secs();
        let detail = format!("no answer within {limit} s; a shorter range of time or more filters help");
        return Problem::new(ProblemType::TooSlow, detail).into_response();
    };
    response.map(|body| Body::new(Counted { body, _permit: permit }))
}

/// A body that counts as under way until it has gone.
struct Counted {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// `OPTIONS` asks what a path is for. The header Allow says it, which the router adds to what says nothing of it.
async fn answer_options(request: Request, next: Next) -> Response {
    let asked = request.method() == Method::OPTIONS;
    let response = next.run(request).await;
    if asked && response.status() == StatusCode::METHOD_NOT_ALLOWED {
        return StatusCode::NO_CONTENT.into_response();
    }
    response
}

/// Leaves the body out where the client has it already.
async fn unchanged(request: Request, next: Next) -> Response {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let known = request.headers().get(header::IF_NONE_MATCH).cloned().filter(|_| reads);
    let response = next.run(request).await;
    let Some(known) = known.filter(|_| response.status() == StatusCode::OK) else { return response };
    if !matches(&known, response.headers()) {
        return response;
    }
    let mut short = StatusCode::NOT_MODIFIED.into_response();
    for name in [header::ETAG, header::CACHE_CONTROL, header::VARY] {
        if let Some(value) = response.headers().get(&name) {
            short.headers_mut().insert(name, value.clone());
        }
    }
    short
}

fn matches(known: &HeaderValue, headers: &HeaderMap) -> bool {
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let (Some(tag), Ok(known)) = (tag, known.to_str()) else { return false };
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known.trim() == "*" || known.split(',').any(|known| bare(known) == bare(tag))
}

fn cors(origins: &[CorsOrigin]) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_NONE_MATCH])
        .expose_headers([header::ETAG, header::RETRY_AFTER])
        .max_age(Duration::from_mins(10));
    let named: Option<Vec<HeaderValue>> = origins.iter().map(|origin| origin.value().cloned()).collect();
    match named {
        Some(origins) => layer.allow_origin(origins),
        None => layer.allow_origin(Any),
    }
}
