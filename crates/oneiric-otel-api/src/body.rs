//! The body of a request as JSON, read strictly.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::problem::{Problem, ProblemType};

/// The body as `T`. Its media type has to be said: a page of another origin cannot send it unasked then.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let said =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = said.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let detail = "expected a body of the media type application/json";
            return Err(Problem::new(ProblemType::UnsupportedMediaType, detail));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::new(ProblemType::BodyTooLarge, "the body is longer than is accepted")
            }
            _ => Problem::new(ProblemType::InvalidArgument, "the body did not arrive as a whole"),
        })?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (name, reason) = (error.path().to_string(), error.into_inner().to_string());
            match name.as_str() {
                "." => Problem::new(ProblemType::InvalidArgument, format!("the body: {reason}")),
                _ => Problem::of_parameter(name, reason),
            }
        })?;
        json.end().map_err(|error| Problem::new(ProblemType::InvalidArgument, format!("the body: {error}")))?;
        Ok(Self(read))
    }
}
