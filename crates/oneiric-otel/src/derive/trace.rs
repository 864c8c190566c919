//! What a trace is, computed from its spans and its warning and error logs.
//!
//! Pure: facts in, [`TraceSummary`] and [`Outline`] out; no clock, no database. Any input gives an answer: loops of
//! parents, missing roots, times anywhere in the range of a u64, equal span ids.

use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

/// The longest service name in a trace row, in bytes: it stands under a btree.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// The longest error message in a trace row, in bytes. The span keeps the whole.
const MAX_MESSAGE_BYTES: usize = 4096;
/// Services listed in a trace row at most.
const MAX_SERVICES: usize = 256;

/// What derivation reads of a span: everything but its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanFact {
    /// Start in nanoseconds since 1970; 0 means that the sender gave none.
    pub start_ns: u64,
    /// End - start, wrapping: the end may lie before the start.
    pub duration_ns: u64,
    /// Tells spans of one start apart, and finds the row again.
    pub hash: i64,
    /// The span's own id.
    pub id: [u8; 8],
    /// The parent's id, if there is one.
    pub parent: Option<[u8; 8]>,
    /// `service.name`.
    pub service: Arc<str>,
    /// Name of the operation.
    pub name: Arc<str>,
    /// `server`, `client` and so on.
    pub kind: Arc<str>,
    /// `error`, `ok` or `unset`.
    pub status: Arc<str>,
    /// HTTP status code, from whichever attribute carried it.
    pub http_status: Option<i16>,
    /// Whether attributes mark it as a step of an agent: a model's answer, a tool, a retrieval.
    pub agent: bool,
    /// `error.type` or the type of the exception.
    pub error_type: Option<String>,
    /// Message of the exception, cut.
    pub error_message: Option<String>,
    /// Description in the span's status, cut.
    pub status_message: Option<String>,
}

impl SpanFact {
    /// Whether the span says that it failed.
    pub fn failed(&self) -> bool {
        &*self.status == "error"
    }

    /// The end, as the sender said it.
    pub fn end_ns(&self) -> u64 {
        self.start_ns.wrapping_add(self.duration_ns)
    }

    /// How long it took; 0 when it ended before it began.
    pub fn elapsed_ns(&self) -> u64 {
        self.end_ns().saturating_sub(self.start_ns)
    }

    /// What is known of the error: the exception's message, else the status's description.
    pub fn message(&self) -> Option<&str> {
        self.error_message.as_deref().or(self.status_message.as_deref()).filter(|message| !message.trim().is_empty())
    }
}

/// What derivation reads of a warning or error log, or of one that carries an exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFact {
    /// Time in nanoseconds since 1970.
    pub time_ns: u64,
    /// `service.name`.
    pub service: Arc<str>,
    /// OTLP severity number, 1-24; 0 when the sender gave none.
    pub severity: i16,
    /// Body, cut.
    pub body: String,
    /// `exception.type`.
    pub exception_type: Option<String>,
    /// `exception.message`, cut.
    pub exception_message: Option<String>,
}

impl LogFact {
    /// Error or worse, or an exception.
    pub fn is_error(&self) -> bool {
        self.severity >= 17 || self.exception_type.is_some() || self.exception_message.is_some()
    }
}

/// Where the telling spans of a trace stand, as positions in its list of spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The earliest span without a parent; else the earliest whose parent is not in the trace; else the earliest.
    pub root: usize,
    /// The failing span that the failure came from: of those whose failure was handed up to the root, else of all, the
    /// deepest, and of equally deep ones the first.
    pub cause: Option<usize>,
    /// The span of another service that the cause called, if its failure has one below it.
    pub callee: Option<usize>,
    /// Where the time went, when that is not in the root itself.
    pub slowest: Option<Slowest>,
    /// Steps of an agent in order of time: all of them, or the first and the last ones of very many.
    pub agent_steps: Vec<usize>,
}

/// The span that took most time of its own: the time in which no deeper span lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowest {
    /// Its position.
    pub span: usize,
    /// A span of another service right below it: the time may have gone on the way there.
    pub callee: Option<usize>,
}

/// Agent steps whose contents are read at most. The beginning says what was asked, the end how it came out.
const AGENT_STEPS_FIRST: usize = 24;
const AGENT_STEPS_LAST: usize = 72;

/// A span is "where the time went" when its own time is at least this share of the root's.
const SLOW_SHARE_PERCENT: u128 = 30;

/// 2000-01-01 in nanoseconds since 1970.
const YEAR_2000_NS: u64 = 946_684_800_000_000_000;

/// What is known of all spans of a trace, also of those that were too many to be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of spans.
    pub spans: u64,
    /// Spans with status error.
    pub errors: u64,
    /// Earliest start of those that have one, in nanoseconds since 1970.
    pub start_ns: Option<u64>,
    /// Earliest start after the year 2000: a clock's word, not a default.
    pub real_start_ns: Option<u64>,
    /// Latest end, in nanoseconds since 1970.
    pub end_ns: u64,
    /// Whether a span without parent is there.
    pub root_seen: bool,
    /// Names of services, the first of them in their order.
    pub services: BTreeSet<Arc<str>>,
}

impl Totals {
    /// The totals of a list of spans.
    pub fn of(spans: &[SpanFact]) -> Self {
        let mut totals = Self::default();
        for span in spans {
            totals.add(span);
        }
        totals
    }

    /// Takes in one span more.
    pub fn add(&mut self, span: &SpanFact) {
        self.spans += 1;
        self.errors += u64::from(span.failed());
        if span.start_ns != 0 {
            self.start_ns = Some(self.start_ns.map_or(span.start_ns, |earliest| earliest.min(span.start_ns)));
        }
        if span.start_ns >= YEAR_2000_NS {
            self.real_start_ns = Some(self.real_start_ns.map_or(span.start_ns, |earliest| earliest.min(span.start_ns)));
        }
        self.end_ns = self.end_ns.max(span.end_ns()).max(span.start_ns);
        self.root_seen |= span.parent.is_none();
        if !self.services.contains(&span.service) {
            self.services.insert(Arc::clone(&span.service));
            if self.services.len() > MAX_SERVICES {
                self.services.pop_last();
            }
        }
    }
}

/// The derived columns of a trace's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSummary {
    /// Earliest start, in nanoseconds since 1970. Spans without a start count only when there are no others.
    pub start_ns: u64,
    /// Latest end of any span.
    pub end_ns: u64,
    /// End - start over all spans, at most `i64::MAX`.
    pub duration_ns: i64,
    /// Number of spans.
    pub span_count: i32,
    /// Spans with status error.
    pub error_count: i32,
    /// Whether a span without parent is there.
    pub root_seen: bool,
    /// `error` when any span says so; else `ok` when the root says so; else `unset`. Logs do not change it: a log of
    /// severity error may tell of a failure that was dealt with.
    pub status: &'static str,
    /// The root's service.
    pub service_name: String,
    /// The root's name.
    pub root_name: String,
    /// Names of all services, sorted, without repetition.
    pub services: Vec<String>,
    /// Type of the error of the cause; else of the first exception in the logs.
    pub error_type: Option<String>,
    /// Message of the error of the cause; else of the first error in the logs.
    pub error_message: Option<String>,
}

/// Finds the telling spans. `spans` must be in order of start and hash, so that equal input gives equal output.
///
/// `None` when there are no spans.
pub fn outline(spans: &[SpanFact]) -> Option<Outline> {
    let earliest = (0..spans.len()).min_by_key(|&index| start_key(&spans[index]))?;
    let tree = Tree::of(spans);
    let root = earliest_where(spans, |index| spans[index].parent.is_none())
        .or_else(|| earliest_where(spans, |index| tree.parent[index].is_none()))
        .unwrap_or(earliest);
    let depth = tree.depths();
    let cause = find_cause(spans, &tree, &depth);
    let callee =
        cause.and_then(|cause| tree.children(cause).find(|&child| spans[child].service != spans[cause].service));
    let mut agent_steps: Vec<usize> = (0..spans.len()).filter(|&index| spans[index].agent).collect();
    agent_steps.sort_by_key(|&index| start_key(&spans[index]));
    if agent_steps.len() > AGENT_STEPS_FIRST + AGENT_STEPS_LAST {
        let last = agent_steps.split_off(agent_steps.len() - AGENT_STEPS_LAST);
        agent_steps.truncate(AGENT_STEPS_FIRST);
        agent_steps.extend(last);
    }
    Some(Outline { root, cause, callee, slowest: find_slowest(spans, &tree, &depth, root), agent_steps })
}

/// Computes the row's columns from the totals of a trace, its telling spans and the first of its warning and error logs.
pub fn summarise(totals: &Totals, spans: &[SpanFact], logs: &[LogFact], outline: &Outline) -> TraceSummary {
    let start_ns = totals.start_ns.unwrap_or(0);
    let end_ns = totals.end_ns.max(start_ns);
    let root = &spans[outline.root];
    let status = if totals.errors > 0 {
        "error"
    } else if &*root.status == "ok" {
        "ok"
    } else {
        "unset"
    };
    let cause = outline.cause.map(|cause| &spans[cause]);
    let exception = logs.iter().find(|log| log.exception_type.is_some() || log.exception_message.is_some());
    let error_log = exception.or_else(|| logs.iter().find(|log| log.is_error()));
    let error_type =
        cause.and_then(|span| span.error_type.clone()).or_else(|| error_log.and_then(|log| log.exception_type.clone()));
    let error_message = cause
        .and_then(|span| span.message().map(str::to_owned))
        .or_else(|| error_log.map(|log| log.exception_message.clone().unwrap_or_else(|| log.body.clone())));
    TraceSummary {
        start_ns,
        end_ns,
        duration_ns: i64::try_from(end_ns - start_ns).unwrap_or(i64::MAX),
        span_count: i32::try_from(totals.spans).unwrap_or(i32::MAX),
        error_count: i32::try_from(totals.errors).unwrap_or(i32::MAX),
        root_seen: totals.root_seen,
        status,
        service_name: cut(&root.service, MAX_NAME_BYTES),
        root_name: cut(&root.name, MAX_NAME_BYTES),
        services: totals.services.iter().map(|service| cut(service, MAX_NAME_BYTES)).collect(),
        error_type: error_type.map(|value| cut(&value, MAX_NAME_BYTES)),
        error_message: error_message.map(|value| cut(&value, MAX_MESSAGE_BYTES)),
    }
}

/// `text` or its longest beginning of at most `bytes` bytes that ends between two characters.
pub(crate) fn cut(text: &str, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// Order of time; spans without a start come last.
fn start_key(span: &SpanFact) -> (bool, u64, i64) {
    (span.start_ns == 0, span.start_ns, span.hash)
}

fn earliest_where(spans: &[SpanFact], wanted: impl Fn(usize) -> bool) -> Option<usize> {
    (0..spans.len()).filter(|&index| wanted(index)).min_by_key(|&index| start_key(&spans[index]))
}

/// Parents and children by position.
pub(crate) struct Tree {
    parent: Vec<Option<usize>>,
    /// All children, grouped by parent.
    children: Vec<usize>,
    /// Where each parent's group begins in `children`; one more entry than there are spans.
    first_child: Vec<usize>,
}

impl Tree {
    pub(crate) fn of(spans: &[SpanFact]) -> Self {
        let mut by_id = HashMap::with_capacity(spans.len());
        for (index, span) in spans.iter().enumerate() {
            // Of spans that share an id the first is the parent.
            by_id.entry(span.id).or_insert(index);
        }
        let parent: Vec<Option<usize>> = spans
            .iter()
            .enumerate()
            .map(|(index, span)| {
                let found = by_id.get(&span.parent?).copied()?;
                (found != index).then_some(found)
            })
            .collect();
        let mut first_child = vec![0; spans.len() + 1];
        for parent in parent.iter().flatten() {
            first_child[parent + 1] += 1;
        }
        for index in 0..spans.len() {
            first_child[index + 1] += first_child[index];
        }
        let mut next = first_child.clone();
        let mut children = vec![0; *first_child.last().unwrap_or(&0)];
        for (index, parent) in parent.iter().enumerate() {
            if let Some(parent) = *parent {
                children[next[parent]] = index;
                next[parent] += 1;
            }
        }
        Self { parent, children, first_child }
    }

    pub(crate) fn parent(&self, index: usize) -> Option<usize> {
        self.parent[index]
    }

    pub(crate) fn children(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        self.children[self.first_child[index]..self.first_child[index + 1]].iter().copied()
    }

    /// The first span of another service right below.
    fn callee(&self, spans: &[SpanFact], index: usize) -> Option<usize> {
        self.children(index).find(|&child| spans[child].service != spans[index].service)
    }

    /// Distance from the top. Spans in a loop of parents, and those below one, have depth 0.
    pub(crate) fn depths(&self) -> Vec<u32> {
        let mut depth = vec![0; self.parent.len()];
        let mut open: Vec<usize> = (0..self.parent.len()).filter(|&index| self.parent[index].is_none()).collect();
        while let Some(index) = open.pop() {
            for child in self.children(index) {
                depth[child] = depth[index] + 1;
                open.push(child);
            }
        }
        depth
    }
}

fn find_cause(spans: &[SpanFact], tree: &Tree, depth: &[u32]) -> Option<usize> {
    // A failure counts as handed up when every span above it failed too. Walking down from failing tops finds those.
    let mut handed_up = vec![false; spans.len()];
    let mut open: Vec<usize> =
        (0..spans.len()).filter(|&index| tree.parent[index].is_none() && spans[index].failed()).collect();
    while let Some(index) = open.pop() {
        handed_up[index] = true;
        open.extend(tree.children(index).filter(|&child| spans[child].failed()));
    }
    (0..spans.len())
        .filter(|&index| spans[index].failed())
        .min_by_key(|&index| (!handed_up[index], std::cmp::Reverse(depth[index]), start_key(&spans[index])))
}

fn find_slowest(spans: &[SpanFact], tree: &Tree, depth: &[u32], root: usize) -> Option<Slowest> {
    let whole = u128::from(spans[root].elapsed_ns());
    let own = own_times(spans, depth);
    let slowest = (0..spans.len()).max_by_key(|&index| (own[index], std::cmp::Reverse(start_key(&spans[index]))))?;
    if slowest == root || whole == 0 || own[slowest] * 100 < whole * SLOW_SHARE_PERCENT {
        return None;
    }
    Some(Slowest { span: slowest, callee: tree.callee(spans, slowest) })
}

/// Gives every moment to the deepest of the spans that last then, and of equally deep ones to the one that began last.
fn own_times(spans: &[SpanFact], depth: &[u32]) -> Vec<u128> {
    let mut own = vec![0; spans.len()];
    let mut order: Vec<usize> = (0..spans.len()).filter(|&index| spans[index].elapsed_ns() > 0).collect();
    order.sort_unstable_by_key(|&index| start_key(&spans[index]));
    let mut moments: Vec<u64> =
        order.iter().flat_map(|&index| [spans[index].start_ns, spans[index].end_ns()]).collect();
    moments.sort_unstable();
    moments.dedup();
    let mut waiting = order.into_iter().peekable();
    let mut open = BinaryHeap::new();
    for pair in moments.windows(2) {
        let [from, to] = pair else { break };
        while let Some(index) = waiting.next_if(|&index| spans[index].start_ns <= *from) {
            open.push((depth[index], start_key(&spans[index]), index));
        }
        while open.peek().is_some_and(|&(.., index)| spans[index].end_ns() <= *from) {
            open.pop();
        }
        if let Some(&(.., index)) = open.peek() {
            own[index] += u128::from(to - from);
        }
    }
    own
}

#[cfg(test)]
mod tests;
