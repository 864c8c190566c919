//! Spans of workflows and of the tasks in them, as guards that end on drop.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use super::{Refusal, Shared};
use crate::storage::{
    AttributeValue, Attributes, Batch, Level, LogEntry, Moment, SpanData, SpanEvent, SpanId, SpanKind, SpanStatus,
    TraceData, TraceId,
};

/// The id of a run of a workflow.
pub const WORKFLOW_ID: &str = "workflow.id";
/// What the workflow is called.
pub const WORKFLOW_NAME: &str = "workflow.name";
/// What a task is called.
pub const TASK_NAME: &str = "workflow.task.name";
/// The repository that is worked on, as the semantic conventions have it.
pub const REPOSITORY_NAME: &str = "vcs.repository.name";

/// Causes of an error that are told at most.
const MOST_CAUSES: usize = 16;

/// A span that is under way: a workflow, a task, the work on a repository. It ends with [`Self::end`], or when it is
/// dropped; one that is dropped by a panic ends with an error. Spans within it are made from it and carry its trace, and the
/// workflow's id, its name and the repository as attributes. A guard can be sent to another task or thread.
#[derive(Debug)]
pub struct SpanGuard {
    shared: Arc<Shared>,
    /// None once it has ended.
    data: Option<SpanData>,
    began: Instant,
    /// Attributes that spans and log records within it carry too.
    inherited: Attributes,
}

impl SpanGuard {
    pub(super) fn workflow(shared: &Arc<Shared>, id: &str, name: &str, attributes: Attributes) -> Self {
        let inherited = Attributes::from([(WORKFLOW_ID, id), (WORKFLOW_NAME, name)]);
        let data = SpanData::new(TraceId::random(), SpanId::random(), name);
        Self::begin(shared, data, inherited, attributes)
    }

    fn begin(shared: &Arc<Shared>, mut data: SpanData, inherited: Attributes, own: Attributes) -> Self {
        data.attributes = with_own(&inherited, own);
        Self { shared: Arc::clone(shared), data: Some(data), began: Instant::now(), inherited }
    }

    /// A span within this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        self.within(name, self.inherited.clone(), Attributes::default())
    }

    /// A task within this span: its name is that of the span, too.
    #[must_use]
    pub fn task(&self, name: &str) -> Self {
        self.within(name, self.inherited.clone(), Attributes::from([(TASK_NAME, name)]))
    }

    /// Work on a repository: spans and log records within it carry its name.
    #[must_use]
    pub fn repository(&self, operation: &str, repository: &str) -> Self {
        let mut inherited = self.inherited.clone();
        inherited.0.retain(|(key, _)| key != REPOSITORY_NAME);
        inherited.insert(REPOSITORY_NAME, repository);
        self.within(operation, inherited, Attributes::default())
    }

    fn within(&self, name: &str, inherited: Attributes, own: Attributes) -> Self {
        let mut data = SpanData::new(self.trace_id(), SpanId::random(), name);
        data.parent_span_id = Some(self.span_id());
        Self::begin(&self.shared, data, inherited, own)
    }

    /// Its trace.
    pub fn trace_id(&self) -> TraceId {
        self.data.as_ref().map_or(TraceId([0; 16]), |data| data.trace_id)
    }

    /// Its id.
    pub fn span_id(&self) -> SpanId {
        self.data.as_ref().map_or_else(|| SpanId(Vec::new()), |data| data.span_id.clone())
    }

    /// What a request to another process carries in the header `traceparent`, so that its spans continue this one.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id(), self.span_id())
    }

    /// Says what this span is to its neighbours; without it, a step within the process.
    pub fn set_kind(&mut self, kind: SpanKind) {
        self.change(|data| data.kind = kind);
    }

    /// Sets an attribute; one that has the key already is replaced.
    pub fn set_attribute(&mut self, key: &str, value: impl Into<AttributeValue>) {
        self.change(|data| {
            data.attributes.0.retain(|(known, _)| known != key);
            data.attributes.insert(key, value);
        });
    }

    /// Notes something that happens now.
    pub fn add_event(&mut self, name: &str, attributes: impl Into<Attributes>) {
        self.change(|data| {
            data.events.push(SpanEvent { time: Moment::now(), name: name.to_owned(), attributes: attributes.into() });
        });
    }

    /// Notes an error as an exception, with its causes. The status stays as it is: it may have been dealt with.
    pub fn record_exception<E: Error + ?Sized>(&mut self, error: &E) {
        let kind = std::any::type_name::<E>();
        // Of an error behind a pointer nothing but its trait is known.
        let kind = if kind.starts_with("dyn ") { "Error" } else { kind };
        self.add_event("exception", [("exception.type", kind.to_owned()), ("exception.message", told(error))]);
    }

    /// Notes an error as an exception, and that the span fails by it.
    pub fn fail<E: Error + ?Sized>(&mut self, error: &E) {
        self.record_exception(error);
        self.set_error(&error.to_string());
    }

    /// Says that the span fails, and why.
    pub fn set_error(&mut self, message: &str) {
        self.change(|data| {
            data.status = SpanStatus::Error;
            message.clone_into(&mut data.status_message);
        });
    }

    /// Says that the span went well. Whoever says nothing leaves that open.
    pub fn set_ok(&mut self) {
        self.change(|data| {
            data.status = SpanStatus::Ok;
            data.status_message.clear();
        });
    }

    pub(super) fn set_ok_if_unset(&mut self) {
        if self.data.as_ref().is_some_and(|data| data.status == SpanStatus::Unset) {
            self.set_ok();
        }
    }

    /// Writes a log record of this span.
    ///
    /// # Errors
    /// As [`super::ObservabilityManager::log`].
    pub fn log(
        &self,
        level: Level,
        message: impl Into<String>,
        attributes: impl Into<Attributes>,
    ) -> Result<(), Refusal> {
        let mut entry = LogEntry::new(level, message.into());
        entry.attributes = with_own(&self.inherited, attributes.into());
        severity_name(level).clone_into(&mut entry.severity_text);
        (entry.trace_id, entry.span_id) = (Some(self.trace_id()), Some(self.span_id()));
        self.shared.log(entry)
    }

    /// Ends the span now.
    ///
    /// # Errors
    /// [`Refusal`], of a destination that does not get it.
    pub fn end(mut self) -> Result<(), Refusal> {
        self.finish()
    }

    fn change(&mut self, change: impl FnOnce(&mut SpanData)) {
        if let Some(data) = &mut self.data {
            change(data);
        }
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        let Some(mut data) = self.data.take() else { return Ok(()) };
        // By a clock that nobody sets: a span never ends before it begins.
        let took = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        data.end_time = Moment(data.start_time.0.saturating_add(took));
        let traces = vec![TraceData { origin: None, spans: vec![data] }];
        self.shared.send(crate::otlp::Signal::Traces, 1, Batch { traces, ..Batch::default() })
    }
}

impl Drop for SpanGuard {
    fn drop(&mut self) {
        if std::thread::panicking() && self.data.as_ref().is_some_and(|data| data.status == SpanStatus::Unset) {
            self.set_error("panicked");
        }
        // Counted where it is refused.
        drop(self.finish());
    }
}

/// Inherited attributes and a record's own, which win.
fn with_own(inherited: &Attributes, own: Attributes) -> Attributes {
    let mut attributes = inherited.clone();
    attributes.0.retain(|(key, _)| !own.0.iter().any(|(own, _)| own == key));
    attributes.0.extend(own.0);
    attributes
}

/// What the manager calls a level.
fn severity_name(level: Level) -> &'static str {
    match level {
        Level::Trace => "TRACE",
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARNING",
        Level::Error => "ERROR",
        Level::Fatal => "CRITICAL",
    }
}

/// An error and what led to it.
fn told<E: Error + ?Sized>(error: &E) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    let mut causes = 0;
    while let Some(error) = cause.filter(|_| causes < MOST_CAUSES) {
        text.push_str("; because of: ");
        text.push_str(&error.to_string());
        cause = error.source();
        causes += 1;
    }
    text
}
