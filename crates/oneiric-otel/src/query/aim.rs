//! What a question is after: a failure, slowness, or what went well.
//!
//! What is looked for has failed or was slow as a rule, and its text says so; the question seldom does in the same words.
//! So a word of the text's is added to the question before it is compared by meaning, and texts that begin as such texts do
//! are preferred a little. Without it, healthy requests with the same names lie nearer.

/// Words of questions about what went well.
const GOOD_ENDS: &[&str] = &["succeeded", "succeeds", "successful", "successfully", "success", "healthy"];

/// Words of questions about what took long.
const SLOW: &[&str] = &[
    "slow", "slower", "slowly", "slowness", "latency", "long", "longer", "wait", "waits", "waited", "waiting",
    "seconds", "minutes", "ages", "delay", "delays", "delayed", "hang", "hangs", "lag", "lags",
];

/// What a question is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// Something that failed. Also where the question does not say.
    Failure,
    /// Something that took long, whether it failed for it or not.
    Slowness,
    /// Something that went well.
    GoodEnd,
}

impl Aim {
    pub(super) fn of(question: &str) -> Self {
        let lower = question.to_lowercase();
        let has = |wanted: &[&str]| lower.split(|c: char| !c.is_alphanumeric()).any(|word| wanted.contains(&word));
        if has(GOOD_ENDS) {
            Self::GoodEnd
        } else if has(SLOW) {
            Self::Slowness
        } else {
            Self::Failure
        }
    }

    /// The question as its meaning is compared with that of texts.
    pub(super) fn asked(self, question: &str) -> String {
        match self {
            Self::Failure => format!("{question} failed"),
            Self::Slowness => format!("{question} was slow"),
            Self::GoodEnd => question.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_about_a_failure_unless_it_says_otherwise() {
        let asked = |question: &str| Aim::of(question).asked(question);
        assert_eq!(asked("payment is down"), "payment is down failed");
        assert_eq!(asked("Successful logins"), "Successful logins");
        assert_eq!(asked("unsuccessful logins"), "unsuccessful logins failed");
        assert_eq!(asked("Slow checkouts"), "Slow checkouts was slow");
        assert_eq!(asked("slow requests that succeeded"), "slow requests that succeeded");
        assert_eq!(asked("belongs to slowenia"), "belongs to slowenia failed");
    }
}
