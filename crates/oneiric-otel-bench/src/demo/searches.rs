//! The searches that the demo shows: questions in words that its telemetry does not use.

use super::plan::Fault;

/// A question and what it is after.
#[derive(Debug)]
pub struct Search {
    /// The question.
    pub question: &'static str,
    /// The words for the fault. None of them occurs in what the demo sends.
    pub fault_words: &'static [&'static str],
    /// What should be found.
    pub fault: Fault,
}

/// The searches.
pub const SEARCHES: [Search; 3] = [
    Search {
        question: "could not reach the payment service",
        fault_words: &["could not", "reach"],
        fault: Fault::RefusedConnection,
    },
    Search { question: "language model requests were throttled", fault_words: &["throttled"], fault: Fault::RateLimit },
    Search {
        question: "product suggestions took too long to arrive",
        fault_words: &["suggestions", "too long", "arrive"],
        fault: Fault::Timeout,
    },
];
