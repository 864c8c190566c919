//! Where the time of a trace went: which span, at every moment, the root was waiting for.
//!
//! Pure: facts in, path out. The path goes backwards from the end of the root. A span waited last for the child that
//! ended last; before that child began, for the child that ended last before that, and so on down. What lies between is
//! the span's own. So the path covers every moment of the root exactly once, and its parts add up to the root's time.
//!
//! * *Children that overlap*: only one that ended before the next began can have held it up.
//! * *Children that nobody waited for*: those of a message queue, those that began after their parent had ended, and
//!   those that outlived a parent which did not call them over the network, are not on the path.
//! * *Calls*: a server's span lies within its client's. If it fits there and says otherwise, its clock is wrong, and it is
//!   moved to the middle with everything on that clock below it. If it is longer, the client gave up: what lies within
//!   the client's time counts.
//! * *Missing parents*: a span whose parent is not there hangs below the root if it lies in the root's time.
//!
//! It takes n log n steps for n spans, however deep or wide the trace is.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::Serialize;

use super::spans::SpanId;
use crate::derive::trace::{SpanFact, Tree, outline};

/// Steps that are listed at most; of more the shortest are left out.
const MAX_STEPS: usize = 1000;
/// Operations that are listed at most.
const MAX_OPERATIONS: usize = 100;

/// A child may end later than its parent by this share of the parent's time, or this long, and still count as waited
/// for: clocks are read one after the other.
const OVERRUN_SHARE: i128 = 100;
const OVERRUN_NS: i128 = 1_000_000;

/// Where the time of a trace went.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CriticalPath {
    /// The root's time in nanoseconds, which is that of all steps.
    pub total_ns: u64,
    /// What the root waited for, in order of time.
    pub steps: Vec<PathStep>,
    /// Whether there are more steps than these, each shorter than all of these.
    pub steps_cut: bool,
    /// The same by operation, the one with most time first.
    pub operations: Vec<PathOperation>,
    /// Spans on the path whose clock was put right.
    pub clocks_corrected: usize,
}

/// A time in which the root waited for one span, and that span for no other.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PathStep {
    /// The span.
    pub span_id: SpanId,
    /// Its service.
    pub service_name: String,
    /// Its operation.
    pub name: String,
    /// Nanoseconds from the beginning of the root.
    pub offset_ns: u64,
    /// How long.
    pub self_ns: u64,
    /// Whether the span failed.
    pub failed: bool,
}

/// What an operation took of the critical path.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PathOperation {
    /// The service.
    pub service_name: String,
    /// The operation.
    pub name: String,
    /// Its own time on the path, in nanoseconds.
    pub self_ns: u64,
    /// Of the whole path, 0 to 1.
    pub share: f64,
    /// Spans of it on the path.
    pub spans: usize,
}

/// A part of the path: this span, from when to when, in the root's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    span: usize,
    from: i128,
    to: i128,
}

/// When a span lasted, on the root's clock.
#[derive(Debug, Clone, Copy)]
struct Lasted {
    from: i128,
    to: i128,
    /// How far its own clock is behind the root's.
    shift: i128,
}

/// A span whose time is being divided, from its end to its beginning.
struct Frame {
    span: usize,
    lasted: Lasted,
    /// What is left to divide ends here.
    until: i128,
    /// Children that it may have waited for, those that ended first first.
    children: Vec<(usize, Lasted)>,
}

/// Finds the critical path of the trace's root. `None` when there is no span. `spans` must be in order of start and hash.
pub fn critical_path(spans: &[SpanFact]) -> Option<CriticalPath> {
    let root = outline(spans)?.root;
    let (segments, clocks_corrected) = segments(spans, root);
    let start = segments.first().map_or(0, |segment| segment.from);
    let total: i128 = segments.iter().map(|segment| segment.to - segment.from).sum();
    let nanos = |time: i128| u64::try_from(time).unwrap_or_default();

    let mut sums: HashMap<(&str, &str), (i128, usize)> = HashMap::new();
    let mut counted = vec![false; spans.len()];
    for segment in &segments {
        let span = &spans[segment.span];
        let sum = sums.entry((&span.service, &span.name)).or_default();
        sum.0 += segment.to - segment.from;
        sum.1 += usize::from(!std::mem::replace(&mut counted[segment.span], true));
    }
    let mut operations: Vec<PathOperation> = sums
        .into_iter()
        .map(|((service, name), (time, spans))| PathOperation {
            service_name: service.to_owned(),
            name: name.to_owned(),
            self_ns: nanos(time),
            share: if total > 0 { time as f64 / total as f64 } else { 0.0 },
            spans,
        })
        .collect();
    operations.sort_by(|a, b| {
        (Reverse(a.self_ns), &a.service_name, &a.name).cmp(&(Reverse(b.self_ns), &b.service_name, &b.name))
    });
    operations.truncate(MAX_OPERATIONS);

    let steps_cut = segments.len() > MAX_STEPS;
    let steps = longest(segments)
        .into_iter()
        .map(|segment| {
            let span = &spans[segment.span];
            PathStep {
                span_id: SpanId(span.id.to_vec()),
                service_name: span.service.to_string(),
                name: span.name.to_string(),
                offset_ns: nanos(segment.from - start),
                self_ns: nanos(segment.to - segment.from),
                failed: span.failed(),
            }
        })
        .collect();
    Some(CriticalPath { total_ns: nanos(total), steps, steps_cut, operations, clocks_corrected })
}

/// The longest segments, in order of time.
fn longest(mut segments: Vec<Segment>) -> Vec<Segment> {
    if segments.len() > MAX_STEPS {
        segments.sort_by_key(|segment| (Reverse(segment.to - segment.from), segment.from));
        segments.truncate(MAX_STEPS);
        segments.sort_by_key(|segment| segment.from);
    }
    segments
}

/// The path in order of time, and how many spans on it had a wrong clock.
fn segments(spans: &[SpanFact], root: usize) -> (Vec<Segment>, usize) {
    let tree = Tree::of(spans);
    let mut seen = vec![false; spans.len()];
    let mut segments = Vec::new();
    let mut corrected = 0;
    let lasted = own_time(&spans[root], 0);
    let mut stack = vec![frame(spans, &tree, &mut seen, root, root, lasted, lasted.to)];
    while let Some(top) = stack.last_mut() {
        let Some((child, lasted)) = top.children.pop() else {
            push(&mut segments, Segment { span: top.span, from: top.lasted.from, to: top.until });
            stack.pop();
            continue;
        };
        // Of a child that outlived what is looked at, what lies within counts; one that went on while the next was
        // already there did not hold that one up.
        let (from, to) = (lasted.from.max(top.lasted.from), lasted.to.min(top.lasted.to));
        if to > top.until || from >= to {
            continue;
        }
        push(&mut segments, Segment { span: top.span, from: to, to: top.until });
        top.until = from;
        if lasted.shift != top.lasted.shift && lasted.shift != 0 {
            corrected += 1;
        }
        let within = Lasted { from, to, shift: lasted.shift };
        stack.push(frame(spans, &tree, &mut seen, root, child, within, to));
    }
    segments.reverse();
    (segments, corrected)
}

fn push(segments: &mut Vec<Segment>, segment: Segment) {
    if segment.from < segment.to {
        segments.push(segment);
    }
}

/// A span with the children that it may have waited for.
fn frame(
    spans: &[SpanFact],
    tree: &Tree,
    seen: &mut [bool],
    root: usize,
    span: usize,
    lasted: Lasted,
    until: i128,
) -> Frame {
    seen[span] = true;
    // By what the span says of itself: `lasted` may be a part of it.
    let whole = own_time(&spans[span], lasted.shift);
    let orphans = (0..if span == root { spans.len() } else { 0 })
        .filter(|&index| index != root && tree.parent(index).is_none() && spans[index].parent.is_some());
    let mut children: Vec<(usize, Lasted)> = tree
        .children(span)
        .chain(orphans)
        .filter(|&child| !seen[child] && spans[child].start_ns != 0)
        .filter_map(|child| Some((child, waited_for(&spans[span], whole, &spans[child])?)))
        .collect();
    for (child, _) in &children {
        seen[*child] = true;
    }
    children.sort_by_key(|(child, lasted)| (lasted.to, Reverse(lasted.from), Reverse(*child)));
    Frame { span, lasted, until, children }
}

fn own_time(span: &SpanFact, shift: i128) -> Lasted {
    let from = i128::from(span.start_ns) + shift;
    Lasted { from, to: from + i128::from(span.elapsed_ns()), shift }
}

/// When a child lasted on the root's clock, if its parent may have waited for it.
fn waited_for(parent: &SpanFact, whole: Lasted, child: &SpanFact) -> Option<Lasted> {
    if &*child.kind == "consumer" || &*parent.kind == "producer" {
        return None;
    }
    // A clock belongs to a service: below a span with a wrong one it is wrong too.
    let same_service = child.service == parent.service;
    let lasted = own_time(child, if same_service { whole.shift } else { 0 });
    let length = lasted.to - lasted.from;
    let room = whole.to - whole.from;
    let is_call = !same_service && (&*parent.kind == "client" || &*child.kind == "server");
    if is_call {
        let inside = lasted.from >= whole.from && lasted.to <= whole.to;
        if inside || length > room {
            return Some(lasted);
        }
        let from = whole.from + (room - length) / 2;
        return Some(Lasted { from, to: from + length, shift: lasted.shift + from - lasted.from });
    }
    let overrun = (room / OVERRUN_SHARE).max(OVERRUN_NS);
    (lasted.from < whole.to && lasted.to <= whole.to + overrun).then_some(lasted)
}

#[cfg(test)]
mod tests;
