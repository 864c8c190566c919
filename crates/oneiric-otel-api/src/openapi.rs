//! The OpenAPI document, made from the handlers and the types that they answer with.

use std::collections::BTreeMap;

use axum::Router;
use axum::routing::get;
use http::HeaderValue;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr};
use utoipa::{IntoResponses, Modify, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;

use oneiric_otel::store::SqlError;

use crate::problem::{CONTENT_TYPE, Problem};
use crate::{Asked, answer};

/// Where the document is.
pub(crate) const PATH: &str = "/api/v1/openapi.json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "oneiric-otel",
        description = "Telemetry in PostgreSQL, found by meaning, by SQL and by time.\n\nTimes are RFC 3339 in UTC with \
                       nanoseconds. What fails is answered with problem details of RFC 9457, whose `type` says what kind \
                       of problem it is.",
    ),
    components(schemas(Problem, SqlError)),
    modifiers(&Token),
    security((), ("token" = [])),
)]
struct Description;

/// The bearer token, which is asked for where the server has tokens.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("One of the tokens that the server was given. A server without tokens asks for none."));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    }
}

/// The routes and what there is to say about them.
pub(crate) fn describe(routes: OpenApiRouter<Asked>) -> (Router<Asked>, OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi()).merge(routes).split_for_parts()
}

/// The document as a page.
pub(crate) fn page(document: &OpenApi) -> Router {
    let body = document.to_pretty_json().unwrap_or_default().into_bytes();
    let show = move || {
        let page = answer::page(body.clone(), HeaderValue::from_static("public, max-age=3600"));
        async move { page }
    };
    Router::new().route(PATH, get(show))
}

/// What any question may be answered with instead of its answer.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let cases = [
            ("400", "A parameter is not known or its value not understood"),
            ("401", "There is no token, or a wrong one"),
            ("500", "Something went wrong that the server's log tells more of"),
            ("503", "The answer needs something that is missing, or missing for now"),
            ("504", "The answer would have taken too long"),
        ];
        let mut responses: BTreeMap<String, RefOr<Response>> =
            cases.into_iter().map(|(status, about)| (status.to_owned(), problem(about))).collect();
        // Said by who reads the request, before it comes here.
        for (status, about) in [("414", "The path is too long"), ("431", "The head of the request is too long")] {
            responses.insert(status.to_owned(), RefOr::T(ResponseBuilder::new().description(about).build()));
        }
        responses
    }
}

/// The same of a question about one thing, which may not be there.
pub(crate) struct ProblemsOfOne;

impl IntoResponses for ProblemsOfOne {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = Problems::responses();
        responses.insert("404".to_owned(), problem("It is not there"));
        responses
    }
}

/// The same of a question that is asked in a body.
pub(crate) struct ProblemsOfBody;

impl IntoResponses for ProblemsOfBody {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = Problems::responses();
        responses.insert("413".to_owned(), problem("The body is too long"));
        responses.insert("415".to_owned(), problem("The body is of another media type"));
        responses
    }
}

fn problem(about: &str) -> RefOr<Response> {
    let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
    RefOr::T(ResponseBuilder::new().description(about).content(CONTENT_TYPE, content).build())
}
