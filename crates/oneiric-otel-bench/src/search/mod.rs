//! How good search is: `oneiric-otel bench search`.
//!
//! Labelled sets are stored, derived and embedded in a real database, and the product's own calls are asked questions in
//! plain words. The corpus of a set is all of its traces. Distinct texts are ranked; a text is relevant if at least half
//! of its traces are. Of runs of agents, which have many texts each, runs are ranked. What a search does not return has
//! no rank. Ties of the original text are broken by the text; the product's answers have an order of their own.
//!
//! The sets of one database are told apart by time, so what is asked of one is asked beside the texts of the others.

mod demo;
mod faults;
mod measure;
mod original;
pub mod recall;
mod sets;
mod similar;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::TryStreamExt as _;
use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::embed::{EmbedOptions, Embedder, EmbeddingWorker};
use oneiric_otel::otlp::Signal;
use oneiric_otel::pipeline::{Ingest, IngestOptions};
use oneiric_otel::query::{QueryService, SearchMode, SearchRequest, TextHit, TraceFilter, TraceId, TracesRequest};
use oneiric_otel::store::Database;
use serde::Serialize;

pub use measure::{NothingNear, Quality};
use original::{Originals, Texts};
use sets::{LabelledSet, Question, Unit};

use crate::fill::{Watcher, submit};

/// Requests under way at the same time.
const AT_ONCE: usize = 4;
/// Hits that are asked for.
const HITS: usize = 100;
/// Traces of a page.
const PAGE: usize = 1000;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model of the vectors.
    pub model: String,
    /// Each labelled set.
    pub sets: Vec<SetReport>,
}

/// What was measured on one set.
#[derive(Debug, Clone, Serialize)]
pub struct SetReport {
    /// The set.
    pub set: String,
    /// Its traces.
    pub traces: usize,
    /// Distinct sentences about them: how many texts are ranked, where texts are.
    pub texts: usize,
    /// Each way to answer questions in words.
    pub questions: Vec<Measured>,
    /// The same for questions by which no text, weight or bound was chosen.
    pub unseen: Vec<Measured>,
    /// Each way to find traces with the same fault as a given one.
    pub similar: Vec<Measured>,
    /// How often nothing was near, and whether rightly, in the product's own way.
    pub nothing_near: NothingNear,
    /// Every question with what the product's own way is worth for it.
    pub each: Vec<Asked>,
}

/// One way to answer, over all questions.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// How it was answered.
    pub way: &'static str,
    /// Questions.
    pub asked: usize,
    /// The mean over them.
    pub quality: Quality,
}

/// One question.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// The question.
    pub question: String,
    /// What its answer is worth; none for a question that has no answer.
    pub quality: Option<Quality>,
    /// The best hit's cosine.
    pub best_cosine: Option<f64>,
    /// The best hit's share of the question's words.
    pub best_word_share: Option<f64>,
    /// The best hit's text.
    pub best: Option<String>,
}

impl Asked {
    fn of(question: &str, quality: Option<Quality>, hits: &[TextHit]) -> Self {
        let best = hits.first();
        Self {
            question: question.to_owned(),
            quality,
            best_cosine: best.and_then(|hit| hit.cosine),
            best_word_share: best.and_then(|hit| hit.word_share),
            best: best.map(|hit| hit.text.clone()),
        }
    }
}

/// The ways in which the product can answer.
const WAYS: [(&str, SearchMode); 3] =
    [("words only", SearchMode::Words), ("vectors only", SearchMode::Meaning), ("hybrid", SearchMode::Hybrid)];

/// What is measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// The folder with the folder `labelled`; without it there are only the sets of our own.
    pub data: Option<&'a Path>,
    /// Only the sets whose names contain this.
    pub set: Option<&'a str>,
    /// Leave out the comparison with the original text, whose many vectors take most of the time.
    pub without_original: bool,
}

/// Stores the sets and measures. The schema must be migrated.
///
/// # Errors
/// When a set cannot be read, stored or asked: a measurement of a part would mislead.
pub async fn run(
    database: &Database,
    embedder: Arc<dyn Embedder>,
    scope: Scope<'_>,
    watcher: &impl Watcher,
) -> Result<Report> {
    let mut sets = sets::load(scope.data)?;
    sets.retain(|set| scope.set.is_none_or(|wanted| set.name.contains(wanted)));
    if sets.is_empty() {
        bail!("no set has a name with {:?}", scope.set.unwrap_or_default());
    }
    let service = QueryService::new(database.clone(), Some(Arc::clone(&embedder)));
    refuse_other_telemetry(&service).await?;
    let mut originals = Vec::new();
    for set in &mut sets {
        watcher.step(&format!("storing {}", set.name), None);
        originals.push(store(database, set).await?);
    }
    make_searchable(database, &embedder, watcher).await?;
    let mut reports = Vec::new();
    for (set, originals) in sets.iter().zip(originals) {
        watcher.step(&format!("asking about {}", set.name), None);
        let originals = if scope.without_original { None } else { Some(originals.embed(&embedder).await?) };
        reports.push(measure_set(&service, &embedder, set, originals.as_ref()).await?);
    }
    Ok(Report { model: embedder.model().to_string(), sets: reports })
}

/// Derives and embeds what is new, and what an earlier version of the texts' rules has written.
async fn make_searchable(database: &Database, embedder: &Arc<dyn Embedder>, watcher: &impl Watcher) -> Result<()> {
    let deriver = Deriver::new(database.clone(), DeriveOptions::default());
    let worker = EmbeddingWorker::new(database.clone(), Arc::clone(embedder), EmbedOptions::default(), Arc::default());
    loop {
        watcher.step("deriving traces", None);
        deriver.derive_all_now().await?;
        watcher.step("embedding texts", None);
        let embedded = worker.embed_all_now().await?;
        if embedded.no_pgvector || embedded.failed > 0 {
            bail!("{} texts could not be embedded; pgvector missing: {}", embedded.failed, embedded.no_pgvector);
        }
        if deriver.renew_texts().await? == 0 {
            deriver.collect_texts().await?;
            return Ok(());
        }
    }
}

/// A set must not be stored beside what somebody needs.
async fn refuse_other_telemetry(service: &QueryService) -> Result<()> {
    let mut begin = None;
    for (since, until) in sets::times()?.into_iter().map(Some).chain([None]).map(Option::unzip) {
        let filter = TraceFilter { since: begin, until: since, ..TraceFilter::default() };
        let others = service.find_traces(&TracesRequest::new(filter, 1)).await?;
        if let Some(other) = others.traces.first() {
            bail!("the database has telemetry of its own, such as trace {}: name one that is empty", other.trace_id);
        }
        begin = until;
    }
    Ok(())
}

/// Stores all requests of a set, and tells its traces in the original form.
async fn store(database: &Database, set: &mut LabelledSet) -> Result<Originals> {
    let requests = std::mem::replace(&mut set.requests, Box::new(std::iter::empty()));
    let mut originals = Originals::default();
    let told = requests.map(|request| {
        let (signal, body) = request?;
        if signal == Signal::Traces {
            originals.add(&body)?;
        }
        Ok((signal, body))
    });
    send(database, told).await?;
    Ok(originals)
}

/// Sends requests, several at a time.
async fn send(database: &Database, requests: impl Iterator<Item = Result<(Signal, Bytes)>>) -> Result<()> {
    let ingest = Ingest::start(database.clone(), IngestOptions::default());
    let stored = futures::stream::iter(requests)
        .map_ok(|(signal, body)| submit(&ingest, signal, body))
        .try_buffer_unordered(AT_ONCE);
    stored.try_fold(0, |sum, records| async move { Ok::<_, anyhow::Error>(sum + records) }).await?;
    ingest.drain().await;
    Ok(())
}

/// The distinct sentences of a set, with their traces.
type Corpus = BTreeMap<String, Vec<TraceId>>;

async fn measure_set(
    service: &QueryService,
    embedder: &Arc<dyn Embedder>,
    set: &LabelledSet,
    originals: Option<&Texts>,
) -> Result<SetReport> {
    let corpus = corpus(service, set).await?;
    let asking = Asking { service, embedder, set, corpus: &corpus, originals };
    let (questions, mut each, mut nothing_near) = asking.all(&set.questions).await?;
    let (unseen, each_unseen, near_unseen) = asking.all(&set.unseen).await?;
    each.extend(each_unseen);
    nothing_near.answerable += near_unseen.answerable;
    nothing_near.answerable_silent += near_unseen.answerable_silent;
    for question in &set.unanswerable {
        nothing_near.unanswerable += 1;
        let hits = search(service, set, question, SearchMode::Hybrid).await?;
        nothing_near.unanswerable_silent += usize::from(hits.is_empty());
        each.push(Asked::of(question, None, &hits));
    }
    let traces = corpus.values().map(Vec::len).sum();
    let similar = similar::measure(service, set, &corpus, originals).await?;
    let set = set.name.to_owned();
    Ok(SetReport { set, traces, texts: corpus.len(), questions, unseen, similar, nothing_near, each })
}

/// Questions about one set.
struct Asking<'a> {
    service: &'a QueryService,
    embedder: &'a Arc<dyn Embedder>,
    set: &'a LabelledSet,
    corpus: &'a Corpus,
    originals: Option<&'a Texts>,
}

impl Asking<'_> {
    /// Asks in every way. Questions that no text answers are left out: which traces a fault touched is known, not
    /// whether anything of it can be seen.
    async fn all(&self, questions: &[Question]) -> Result<(Vec<Measured>, Vec<Asked>, NothingNear)> {
        let (unit, corpus) = (self.set.unit, self.corpus);
        let questions: Vec<&Question> =
            questions.iter().filter(|question| relevant(unit, corpus, question) > 0).collect();
        let (mut measured, mut each, mut near) = (Vec::new(), Vec::new(), NothingNear::default());
        if questions.is_empty() {
            return Ok((measured, each, near));
        }
        if let Some(originals) = self.originals {
            measured.push(measure_original(self.embedder, &questions, originals).await?);
        }
        for (way, mode) in WAYS {
            let mut all = Vec::new();
            for question in &questions {
                let hits = search(self.service, self.set, &question.text, mode).await?;
                let quality = Quality::of(&ranking(unit, corpus, &hits, question), relevant(unit, corpus, question));
                all.push(quality);
                if mode == SearchMode::Hybrid {
                    near.answerable += 1;
                    near.answerable_silent += usize::from(hits.is_empty());
                    each.push(Asked::of(&question.text, Some(quality), &hits));
                }
            }
            measured.push(Measured { way, asked: all.len(), quality: Quality::mean(&all) });
        }
        Ok((measured, each, near))
    }
}

fn filter(set: &LabelledSet) -> TraceFilter {
    TraceFilter { since: Some(set.since), until: Some(set.until), ..TraceFilter::default() }
}

async fn corpus(service: &QueryService, set: &LabelledSet) -> Result<Corpus> {
    let mut corpus = Corpus::new();
    let mut request = TracesRequest::new(filter(set), PAGE);
    loop {
        let page = service.find_traces(&request).await?;
        for trace in page.traces {
            corpus.entry(trace.text.unwrap_or_default()).or_default().push(trace.trace_id);
        }
        if page.next.is_none() {
            return Ok(corpus);
        }
        request.cursor = page.next;
    }
}

async fn search(service: &QueryService, set: &LabelledSet, question: &str, mode: SearchMode) -> Result<Vec<TextHit>> {
    let request = SearchRequest { text: question.to_owned(), limit: HITS, filter: filter(set) };
    Ok(service.search_traces_by(&request, mode).await?.hits)
}

/// Whether at least half of the traces are among the relevant.
fn is_relevant(traces: &[TraceId], relevant: &HashSet<TraceId>) -> bool {
    let count = traces.iter().filter(|trace| relevant.contains(trace)).count();
    count > 0 && count * 2 >= traces.len()
}

/// How many texts or traces answer a question.
fn relevant(unit: Unit, corpus: &Corpus, question: &Question) -> usize {
    match unit {
        Unit::Text => corpus.values().filter(|traces| is_relevant(traces, &question.relevant)).count(),
        Unit::Trace => question.relevant.len(),
    }
}

fn ranking(unit: Unit, corpus: &Corpus, hits: &[TextHit], question: &Question) -> Vec<bool> {
    match unit {
        Unit::Text => hits
            .iter()
            .map(|hit| corpus.get(&hit.text).is_some_and(|traces| is_relevant(traces, &question.relevant)))
            .collect(),
        Unit::Trace => {
            let mut seen = HashSet::new();
            let traces = hits.iter().map(|hit| hit.newest.trace_id).filter(|trace| seen.insert(*trace));
            traces.map(|trace| question.relevant.contains(&trace)).collect()
        }
    }
}

async fn measure_original(
    embedder: &Arc<dyn Embedder>,
    questions: &[&Question],
    originals: &Texts,
) -> Result<Measured> {
    let mut all = Vec::new();
    for question in questions {
        let relevant: Vec<bool> = originals.traces().map(|traces| is_relevant(traces, &question.relevant)).collect();
        let ranked = originals.rank(embedder, &question.text).await?;
        let ranking: Vec<bool> = ranked.iter().filter_map(|text| relevant.get(*text).copied()).collect();
        all.push(Quality::of(&ranking, relevant.iter().filter(|is_relevant| **is_relevant).count()));
    }
    Ok(Measured { way: "original text", asked: all.len(), quality: Quality::mean(&all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> TraceId {
        TraceId([number; 16])
    }

    #[test]
    fn half_of_the_traces_are_enough() {
        let relevant = HashSet::from([id(1), id(2)]);
        assert!(is_relevant(&[id(1), id(3)], &relevant));
        assert!(!is_relevant(&[id(1), id(3), id(4)], &relevant));
        assert!(!is_relevant(&[], &relevant));
    }
}
