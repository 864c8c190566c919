//! Labels that no stream of a metric has: an error, where the answer would say nothing.

use super::{MAX_NAMES_COMPARED, MetricsRequest};
use crate::query::{QueryError, QueryService, nearest};
use crate::store::metrics::{SERVICE, StreamRow};

impl QueryService {
    /// Refuses a label that no stream of the metric has. What the streams that were found have is known from them; the
    /// others are asked about only when that does not explain a request.
    ///
    /// # Errors
    /// [`QueryError::Unknown`] with the labels that are nearest.
    pub(super) async fn check_labels(&self, request: &MetricsRequest, streams: &[StreamRow]) -> Result<(), QueryError> {
        let has = |stream: &StreamRow, key: &str| {
            key == SERVICE || stream.attributes.contains_key(key) || stream.resource.contains_key(key)
        };
        let filters = request.labels.iter().map(|(key, _)| ("labels", key));
        let groups = request.group_by.iter().flatten().map(|key| ("group_by", key));
        let asked: Vec<(&'static str, &String)> =
            filters.chain(groups).filter(|(_, key)| !streams.iter().any(|stream| has(stream, key))).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let known = self.database.label_keys(&request.name, MAX_NAMES_COMPARED).await?;
        if known.len() as i64 == MAX_NAMES_COMPARED {
            return Ok(()); // There are others.
        }
        match asked.into_iter().find(|(_, key)| !known.contains(key)) {
            Some((name, key)) => Err(QueryError::Unknown { name, value: key.clone(), near: nearest(key, known) }),
            None => Ok(()),
        }
    }
}
