//! Metrics: which there are, their labels, and their values over time.

use std::time::Duration;

use jiff::SignedDuration;
use oneiric_otel::query::{MetricLabel, MetricOverview, MetricRange, MetricsRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Asked;
use crate::answer::Answer;
use crate::asking::Asking;
use crate::openapi::Problems;
use crate::parameters::{AggregationName, Flag, Label, Limit, Name, Query, Took, ranged};
use crate::problem::Problem;

/// Steps of a series, where their length is not given.
const USUAL_STEPS: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<Asked> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(labels)).routes(routes!(range))
}

/// Which metrics to list.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FindMetrics {
    /// A part of the name, in either case.
    #[param(inline)]
    name: Option<Name>,
    /// Metrics of this service.
    #[param(inline)]
    service: Option<Name>,
    /// How many at most.
    #[serde(default = "Limit::many")]
    #[param(inline, default = 100)]
    limit: Limit,
}

/// The metrics that are stored, by name.
#[utoipa::path(get, path = "/api/v1/metrics", tag = "metrics", params(FindMetrics),
    responses((status = 200, description = "The metrics", body = Vec<MetricOverview>), Problems))]
async fn metrics(
    Asking(service): Asking,
    Query(query): Query<FindMetrics>,
) -> Result<Answer<Vec<MetricOverview>>, Problem> {
    let name = query.name.as_ref().map(|name| name.0.as_str());
    let of = query.service.as_ref().map(|name| name.0.as_str());
    Ok(Answer::now(service.metrics(name, of, query.limit.0).await?))
}

/// Of which metric.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfMetric {
    /// The metric.
    #[param(inline)]
    name: Name,
}

/// The labels of a metric with their values.
#[utoipa::path(get, path = "/api/v1/metrics/labels", tag = "metrics", params(OfMetric),
    responses((status = 200, description = "The labels", body = Vec<MetricLabel>), Problems))]
async fn labels(Asking(service): Asking, Query(query): Query<OfMetric>) -> Result<Answer<Vec<MetricLabel>>, Problem> {
    Ok(Answer::now(service.metric_labels(&query.name.0).await?))
}

ranged! {
    /// Which values of a metric.
    pub(crate) struct FindValues {
        /// The metric.
        #[param(inline)]
        name: Name,
        /// Series of this service.
        #[param(inline)]
        service: Option<Name>,
        /// Series with this label, `key=value`; all that are given must be met.
        #[serde(default)]
        #[param(inline, style = Form, explode, required = false)]
        label: Vec<Label>,
        /// Time between two points; a hundredth of the time asked about if not given.
        #[param(inline)]
        step: Option<Took>,
        /// How the values of a step become one: `avg`, `sum`, `min`, `max`, `count`, `last`, `rate`, `increase`, or `p95`
        /// and the like.
        #[serde(default)]
        #[param(inline, default = "avg")]
        aggregation: AggregationName,
        /// Labels by which series are put together.
        #[serde(default)]
        #[param(inline, style = Form, explode, required = false)]
        group_by: Vec<Name>,
        /// Whether all series are put into one.
        #[serde(default)]
        #[param(inline, default = false)]
        total: Flag,
    }
}

/// A metric over a range of time.
#[utoipa::path(get, path = "/api/v1/metrics/range", tag = "metrics", params(FindValues),
    responses((status = 200, description = "The values", body = MetricRange), Problems))]
async fn range(Asking(service): Asking, Query(query): Query<FindValues>) -> Result<Answer<MetricRange>, Problem> {
    let range = query.range()?;
    let (start, end) = (range.start(), range.end());
    let usual = || {
        let seconds = end.duration_since(start).as_secs().div_euclid(USUAL_STEPS).max(1);
        Duration::try_from(SignedDuration::from_secs(seconds)).unwrap_or(Duration::from_secs(1))
    };
    let apart = query.group_by.is_empty() && !query.total.0;
    let request = MetricsRequest {
        name: query.name.0.clone(),
        labels: query.label.iter().map(|label| label.0.clone()).collect(),
        service: query.service.as_ref().map(|name| name.0.clone()),
        start,
        end,
        step: query.step.map_or_else(usual, |took| took.0),
        aggregation: query.aggregation.0,
        group_by: (!apart).then(|| query.group_by.iter().map(|name| name.0.clone()).collect()),
    };
    Ok(Answer::until(query.ends(), service.get_metrics_by_time_range(&request).await?))
}
