//! Logs by what they mean: the templates nearest to a description, and their records.

use serde::Serialize;

use super::{Level, LogPage, LogsRequest, TemplateId};
use crate::query::argument::service_argument;
use crate::query::{QueryError, QueryService, check_limit};
use crate::store::template_vectors::TemplateFilter;

/// A template whose cosine to the description is lower is not near. Measured with all-MiniLM-L6-v2 on the templates of a
/// recorded system, see docs/benchmarks.md: templates that answer a question are above, those nearest to a question about
/// something else mostly below. A higher floor would lose lines of few words.
pub const LOG_FLOOR: f64 = 0.22;

/// Templates of one answer at most.
const MAX_TEMPLATES: i64 = 20;
/// Characters of a description at most.
const MAX_CHARACTERS: usize = 1000;

/// Logs that mean what was described.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NearLogTemplate {
    /// Its id.
    pub template_id: TemplateId,
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
        let among: Option<Vec<i64>> = request.templates.as_ref().map(|ids| ids.iter().map(|id| id.0).collect());
        let filter =
            TemplateFilter { service: service.as_deref(), severity: level.map(Level::number), among: among.as_deref() };
        let mut near = self.database.nearest_templates(&model, &vector, filter, MAX_TEMPLATES).await?;
        near.retain(|template| template.cosine >= LOG_FLOOR);
        let ids = near.iter().map(|template| TemplateId(template.template_id)).collect();
        let records = LogsRequest { query: None, cursor: None, templates: Some(ids), ..request.clone() };
        let page = if near.is_empty() {
            LogPage { logs: Vec::new(), next: None, searched_back_to: None }
        } else {
            self.search_logs(&records).await?
        };
        let templates = near.into_iter().map(|near| NearLogTemplate {
            template_id: TemplateId(near.template_id),
            cosine: near.cosine,
            service_name: near.template.service_name,
            level: Level::of(near.template.severity, None),
            template: near.template.text,
        });
        let templates: Vec<NearLogTemplate> = templates.collect();
        Ok(LogsByMeaning { nothing_near: templates.is_empty(), templates, page })
    }
}
