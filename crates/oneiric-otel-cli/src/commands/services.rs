//! `services`: which there are, what they do, and who calls whom.

use anyhow::Result;
use oneiric_otel::query::{
    Catalogue, Dependencies, Latency, Node, NodeKind, Operations, OperationsRequest, QueryError, Sample,
};
use serde::Serialize;

use super::Ending;
use crate::args::{Global, Services};
use crate::finder::Finder;
use crate::{moment, screen};

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Services(Catalogue),
    Operations(Operations),
    Dependencies(Dependencies),
}

pub(crate) async fn run(global: &Global, services: &Services) -> Result<Ending> {
    let range = services.when.range()?;
    let finder = Finder::open(global, false).await?;
    let found = ask(&finder, services, range).await.map_err(|error| finder.explain(error));
    finder.release().await?;
    let answer = found?;
    if global.json {
        screen::print_json(&answer)?;
    } else {
        screen::print(&tell(&answer))?;
    }
    Ok(Ending::Good)
}

async fn ask(
    finder: &Finder,
    services: &Services,
    range: oneiric_otel::query::TimeRange,
) -> Result<Answer, QueryError> {
    if services.dependencies {
        return finder.service.dependencies(range).await.map(Answer::Dependencies);
    }
    match &services.service {
        None => finder.service.services(range).await.map(Answer::Services),
        Some(service) => {
            let request = OperationsRequest { range, service: service.clone(), limit: services.limit as usize };
            finder.service.operations(&request).await.map(Answer::Operations)
        }
    }
}

fn tell(answer: &Answer) -> String {
    match answer {
        Answer::Services(catalogue) => tell_services(catalogue),
        Answer::Operations(operations) => tell_operations(operations),
        Answer::Dependencies(dependencies) => tell_dependencies(dependencies),
    }
}

fn tell_services(catalogue: &Catalogue) -> String {
    if catalogue.services.is_empty() {
        return "no service sent a trace in this time; --since goes further back\n".to_owned();
    }
    let mut table = screen::table(&["service", "traces", "failed", "spans", "p50", "p95", "p99", "last seen"]);
    for service in &catalogue.services {
        let [p50, p95, p99] = latencies(service.root_latency);
        table.add_row([
            screen::clean_short(&service.name, 60),
            service.trace_count.to_string(),
            service.error_trace_count.to_string(),
            service.span_count.map(|count| count.to_string()).unwrap_or_default(),
            p50,
            p95,
            p99,
            moment::show_short(moment::unix_nanos(service.last_seen)),
        ]);
    }
    format!("{table}\n{}", sampled(&catalogue.sample))
}

fn tell_operations(operations: &Operations) -> String {
    if operations.operations.is_empty() {
        return "this service sent no span in this time; --since goes further back\n".to_owned();
    }
    let mut table = screen::table(&["operation", "kind", "calls", "failed", "p50", "p95", "p99"]);
    for operation in &operations.operations {
        let [p50, p95, p99] = latencies(operation.latency);
        table.add_row([
            screen::clean_short(&operation.name, 60),
            screen::clean_short(&operation.kind, 20),
            operation.count.to_string(),
            operation.error_count.to_string(),
            p50,
            p95,
            p99,
        ]);
    }
    format!("{table}\n{}{}", cut(operations.more), sampled(&operations.sample))
}

fn tell_dependencies(dependencies: &Dependencies) -> String {
    if dependencies.dependencies.is_empty() {
        return "nothing called anything in this time; --since goes further back\n".to_owned();
    }
    let mut table = screen::table(&["caller", "callee", "calls", "failed", "p50", "p95", "p99"]);
    for dependency in &dependencies.dependencies {
        let [p50, p95, p99] = latencies(dependency.latency);
        table.add_row([
            show(&dependency.caller),
            show(&dependency.callee),
            dependency.call_count.to_string(),
            dependency.error_count.to_string(),
            p50,
            p95,
            p99,
        ]);
    }
    format!("{table}\n{}{}", cut(dependencies.more), sampled(&dependencies.sample))
}

fn show(node: &Node) -> String {
    let name = screen::clean_short(&node.name, 60);
    match node.kind {
        NodeKind::Service => name,
        NodeKind::Database => format!("database {name}"),
        NodeKind::Queue => format!("queue {name}"),
        NodeKind::Model => format!("model {name}"),
        NodeKind::External => format!("external {name}"),
    }
}

fn latencies(latency: Option<Latency>) -> [String; 3] {
    let show = |nanos: i64| moment::show_duration(nanos.unsigned_abs());
    latency.map(|latency| [latency.p50_ns, latency.p95_ns, latency.p99_ns].map(show)).unwrap_or_default()
}

fn cut(more: bool) -> &'static str {
    if more { "note: there are more; --limit shows up to 1000\n" } else { "" }
}

fn sampled(sample: &Sample) -> String {
    if sample.exact {
        return String::new();
    }
    format!("note: counts of spans are estimates, from {} of {} traces\n", sample.traces_read, sample.traces)
}
