//! Logs by what they mean: the templates nearest to a description, and their records.

use serde::Serialize;

use super::{Level, LogPage, LogsRequest};
use crate::query::argument::service_argument;
use crate::query::{QueryError, QueryService, check_limit};

/// A template whose cosine to the description is lower is not near. Seen with all-MiniLM-L6-v2 on eight kinds of error
/// lines: the right line for seven descriptions came to 0.24-0.41, all lines for three descriptions of other things
/// altogether to 0.10 at most, and for one of a fault that none of them tells of to 0.18.
pub const LOG_FLOOR: f64 = 0.22;

/// Templates of one answer at most.
const MAX_TEMPLATES: i64 = 20;
/// Characters of a description at most.
const MAX_CHARACTERS: usize = 1000;

/// Logs that mean what was described.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogsByMeaning {
    /// The templates that are near, nearest first.
    pub templates: Vec<NearLogTemplate>,
    /// Their records, the newest first. `next` goes on in [`QueryService::search_logs`], with the request's `query` left
    /// out and [`LogsRequest::templates`] set to those of this answer, in their order.
    pub page: LogPage,
    /// Whether no template that passes the filters is near the description.
    pub nothing_near: bool,
}

/// A template that is near a description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NearLogTemplate {
    /// Its id.
    pub template_id: i64,
    /// Cosine of template and description.
    pub cosine: f64,
    /// Service that says it.
    pub service_name: String,
    /// Class of its severity; none when its records come without one.
    pub level: Option<Level>,
    /// What its records say, with `<*>` where something varies.
    pub template: String,
}

impl QueryService {
    /// Logs whose templates mean what `query` of the request describes, in words of its own. The other fields filter;
    /// a cursor is not looked at.
    ///
    /// # Errors
    /// As [`Self::search_logs`], and [`QueryError::Unavailable`] without a model, pgvector, or any template with a
    /// vector.
    pub async fn search_logs_by_meaning(&self, request: &LogsRequest) -> Result<LogsByMeaning, QueryError> {
        check_limit(request.limit)?;
        let question = request.query.as_deref().unwrap_or_default().trim();
        if question.is_empty() || question.contains('\0') || question.chars().count() > MAX_CHARACTERS {
            return Err(QueryError::InvalidArgument {
                name: "query",
                accepted: format!("a description of 1 to {MAX_CHARACTERS} characters without NUL"),
            });
        }
        let level = request.level.as_deref().map(Level::read).transpose()?;
        let service = service_argument(request.service.as_deref())?;
        if let Some(service) = &request.service {
            self.check_service(service).await?;
        }
        let (model, vector) = self.vector_of(question).await?;
        let filter = (service.as_deref(), level.map(Level::number));
        let mut near = self.database.nearest_templates(&model, &vector, filter, MAX_TEMPLATES).await?;
        near.retain(|template| template.cosine >= LOG_FLOOR);
        let ids: Vec<i64> = near.iter().map(|template| template.template_id).collect();
        let records = LogsRequest { query: None, cursor: None, templates: Some(ids), ..request.clone() };
        let page = if near.is_empty() {
            LogPage { logs: Vec::new(), next: None, searched_back_to: None }
        } else {
            self.search_logs(&records).await?
        };
        let templates = near.into_iter().map(|near| NearLogTemplate {
            template_id: near.template_id,
            cosine: near.cosine,
            service_name: near.template.service_name,
            level: Level::of(near.template.severity, None),
            template: near.template.text,
        });
        let templates: Vec<NearLogTemplate> = templates.collect();
        Ok(LogsByMeaning { nothing_near: templates.is_empty(), templates, page })
    }
}
