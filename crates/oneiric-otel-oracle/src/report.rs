//! Results as tables.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use crate::plan::Fault;
use crate::run::Report;
use crate::verify::Offence;

/// A table of two or more columns, all but the first to the right.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(line)).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A run's report.
pub fn of_run(report: &Report) -> String {
    let mut faults = table(&["fault", "planned", "injected"]);
    for fault in Fault::ALL {
        let Some(injected) = report.faults.get(&fault) else { continue };
        let came = match &injected.skipped {
            Some(reason) => format!("skipped: {reason}"),
            None => injected.injected.to_string(),
        };
        faults.add_row([fault.name().to_owned(), injected.planned.to_string(), came]);
    }
    let tally = &report.tally;
    let verdict = &report.verdict;
    let mut counts = table(&["what", "count"]);
    let mut row = |what: &str, count: u64| {
        counts.add_row([what.to_owned(), count.to_string()]);
    };
    row("requests sent", tally.requests);
    row("requests acknowledged", tally.requests_acknowledged);
    row("deliveries", tally.deliveries);
    for (reason, count) in &tally.refused {
        row(&format!("  refused or lost: {reason}"), *count);
    }
    row("requests given up", tally.given_up);
    row("items sent", tally.items);
    row("items acknowledged", tally.items_acknowledged);
    row("items found, of the acknowledged", verdict.found);
    row("items found, of the others", verdict.found_unacknowledged);
    row("lost", verdict.count(Offence::Lost));
    row("duplicated", verdict.count(Offence::Duplicated));
    row("altered", verdict.count(Offence::Altered));
    row("unknown", verdict.count(Offence::Unknown));
    row("wrongly refused", verdict.count(Offence::Refused));
    row("dead letters", verdict.count(Offence::DeadLetter));
    row("traces right", verdict.traces);
    row("traces wrong", verdict.count(Offence::Trace));
    row("traces read back whole", verdict.traces_read_back);
    row("servers that ended by themselves", report.unexpected_ends);
    row("starts of servers that failed", report.failed_starts);

    let ack = report.ack.as_deref().unwrap_or("after commit");
    let mut text = format!(
        "seed {}, {} s, {} clients, {} servers, acknowledgement: {ack}\n{faults}\n{counts}\n",
        report.seed, report.seconds, report.clients, report.servers
    );
    let mut say = |label: &str, what: &str| {
        for part in [label, ": ", what, "\n"] {
            text.push_str(part);
        }
    };
    for (offence, examples) in &verdict.examples {
        for example in examples {
            say(&format!("{offence:?}"), example);
        }
    }
    for incident in &report.incidents {
        say("incident", incident);
    }
    if let Some(kept) = &report.kept {
        say("kept in", &kept.display().to_string());
    }
    text.push_str(if report.is_good() { "every promise was kept\n" } else { "PROMISES WERE BROKEN\n" });
    text
}
