//! Labelled sets: telemetry, questions about it in plain words, and which traces answer each.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use jiff::Timestamp;
use oneiric_otel::otlp::Signal;
use oneiric_otel::query::TraceId;
use oneiric_otel_testkit::{nezha, who_and_when};

use super::demo;
use super::faults::{self, Invented};
use super::recall;

/// Requests of a set, in the order in which they are stored.
pub(super) type Requests = Box<dyn Iterator<Item = Result<(Signal, Bytes)>> + Send>;

/// What is ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Distinct texts: one is relevant if at least half of its traces are.
    Text,
    /// Traces: a run of an agent has many texts, and the nearest one stands for it.
    Trace,
}

/// A labelled set.
pub(super) struct LabelledSet {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    /// All traces of the set begin in this time and no others do, which tells the sets of one database apart.
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    pub(super) requests: Requests,
    pub(super) questions: Vec<Question>,
    /// Questions by which nothing was chosen.
    pub(super) unseen: Vec<Question>,
    /// What nothing in the set is an answer to.
    pub(super) unanswerable: Vec<&'static str>,
    /// Which fault a trace has, for similarity between traces.
    pub(super) faults: HashMap<TraceId, String>,
}

/// A question and its right answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) relevant: HashSet<TraceId>,
}

/// When the traces of the recordings begin.
const TRAIN_TICKET: (&str, &str) = ("2023-01-01T00:00:00Z", "2023-03-01T00:00:00Z");
const AGENTS: (&str, &str) = ("2025-01-01T00:00:00Z", "2025-03-01T00:00:00Z");

/// About other things altogether, and about failures of other systems.
const UNRELATED: &[&str] = &[
    "recipe for lentil soup",
    "who won the football match yesterday",
    "best hiking trail in the Alps",
    "how to knit a pair of socks",
    "the cat sleeps on the sofa",
    "opening hours of the public library",
    "Beethoven's late string quartets",
    "growing tomatoes on a balcony",
];
const OTHER_FAILURES: &[&str] = &[
    "gpu driver crashed while training a neural network",
    "printer is out of toner",
    "bluetooth headset does not pair",
    "ansible playbook failed to install nginx",
    "satellite lost its attitude control",
    "elevator door sensor reports an obstacle",
];

/// Every set that `data` holds, and those of our own.
///
/// # Errors
/// If a set is there and cannot be read.
pub(super) fn load(data: Option<&Path>) -> Result<Vec<LabelledSet>> {
    let mut sets = vec![
        own("faults of an invented shop", &faults::SHOP, false)?,
        own("faults of an invented clinic and bank", &faults::CLINIC, true)?,
        of_demo()?,
    ];
    if let Some(data) = data {
        let queries = data.join("labelled/queries.tsv");
        let queries = std::fs::read_to_string(&queries).with_context(|| queries.display().to_string())?;
        sets.push(train_ticket(&data.join(nezha::FOLDER), &queries)?);
        sets.push(agents(&data.join(who_and_when::FOLDER))?);
    }
    Ok(sets)
}

/// The times of all sets and of what is composed, in order.
pub(super) fn times() -> Result<Vec<(Timestamp, Timestamp)>> {
    let all = [TRAIN_TICKET, faults::SHOP.time, faults::CLINIC.time, demo::TIME, recall::TIME, AGENTS];
    all.into_iter().map(|(since, until)| Ok((time(since)?, time(until)?))).collect()
}

fn time(text: &str) -> Result<Timestamp> {
    text.parse().with_context(|| format!("{text} is no time"))
}

fn own(name: &'static str, invented: &Invented, unseen: bool) -> Result<LabelledSet> {
    let made = faults::make(invented)?;
    let (questions, unseen) = if unseen { (Vec::new(), made.questions) } else { (made.questions, Vec::new()) };
    Ok(LabelledSet {
        name,
        unit: Unit::Text,
        since: time(invented.time.0)?,
        until: time(invented.time.1)?,
        requests: Box::new(made.requests.into_iter().map(Ok)),
        questions,
        unseen,
        unanswerable: [UNRELATED, OTHER_FAILURES].concat(),
        faults: made.faults,
    })
}

/// The requests and searches of the command `demo`.
fn of_demo() -> Result<LabelledSet> {
    let made = demo::make()?;
    Ok(LabelledSet {
        name: "faults of the demo",
        unit: Unit::Text,
        since: time(demo::TIME.0)?,
        until: time(demo::TIME.1)?,
        requests: Box::new(made.requests.into_iter().map(Ok)),
        questions: made.questions,
        unseen: Vec::new(),
        unanswerable: [UNRELATED, OTHER_FAILURES].concat(),
        faults: made.faults,
    })
}

/// A fault of the recording that a trace was in the middle of.
struct FaultTrace {
    trace_id: TraceId,
    fault_id: String,
    /// What was done to which service.
    kind: String,
}

fn train_ticket(dir: &Path, queries: &str) -> Result<LabelledSet> {
    let labels = dir.join("trace-labels.tsv");
    let labels = std::fs::read_to_string(&labels).with_context(|| labels.display().to_string())?;
    let traces = fault_traces(&labels)?;
    let mut seen = train_ticket_questions(queries, &traces)?;
    seen.extend(train_ticket_questions(include_str!("train-ticket.tsv"), &traces)?);
    let (spans, logs) = (nezha::traces(dir), nezha::logs(dir));
    let spans = spans.map(|request| Ok((Signal::Traces, request?)));
    let logs = logs.map(|request| Ok((Signal::Logs, request?)));
    Ok(LabelledSet {
        name: "Train-Ticket requests (Nezha)",
        unit: Unit::Text,
        since: time(TRAIN_TICKET.0)?,
        until: time(TRAIN_TICKET.1)?,
        requests: Box::new(logs.chain(spans)),
        questions: seen,
        unseen: train_ticket_questions(include_str!("train-ticket-unseen.tsv"), &traces)?,
        unanswerable: [UNRELATED, OTHER_FAILURES].concat(),
        faults: traces.into_iter().map(|trace| (trace.trace_id, trace.kind)).collect(),
    })
}

/// The questions of a table about traces during faults.
fn train_ticket_questions(table: &str, traces: &[FaultTrace]) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for line in table.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [_, "nezha-trainticket", text, rule, ..] = columns[..] else { continue };
        let faults = fault_ids(rule).with_context(|| format!("the rule of the question {text:?}"))?;
        let relevant = traces.iter().filter(|trace| faults.contains(&trace.fault_id)).map(|trace| trace.trace_id);
        questions.push(Question { text: text.to_owned(), relevant: relevant.collect() });
    }
    Ok(questions)
}

/// The traces during a fault that passed the service it was in.
fn fault_traces(labels: &str) -> Result<Vec<FaultTrace>> {
    let mut lines = labels.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let place =
        |name: &str| header.iter().position(|column| *column == name).with_context(|| format!("no column {name}"));
    let (id, fault, phase) = (place("trace_id")?, place("fault_id")?, place("phase")?);
    let (service, kind, touches) = (place("inject_service")?, place("inject_type")?, place("touches_fault_pod")?);
    let mut traces = Vec::new();
    for line in lines {
        let columns: Vec<&str> = line.split('\t').collect();
        let column = |place: usize| columns.get(place).copied().unwrap_or_default();
        if column(phase) == "fault" && column(touches) == "1" {
            traces.push(FaultTrace {
                trace_id: column(id).parse().with_context(|| line.to_owned())?,
                fault_id: column(fault).to_owned(),
                kind: format!("{} of {}", column(kind), column(service)),
            });
        }
    }
    Ok(traces)
}

/// The faults that a rule names: `fault_id=2023-01-29#07 and ...`, `fault_id in 2023-01-29#01..#03`, `... #14,#15`.
fn fault_ids(rule: &str) -> Result<HashSet<String>> {
    let rest = rule.strip_prefix("fault_id").context("it must begin with fault_id")?;
    let rest = rest.trim_start_matches(['=', ' ']).trim_start_matches("in ");
    let named = rest.split(' ').next().unwrap_or_default();
    let (day, numbers) = named.split_once('#').context("a fault is named like 2023-01-29#07")?;
    let number = |text: &str| text.trim_start_matches('#').parse::<u32>().with_context(|| format!("{text} in {named}"));
    let mut faults = HashSet::new();
    for part in numbers.split(',') {
        let (first, last) = match part.split_once("..") {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first {
            bail!("{part} ends before it begins");
        }
        faults.extend((first..=last).map(|number| format!("{day}#{number:02}")));
    }
    Ok(faults)
}

fn agents(dir: &Path) -> Result<LabelledSet> {
    let labels = who_and_when::labels(dir)?;
    // Runs are alike if the same agent made the decisive mistake in them: there is no label of what kind it was.
    let faults = labels.iter().map(|label| (TraceId(label.trace_id), label.mistake_agent.clone())).collect();
    let questions = labels
        .into_iter()
        .map(|label| Question { text: label.mistake_reason, relevant: HashSet::from([TraceId(label.trace_id)]) });
    Ok(LabelledSet {
        name: "failed runs of agents (Who&When)",
        unit: Unit::Trace,
        since: time(AGENTS.0)?,
        until: time(AGENTS.1)?,
        questions: questions.collect(),
        unseen: Vec::new(),
        requests: Box::new(who_and_when::traces(dir).map(|request| Ok((Signal::Traces, request?)))),
        // The runs are about everything under the sun.
        unanswerable: OTHER_FAILURES.to_vec(),
        faults,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_faults() {
        let faults = |rule: &str| {
            let mut faults: Vec<String> = fault_ids(rule).expect("a rule").into_iter().collect();
            faults.sort();
            faults
        };
        assert_eq!(
            faults("fault_id in 2023-01-29#01..#03 and phase=fault and touches_fault_pod=1"),
            ["2023-01-29#01", "2023-01-29#02", "2023-01-29#03"]
        );
        assert_eq!(faults("fault_id=2023-01-29#07 and phase=fault"), ["2023-01-29#07"]);
        assert_eq!(faults("fault_id in 2023-01-30#14,#15 and phase=fault"), ["2023-01-30#14", "2023-01-30#15"]);
        for wrong in ["phase=fault", "fault_id=x", "fault_id in 2023-01-29#09..#07"] {
            assert!(fault_ids(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_traces_that_a_fault_could_touch_have_it() {
        let labels = "trace_id\tfault_id\tphase\tinject_service\tinject_type\ttouches_fault_pod\n\
            00000000000000000000000000000001\tF#01\tfault\tshop\treturn\t1\n\
            00000000000000000000000000000002\tF#01\tfault\tshop\treturn\t0\n\
            00000000000000000000000000000003\tF#01\tbefore\tshop\treturn\t1\n";
        let found = fault_traces(labels).expect("labels");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].fault_id.as_str(), found[0].kind.as_str()), ("F#01", "return of shop"));
        assert!(fault_traces("trace_id\n").is_err());
    }
}
