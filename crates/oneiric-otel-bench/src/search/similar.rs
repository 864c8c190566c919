//! How well traces with the same fault are found by one of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use oneiric_otel::query::{QueryService, SimilarRequest, TraceId};

use super::measure::Quality;
use super::original::Texts;
use super::sets::{LabelledSet, Unit};
use super::{Corpus, HITS, Measured, filter};

/// Traces of one set that are asked what is like them.
const SIMILAR_QUESTIONS: usize = 200;

/// Each way to find them, as far as faults have several texts or runs.
pub(super) async fn measure(
    service: &QueryService,
    set: &LabelledSet,
    corpus: &Corpus,
    originals: Option<&Texts>,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    measured.extend(originals.map(|originals| similar_original(set, originals)));
    measured.push(find_similar(service, set, corpus).await?);
    measured.retain(|measured| measured.asked > 0);
    Ok(measured)
}

/// The fault that at least half of the traces have.
fn fault_of<'a>(traces: &[TraceId], faults: &'a HashMap<TraceId, String>) -> Option<&'a str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in traces.iter().filter_map(|trace| faults.get(trace)) {
        *counts.entry(fault).or_default() += 1;
    }
    let (fault, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    (count * 2 >= traces.len()).then_some(fault)
}

/// For every text of a fault that has others: whether these are found by a trace of it.
async fn find_similar(service: &QueryService, set: &LabelledSet, corpus: &Corpus) -> Result<Measured> {
    if set.unit == Unit::Trace {
        return find_similar_runs(service, set).await;
    }
    let faults: HashMap<&str, &str> =
        corpus.iter().filter_map(|(text, traces)| Some((text.as_str(), fault_of(traces, &set.faults)?))).collect();
    let mut all = Vec::new();
    for (text, traces) in corpus {
        let (Some(fault), Some(trace)) = (faults.get(text.as_str()), traces.first()) else { continue };
        let others = faults.iter().filter(|(other, of)| *of == fault && **other != text).count();
        if others == 0 || all.len() == SIMILAR_QUESTIONS {
            continue;
        }
        let request = SimilarRequest { trace_id: *trace, threshold: 0.0, limit: HITS, filter: filter(set) };
        let hits = service.find_similar_traces(&request).await?.hits;
        let others_first = hits.iter().filter(|hit| hit.text != *text);
        let ranking: Vec<bool> = others_first.map(|hit| faults.get(hit.text.as_str()) == Some(fault)).collect();
        all.push(Quality::of(&ranking, others));
    }
    Ok(Measured { way: "similar", asked: all.len(), quality: Quality::mean(&all) })
}

fn similar_original(set: &LabelledSet, originals: &Texts) -> Measured {
    let faults: Vec<Option<&str>> = originals.traces().map(|traces| fault_of(traces, &set.faults)).collect();
    let mut all = Vec::new();
    for (text, fault) in faults.iter().enumerate() {
        let others = faults.iter().filter(|other| *other == fault).count() - 1;
        if fault.is_none() || others == 0 || all.len() == SIMILAR_QUESTIONS {
            continue;
        }
        let ranked = originals.rank_like(text);
        let ranking: Vec<bool> = ranked.into_iter().map(|other| faults.get(other) == Some(fault)).collect();
        all.push(Quality::of(&ranking, others));
    }
    Measured { way: "original text", asked: all.len(), quality: Quality::mean(&all) }
}

/// For every run of a label that others have: whether these are found by it.
async fn find_similar_runs(service: &QueryService, set: &LabelledSet) -> Result<Measured> {
    let labels: BTreeMap<&TraceId, &String> = set.faults.iter().collect();
    let mut all = Vec::new();
    for (trace, label) in &labels {
        let others = labels.values().filter(|other| *other == label).count() - 1;
        if others == 0 || all.len() == SIMILAR_QUESTIONS {
            continue;
        }
        let request = SimilarRequest { trace_id: **trace, threshold: 0.0, limit: HITS, filter: filter(set) };
        let hits = service.find_similar_traces(&request).await?.hits;
        let mut seen = HashSet::new();
        let runs = hits.iter().map(|hit| hit.newest.trace_id).filter(|run| seen.insert(*run));
        let ranking: Vec<bool> = runs.map(|run| labels.get(&run) == Some(label)).collect();
        all.push(Quality::of(&ranking, others));
    }
    Ok(Measured { way: "similar", asked: all.len(), quality: Quality::mean(&all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> TraceId {
        TraceId([number; 16])
    }

    #[test]
    fn a_text_has_the_fault_of_half_of_its_traces() {
        let faults = HashMap::from([(id(1), "a".to_owned()), (id(2), "a".to_owned()), (id(3), "b".to_owned())]);
        assert_eq!(fault_of(&[id(1), id(2), id(3), id(9)], &faults), Some("a"));
        assert_eq!(fault_of(&[id(3), id(8), id(9)], &faults), None);
        assert_eq!(fault_of(&[], &faults), None);
    }
}
