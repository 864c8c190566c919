//! Which attributes there are, and which values they have.

use oneiric_otel::query::{AttributeKeys, AttributeKeysRequest, AttributeValues, AttributeValuesRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::openapi::Problems;
use crate::parameters::{Limit, Name, Prefix, Query, SignalName, ranged};
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new().routes(routes!(keys)).routes(routes!(values))
}

ranged! {
    /// Which attributes.
    pub(crate) struct FindKeys {
        /// Attributes of what, and of its resources.
        #[serde(default)]
        #[param(inline)]
        signal: SignalName,
        /// How their names begin, in either case.
        #[serde(default)]
        #[param(inline)]
        prefix: Prefix,
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
    }
}

/// Attributes by the beginning of their name, the most frequent first, from a sample of records.
#[utoipa::path(get, path = "/api/v1/attributes", tag = "catalogue", params(FindKeys),
    responses((status = 200, description = "The attributes", body = AttributeKeys), Problems))]
async fn keys(Asking(service): Asking, Query(query): Query<FindKeys>) -> Result<Answer<AttributeKeys>, Problem> {
    let request = AttributeKeysRequest {
        signal: query.signal.otlp(),
        prefix: query.prefix.0.clone(),
        range: query.range()?,
        limit: query.limit.0,
    };
    Ok(Answer::until(query.ends(), service.attribute_keys(&request).await?))
}

ranged! {
    /// Which values.
    pub(crate) struct FindAttributeValues {
        /// The attribute, under any of its names.
        #[param(inline)]
        key: Name,
        /// Attributes of what, and of its resources.
        #[serde(default)]
        #[param(inline)]
        signal: SignalName,
        /// How the values begin, as text, in either case.
        #[serde(default)]
        #[param(inline)]
        prefix: Prefix,
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
    }
}

/// Values of an attribute by their beginning, the most frequent first, from a sample of records.
#[utoipa::path(get, path = "/api/v1/attributes/values", tag = "catalogue", params(FindAttributeValues),
    responses((status = 200, description = "The values", body = AttributeValues), Problems))]
async fn values(
    Asking(service): Asking,
    Query(query): Query<FindAttributeValues>,
) -> Result<Answer<AttributeValues>, Problem> {
    let request = AttributeValuesRequest {
        signal: query.signal.otlp(),
        key: query.key.0.clone(),
        prefix: query.prefix.0.clone(),
        range: query.range()?,
        limit: query.limit.0,
    };
    Ok(Answer::until(query.ends(), service.attribute_values(&request).await?))
}
