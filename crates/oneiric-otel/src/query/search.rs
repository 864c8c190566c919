//! Traces by description: meaning and words, weighed and added.
//!
//! Distinct texts are ranked. A text's score is 0.66 times its cosine to the question plus 0.28 times its BM25 score, each
//! divided by the best of all candidates, plus 0.06 if it begins with what the question is after: see `aim`. Candidates are
//! the texts nearest by vector, those with the rarest words of the question and, of a filter that lets few traces through,
//! all of theirs. Ids, numbers and hosts are masked in texts, and looked up besides: see `marks`.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::aim::Aim;
use super::filter::TraceFilter;
use super::marks::{ExactMatch, Marked};
use super::served::Served;
use super::trace::TraceOverview;
use super::{QueryError, QueryService, check_limit};
use crate::store::embeddings::RegisteredModel;
use crate::store::search::RowFilter;
use crate::store::text_words::TextStatistics;

/// A text whose cosine to the question is lower, and that lacks most of the question's weight in words, is not near.
///
/// Calibrated for all-MiniLM-L6-v2, the texts of this program and questions as they are put to the model, on the sets of
/// `bench search`. Of 14 questions about what is not there, asked of two sets of invented faults and of the recording of a
/// microservice system, one of 42 comes nearer (0.42, the others 0.316 at most); of 183 questions that have an answer
/// two stay below. To long prose, such as agents' messages on all kinds of topics, half of the 14 come nearer: there a
/// hit says less.
pub const SEARCH_FLOOR: f64 = 0.32;

/// A text with this share of the question's words, weighed by their rarity, is near whatever its vector says.
const WORDS_FLOOR: f64 = 0.5;

const VECTOR_WEIGHT: f64 = 0.66;
const WORDS_WEIGHT: f64 = 0.28;
/// Of a text that begins with what the question is after: what was looked for seldom went well, or merely with a warning.
const AIM_WEIGHT: f64 = 0.06;

/// Candidates by vector, and again when they gave too few hits: a filter or runs with many texts each can use them up.
const FIRST_CANDIDATES: i64 = 200;
const MORE_CANDIDATES: i64 = 5000;
/// Traces of a filter whose texts are all compared when the nearest gave too few hits, and texts of them.
const FEW_TRACES: i64 = 20_000;
const FEW_TEXTS: usize = 5000;
/// Candidates by words.
const WORD_CANDIDATES: i64 = 2000;

/// Parameters of BM25.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// How long the number of texts is believed.
const STATISTICS_AGE: Duration = Duration::from_mins(1);

/// Characters of a question at most.
const MAX_QUESTION_CHARACTERS: usize = 10_000;

/// A description of what is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchRequest {
    /// The description, in words.
    pub text: String,
    /// Hits at most, 1 to 1000.
    pub limit: usize,
    /// Which traces count.
    pub filter: TraceFilter,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchMode {
    /// Meaning and words.
    Hybrid,
    /// Words alone.
    Words,
    /// Vectors alone.
    Meaning,
}

/// The answer to a description.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SearchAnswer {
    /// What fits, best first; each a text with the traces that share it.
    pub hits: Vec<TextHit>,
    /// Whether nothing that is stored (and passes the filter) is near the description.
    pub nothing_near: bool,
    /// What the reader should know about the answer, such as that only words were compared.
    pub note: Option<String>,
}

/// A text and the traces that share it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TextHit {
    /// Of a search: the weighted sum, 1 at most and only comparable within one answer. Of a similarity: the cosine.
    pub score: f64,
    /// Cosine of text and question; none when the text has no vector yet or no model is at hand.
    pub cosine: Option<f64>,
    /// Share of the question's words that the text has, weighed by rarity, 0 to 1; none when words were not compared.
    pub word_share: Option<f64>,
    /// What of the question stands in the trace as it is: an id, a number or a host, which texts mask. None where meaning and words
    /// were compared.
    pub exact: Option<ExactMatch>,
    /// The text.
    pub text: String,
    /// Traces that share it and pass the filter.
    pub trace_count: i64,
    /// The one of them that began last.
    pub newest: TraceOverview,
}

/// A candidate while it is weighed.
#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    cosine: Option<f64>,
    bm25: f64,
    word_share: f64,
    /// Whether the text begins with what the question is after: a failure, or that it was slow.
    preferred: bool,
}

impl Candidate {
    fn is_near(&self, floor: f64) -> bool {
        self.cosine.is_some_and(|cosine| cosine >= floor) || self.word_share >= WORDS_FLOOR
    }
}

impl QueryService {
    /// Finds traces by a description in words.
    ///
    /// Without pgvector, a model or vectors the words alone decide, and the note says so.
    ///
    /// # Errors
    /// [`QueryError::InvalidArgument`] for an empty description or a limit or filter that cannot be.
    pub async fn search_traces(&self, request: &SearchRequest) -> Result<SearchAnswer, QueryError> {
        self.search_traces_by(request, SearchMode::Hybrid).await
    }

    /// As [`Self::search_traces`], for measurements: with only words or only vectors compared nothing is held back for being far.
    ///
    /// # Errors
    /// As [`Self::search_traces`].
    pub async fn search_traces_by(
        &self,
        request: &SearchRequest,
        mode: SearchMode,
    ) -> Result<SearchAnswer, QueryError> {
        let question = request.text.trim();
        if question.is_empty() || question.chars().count() > MAX_QUESTION_CHARACTERS {
            return Err(QueryError::InvalidArgument {
                name: "text",
                accepted: format!("a description of 1 to {MAX_QUESTION_CHARACTERS} characters"),
            });
        }
        let limit = check_limit(request.limit)?;
        let filter = self.row_filter(&request.filter).await?;
        let marked = if mode == SearchMode::Hybrid {
            self.marked_traces(question, &request.filter).await?
        } else {
            Marked::default()
        };
        if marked.named {
            return Ok(SearchAnswer { nothing_near: false, hits: marked.hits, note: None });
        }
        let (meaning, note) = match mode {
            SearchMode::Words => (None, None),
            SearchMode::Hybrid | SearchMode::Meaning => self.meaning(question).await?,
        };
        let words = if mode == SearchMode::Meaning { "" } else { question };

        let mut hits = Vec::new();
        for (wanted, of_filter) in [(FIRST_CANDIDATES, false), (MORE_CANDIDATES, false), (FIRST_CANDIDATES, true)] {
            let besides = if of_filter { self.few_texts(&filter).await? } else { Some(Vec::new()) };
            let Some(besides) = besides else { break };
            let candidates = self.candidates(words, meaning.as_ref(), wanted, &besides).await?;
            hits = self.hits(&candidates, &filter, limit, mode).await?;
            // The index on vectors may end before all are seen, and what a filter lets through be among the rest.
            let all_seen = (candidates.len() as i64) < wanted && !filter.looks_at_rows();
            if hits.len() >= limit || all_seen {
                break;
            }
        }
        let known: HashSet<_> = marked.hits.iter().map(|hit| hit.newest.trace_id).collect();
        hits.retain(|hit| hit.trace_count > 1 || !known.contains(&hit.newest.trace_id));
        hits.splice(0..0, marked.hits);
        hits.truncate(limit);
        Ok(SearchAnswer { nothing_near: hits.is_empty(), hits, note })
    }

    /// The question's vector and the model it is of.
    ///
    /// # Errors
    /// [`QueryError::Unavailable`] without a model or vectors of it.
    pub(super) async fn vector_of(&self, question: &str) -> Result<(RegisteredModel, Vec<f32>), QueryError> {
        let served = self.served().await?;
        let served = served.map_err(|missing| QueryError::Unavailable { reason: missing.reason().to_owned() })?;
        Ok((served.model, self.vectors.of(&served.embedder, question.to_owned()).await?))
    }

    /// The question's vector, or why there is none.
    async fn meaning(
        &self,
        question: &str,
    ) -> Result<(Option<(RegisteredModel, Vec<f32>)>, Option<String>), QueryError> {
        match self.served().await? {
            Ok(Served { embedder, model, note }) => {
                let vector = self.vectors.of(&embedder, Aim::of(question).asked(question)).await?;
                Ok((Some((model, vector)), note))
            }
            Err(missing) => Ok((None, Some(format!("{}: only words were compared", missing.reason())))),
        }
    }

    /// The texts of the traces that pass a filter, if it lets so few through that all of them can be compared: what is nearest
    /// among few may be far down in the list of all. None also where finding them takes too long: then what is nearest of all
    /// has to do.
    pub(super) async fn few_texts(&self, filter: &RowFilter) -> Result<Option<Vec<i64>>, QueryError> {
        if !filter.looks_at_rows() {
            return Ok(None);
        }
        let texts = match self.database.texts_of_traces(filter, FEW_TRACES).await {
            Err(error) if error.is_too_long() => return Ok(None),
            texts => texts?,
        };
        Ok(texts.filter(|texts| !texts.is_empty() && texts.len() <= FEW_TEXTS))
    }

    /// Candidates with their scores, by text; those that are given are among them.
    async fn candidates(
        &self,
        question: &str,
        meaning: Option<&(RegisteredModel, Vec<f32>)>,
        wanted: i64,
        besides: &[i64],
    ) -> Result<Vec<(i64, Candidate)>, QueryError> {
        let mut candidates: HashMap<i64, Candidate> =
            besides.iter().map(|text_id| (*text_id, Candidate::default())).collect();
        if let Some((model, vector)) = meaning {
            for near in self.database.nearest_texts(model, vector, wanted, self.scan).await? {
                candidates.entry(near.text_id).or_default().cosine = Some(near.cosine);
            }
        }
        self.weigh_words(question, &mut candidates).await?;
        if let Some((model, vector)) = meaning {
            let unknown: Vec<i64> =
                candidates.iter().filter(|(_, candidate)| candidate.cosine.is_none()).map(|(id, _)| *id).collect();
            for near in self.database.cosines(model, vector, &unknown).await? {
                candidates.entry(near.text_id).or_default().cosine = Some(near.cosine);
            }
        }
        if meaning.is_some() && !question.is_empty() {
            let ids: Vec<i64> = candidates.keys().copied().collect();
            let aim = Aim::of(question);
            let mut preferred = Vec::new();
            if aim != Aim::GoodEnd {
                preferred = self.database.failing_texts(&ids).await?;
            }
            if aim == Aim::Slowness {
                preferred.extend(self.database.slow_texts(&ids).await?);
            }
            for text_id in preferred {
                candidates.entry(text_id).or_default().preferred = true;
            }
        }
        let mut ranked: Vec<(i64, Candidate)> = candidates.into_iter().collect();
        let best_cosine = ranked.iter().filter_map(|(_, candidate)| candidate.cosine).fold(0.0, f64::max);
        let best_bm25 = ranked.iter().map(|(_, candidate)| candidate.bm25).fold(0.0, f64::max);
        let score = |candidate: &Candidate| total(candidate, meaning.is_some(), best_cosine, best_bm25);
        ranked.sort_by(|(a_id, a), (b_id, b)| score(b).total_cmp(&score(a)).then(b_id.cmp(a_id)));
        Ok(ranked)
    }

    /// Adds candidates that have words of the question, and gives all candidates their BM25 score.
    async fn weigh_words(&self, question: &str, candidates: &mut HashMap<i64, Candidate>) -> Result<(), QueryError> {
        let words = self.database.words_of(&super::words::words_and_names(question)).await?;
        if words.is_empty() {
            return Ok(());
        }
        let statistics = self.text_statistics().await?;
        let frequencies = self.database.text_frequencies(&words).await?;
        let weights: Vec<f64> = frequencies.iter().map(|&texts| rarity(statistics.texts, texts)).collect();
        let all_weights: f64 = weights.iter().sum();

        // The rarest words first, as long as they do not bring too many texts.
        let mut order: Vec<usize> = (0..words.len()).filter(|&word| frequencies[word] > 0).collect();
        order.sort_by_key(|&word| frequencies[word]);
        let mut chosen: Vec<&str> = Vec::new();
        let mut expected = 0;
        for word in order {
            expected += frequencies[word];
            if expected > WORD_CANDIDATES && !chosen.is_empty() {
                break;
            }
            chosen.push(&words[word]);
        }
        for text_id in self.database.texts_with_words(&chosen, WORD_CANDIDATES).await? {
            candidates.entry(text_id).or_default();
        }
        let ids: Vec<i64> = candidates.keys().copied().collect();
        for found in self.database.word_counts(&ids, &words).await? {
            let (Some(weight), Some(candidate)) = (weights.get(found.word), candidates.get_mut(&found.text_id)) else {
                continue;
            };
            let length = f64::from(found.text_words) / statistics.average_words.max(1.0);
            let count = f64::from(found.count);
            candidate.bm25 += weight * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length));
            if all_weights > 0.0 {
                candidate.word_share += weight / all_weights;
            }
        }
        Ok(())
    }

    async fn text_statistics(&self) -> Result<TextStatistics, QueryError> {
        let known = *self.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, statistics)) = known
            && read.elapsed() < STATISTICS_AGE
        {
            return Ok(statistics);
        }
        let statistics = self.database.text_statistics().await?;
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), statistics));
        Ok(statistics)
    }

    /// The best near candidates that describe a trace which passes the filter.
    async fn hits(
        &self,
        ranked: &[(i64, Candidate)],
        filter: &RowFilter,
        limit: usize,
        mode: SearchMode,
    ) -> Result<Vec<TextHit>, QueryError> {
        let meaning = ranked.iter().any(|(_, candidate)| candidate.cosine.is_some());
        let best_cosine = ranked.iter().filter_map(|(_, candidate)| candidate.cosine).fold(0.0, f64::max);
        let best_bm25 = ranked.iter().map(|(_, candidate)| candidate.bm25).fold(0.0, f64::max);
        let near: Vec<&(i64, Candidate)> = ranked
            .iter()
            .filter(|(_, candidate)| mode != SearchMode::Hybrid || candidate.is_near(self.options.search_floor))
            .collect();
        let mut hits = Vec::new();
        let mut shown = HashSet::new();
        for part in near.chunks(limit.max(10)) {
            let ids: Vec<i64> = part.iter().map(|(id, _)| *id).collect();
            let by_id: HashMap<i64, &Candidate> = part.iter().map(|(id, candidate)| (*id, candidate)).collect();
            for found in self.database.traces_of_texts(&ids, filter).await? {
                let Some(candidate) = by_id.get(&found.text_id) else { continue };
                // Of a run with many texts the best one is enough.
                if !shown.insert(found.newest.trace_id) && found.count == 1 {
                    continue;
                }
                hits.push(TextHit {
                    score: total(candidate, meaning, best_cosine, best_bm25),
                    cosine: candidate.cosine,
                    word_share: Some(candidate.word_share.min(1.0)),
                    exact: None,
                    text: found.text,
                    trace_count: found.count,
                    newest: found.newest.into(),
                });
                if hits.len() == limit {
                    return Ok(hits);
                }
            }
        }
        Ok(hits)
    }
}

/// The weighted sum. Without vectors the words are all there is.
fn total(candidate: &Candidate, meaning: bool, best_cosine: f64, best_bm25: f64) -> f64 {
    let words = if best_bm25 > 0.0 { candidate.bm25 / best_bm25 } else { 0.0 };
    if !meaning {
        return words;
    }
    let cosine = candidate.cosine.unwrap_or(0.0).max(0.0);
    let near = if best_cosine > 0.0 { cosine / best_cosine } else { 0.0 };
    let aim = if candidate.preferred { AIM_WEIGHT } else { 0.0 };
    VECTOR_WEIGHT * near + WORDS_WEIGHT * words + aim
}

/// The inverse document frequency of BM25, never below zero.
fn rarity(texts: i64, with_word: i64) -> f64 {
    let (texts, with_word) = (texts.max(with_word) as f64, with_word as f64);
    (1.0 + (texts - with_word + 0.5) / (with_word + 0.5)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_weigh_more_and_none_weighs_less_than_nothing() {
        assert!(rarity(1000, 1) > rarity(1000, 10));
        assert!(rarity(1000, 1000) >= 0.0);
        assert!(rarity(0, 0) >= 0.0);
        // Statistics may be older than the frequencies.
        assert!(rarity(5, 9).is_finite());
    }

    #[test]
    fn the_sum_is_weighed_and_words_stand_alone_without_vectors() {
        let candidate = Candidate { cosine: Some(0.25), bm25: 2.0, word_share: 0.4, preferred: false };
        assert!((total(&candidate, true, 0.5, 4.0) - (0.66 * 0.5 + 0.28 * 0.5)).abs() < 1e-12);
        let failing = Candidate { preferred: true, ..candidate };
        assert!((total(&failing, true, 0.5, 4.0) - 0.53).abs() < 1e-12);
        assert!((total(&candidate, false, 0.5, 4.0) - 0.5).abs() < 1e-12);
        let nothing = Candidate::default();
        assert!(total(&nothing, true, 0.0, 0.0).abs() < 1e-12);
    }

    #[test]
    fn near_is_by_meaning_or_by_words() {
        assert!(Candidate { cosine: Some(SEARCH_FLOOR), ..Candidate::default() }.is_near(SEARCH_FLOOR));
        assert!(Candidate { word_share: WORDS_FLOOR, ..Candidate::default() }.is_near(SEARCH_FLOOR));
        assert!(
            !Candidate { cosine: Some(SEARCH_FLOOR - 0.01), word_share: 0.3, bm25: 9.0, preferred: true }
                .is_near(SEARCH_FLOOR)
        );
    }
}
