//! How the spans of two traces lie in their trees.

use std::collections::HashMap;

use super::{DiffSpan, MAX_VALUE_BYTES, PathDiff};
use crate::derive::trace::cut;

/// Operations of a path that are listed at most: the first of them, and the last.
pub(super) const MAX_PATH: usize = 20;

/// A place in the merged tree of both traces.
struct Node<'a> {
    above: Option<usize>,
    service: &'a str,
    name: &'a str,
    counts: [usize; 2],
}

/// Children of a place by service and operation.
type Places<'a> = HashMap<(Option<usize>, &'a str, &'a str), usize>;

/// Where the numbers of spans differ, and the share of spans that both have at the same path.
pub(super) fn structure(a: &[DiffSpan], b: &[DiffSpan]) -> (Vec<PathDiff>, f64) {
    let (mut nodes, mut places): (Vec<Node<'_>>, Places<'_>) = (Vec::new(), HashMap::new());
    for (spans, side) in [(a, 0), (b, 1)] {
        place(spans, side, &mut nodes, &mut places);
    }
    let shared: usize = nodes.iter().map(|node| node.counts[0].min(node.counts[1])).sum();
    let all = a.len() + b.len();
    let same = if all == 0 { 1.0 } else { 2.0 * shared as f64 / all as f64 };
    let mut paths: Vec<PathDiff> = nodes
        .iter()
        .filter(|node| node.counts[0] != node.counts[1])
        .map(|node| PathDiff { path: path(&nodes, node), count_a: node.counts[0], count_b: node.counts[1] })
        .collect();
    paths.sort_by(|a, b| (a.path.len(), &a.path).cmp(&(b.path.len(), &b.path)));
    (paths, same)
}

/// Counts the spans of one trace at their places, from the tops down. What only a loop of parents leads to is a top.
fn place<'a>(spans: &'a [DiffSpan], side: usize, nodes: &mut Vec<Node<'a>>, places: &mut Places<'a>) {
    let mut by_id: HashMap<&[u8], usize> = HashMap::new();
    for (index, span) in spans.iter().enumerate() {
        by_id.entry(&span.id).or_insert(index);
    }
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut tops = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        match by_id.get(span.parent.as_slice()).filter(|parent| **parent != index) {
            Some(parent) => children.entry(*parent).or_default().push(index),
            None => tops.push(index),
        }
    }
    let mut seen = vec![false; spans.len()];
    for start in tops.into_iter().chain(0..spans.len()) {
        let mut open = vec![(start, None)];
        while let Some((index, above)) = open.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let span = &spans[index];
            let key = (above, span.service.as_str(), span.name.as_str());
            let node = *places.entry(key).or_insert_with(|| {
                nodes.push(Node { above, service: &span.service, name: &span.name, counts: [0, 0] });
                nodes.len() - 1
            });
            nodes[node].counts[side] += 1;
            open.extend(children.get(&index).into_iter().flatten().map(|child| (*child, Some(node))));
        }
    }
}

fn path(nodes: &[Node<'_>], node: &Node<'_>) -> Vec<String> {
    let label = |node: &Node<'_>| cut(&format!("{} {}", node.service, node.name), MAX_VALUE_BYTES);
    let mut path = vec![label(node)];
    let mut above = node.above;
    while let Some(node) = above.and_then(|above| nodes.get(above)) {
        path.push(label(node));
        if path.len() == MAX_PATH && node.above.is_some() {
            path.push("...".to_owned());
            break;
        }
        above = node.above;
    }
    path.reverse();
    path
}
