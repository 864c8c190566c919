//! `diff`: in what two traces agree, and in what they differ.

use anyhow::Result;
use oneiric_otel::query::TraceDiff;

use super::Ending;
use crate::args::{Diff, Global};
use crate::finder::Finder;
use crate::screen;

const POINT_CHARACTERS: usize = 300;

pub(crate) async fn run(global: &Global, diff: &Diff) -> Result<Ending> {
    let finder = Finder::open(global, false).await?;
    let found = finder.service.diff_traces(diff.a, diff.b).await.map_err(|error| finder.explain(error));
    finder.release().await?;
    let found = found?;
    if global.json {
        screen::print_json(&found)?;
    } else {
        screen::print(&format!("a {}\nb {}\n{}", found.a.trace_id, found.b.trace_id, show(&found)))?;
    }
    Ok(Ending::Good)
}

/// What two traces have in common, and what not.
pub(crate) fn show(diff: &TraceDiff) -> String {
    let mut lines = String::new();
    for (sign, points) in [("=", &diff.agree), ("!", &diff.differ), ("note:", &diff.notes)] {
        for point in points {
            lines.push_str(&screen::indent(&format!("{sign} {}", screen::clean_short(point, POINT_CHARACTERS))));
        }
    }
    lines
}
