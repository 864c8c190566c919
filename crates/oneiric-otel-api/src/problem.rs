//! What goes wrong, as problem details of RFC 9457.
//!
//! What the database or the system says of its inside goes to the log and not to the client.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use oneiric_otel::query::QueryError;
use oneiric_otel::store::{ErrorClass, SqlError, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of problem details.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// The SQLSTATE of a statement that was given up.
const CANCELLED: &str = "57014";

/// When to come again after a 503.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// What kind of problem it is.
    #[serde(rename = "type")]
    pub(crate) kind: ProblemType,
    /// The kind in words.
    pub(crate) title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub(crate) status: u16,
    /// What happened here, for a person.
    pub(crate) detail: String,
    /// The parameter that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parameter: Option<String>,
    /// What PostgreSQL says of a statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sql: Option<Box<SqlError>>,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) enum ProblemType {
    /// A parameter is not known, or its value not understood.
    #[serde(rename = "urn:oneiric-otel:problem:invalid-argument")]
    InvalidArgument,
    /// A parameter names something that nothing stored has.
    #[serde(rename = "urn:oneiric-otel:problem:unknown-name")]
    UnknownName,
    /// There is no token, or a wrong one.
    #[serde(rename = "urn:oneiric-otel:problem:unauthenticated")]
    Unauthenticated,
    /// What was asked for is not there.
    #[serde(rename = "urn:oneiric-otel:problem:not-found")]
    NotFound,
    /// The database refuses the statement: `sql` says why.
    #[serde(rename = "urn:oneiric-otel:problem:sql")]
    Sql,
    /// The body of the request is longer than is accepted.
    #[serde(rename = "urn:oneiric-otel:problem:body-too-large")]
    BodyTooLarge,
    /// The body of the request is of another media type.
    #[serde(rename = "urn:oneiric-otel:problem:unsupported-media-type")]
    UnsupportedMediaType,
    /// The path is there, but not for this method.
    #[serde(rename = "urn:oneiric-otel:problem:method-not-allowed")]
    MethodNotAllowed,
    /// Something went wrong that the server's log tells more of.
    #[serde(rename = "urn:oneiric-otel:problem:internal")]
    Internal,
    /// The answer needs something that is missing, or missing for now.
    #[serde(rename = "urn:oneiric-otel:problem:unavailable")]
    Unavailable,
    /// The answer would have taken too long.
    #[serde(rename = "urn:oneiric-otel:problem:too-slow")]
    TooSlow,
}

impl ProblemType {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument | Self::UnknownName | Self::Sql => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooSlow => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Invalid argument",
            Self::UnknownName => "Unknown name",
            Self::Sql => "Statement refused",
            Self::BodyTooLarge => "Body too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::Unauthenticated => "Unauthenticated",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Internal => "Internal error",
            Self::Unavailable => "Unavailable",
            Self::TooSlow => "Too slow",
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title: kind.title().to_owned(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            parameter: None,
            sql: None,
        }
    }

    /// A parameter is wrong: `reason` says what is accepted.
    pub(crate) fn of_parameter(name: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let name = name.into();
        let detail = format!("{name}: {reason}");
        Self { parameter: Some(name), ..Self::new(ProblemType::InvalidArgument, detail) }
    }

    /// The answer to somebody who shows no token, or a wrong one.
    pub(crate) fn unauthenticated(reason: &str) -> Self {
        Self::new(ProblemType::Unauthenticated, reason)
    }

    fn of_store(error: &StoreError) -> Self {
        match error.class() {
            ErrorClass::Transient => {
                tracing::warn!(%error, "a question was not answered: the database is away or busy");
                Self::new(ProblemType::Unavailable, "the database is away or busy; try again later")
            }
            ErrorClass::BadData => {
                tracing::info!(%error, "a question was not answered: the database does not take its values");
                Self::new(ProblemType::InvalidArgument, "the database does not take these values")
            }
            ErrorClass::Misconfigured => {
                tracing::error!(%error, "a question was not answered");
                Self::new(ProblemType::Internal, "the database is not as it must be; the server's log says more")
            }
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::InvalidArgument { name, accepted } => {
                Self::of_parameter(name, format_args!("expected {accepted}"))
            }
            QueryError::NotFound { .. } => Self::new(ProblemType::NotFound, error.to_string()),
            QueryError::Unknown { name, .. } => {
                let detail = error.to_string();
                Self { parameter: Some(name.to_owned()), ..Self::new(ProblemType::UnknownName, detail) }
            }
            QueryError::Unavailable { .. } => Self::new(ProblemType::Unavailable, error.to_string()),
            QueryError::Sql(error) if error.code == CANCELLED => Self::new(ProblemType::TooSlow, error.to_string()),
            QueryError::Sql(error) => {
                Self { sql: Some(error.clone()), ..Self::new(ProblemType::Sql, error.to_string()) }
            }
            QueryError::TooLong | QueryError::NotTaken { .. } => Self::new(ProblemType::TooSlow, error.to_string()),
            QueryError::Store(error) => Self::of_store(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        // What failed now may succeed in a moment.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}
