//! What there is: services, their operations, and who calls whom.

use oneiric_otel::query::{Catalogue, Dependencies, Operations, OperationsRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::openapi::Problems;
use crate::parameters::{Limit, Name, Query, ranged};
use crate::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new().routes(routes!(services)).routes(routes!(operations)).routes(routes!(dependencies))
}

ranged! {
    /// When.
    pub(crate) struct When {}
}

/// The services that took part in traces.
#[utoipa::path(get, path = "/api/v1/services", tag = "catalogue", params(When),
    responses((status = 200, description = "The services", body = Catalogue), Problems))]
async fn services(Asking(service): Asking, Query(query): Query<When>) -> Result<Answer<Catalogue>, Problem> {
    Ok(Answer::until(query.ends(), service.services(query.range()?).await?))
}

ranged! {
    /// Of which service.
    pub(crate) struct OfService {
        /// The service.
        #[param(inline)]
        service: Name,
        /// How many at most.
        #[serde(default = "Limit::many")]
        #[param(inline, default = 100)]
        limit: Limit,
    }
}

/// The operations of a service, the most frequent first.
#[utoipa::path(get, path = "/api/v1/operations", tag = "catalogue", params(OfService),
    responses((status = 200, description = "The operations", body = Operations), Problems))]
async fn operations(Asking(service): Asking, Query(query): Query<OfService>) -> Result<Answer<Operations>, Problem> {
    let request = OperationsRequest { range: query.range()?, service: query.service.0.clone(), limit: query.limit.0 };
    Ok(Answer::until(query.ends(), service.operations(&request).await?))
}

/// Who calls whom: the service map.
#[utoipa::path(get, path = "/api/v1/dependencies", tag = "catalogue", params(When),
    responses((status = 200, description = "Who calls whom", body = Dependencies), Problems))]
async fn dependencies(Asking(service): Asking, Query(query): Query<When>) -> Result<Answer<Dependencies>, Problem> {
    Ok(Answer::until(query.ends(), service.dependencies(query.range()?).await?))
}
