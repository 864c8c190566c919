//! The routes, one module for each kind of question.

mod attributes;
mod catalogue;
mod errors;
mod logs;
mod metrics;
mod spans;
mod sql;
mod traces;

use utoipa_axum::router::OpenApiRouter;

use crate::Asked;

/// All of them.
pub(crate) fn all() -> OpenApiRouter<Asked> {
    OpenApiRouter::new()
        .merge(traces::routes())
        .merge(spans::routes())
        .merge(errors::routes())
        .merge(catalogue::routes())
        .merge(logs::routes())
        .merge(sql::routes())
        .merge(metrics::routes())
        .merge(attributes::routes())
}
