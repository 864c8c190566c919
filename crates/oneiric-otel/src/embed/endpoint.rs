//! A model behind an OpenAI-compatible `/v1/embeddings`: llama.cpp, Ollama, vLLM, a cloud.
//!
//! An answer is believed only when it has one finite vector of the right dimension for every text that was asked for;
//! anything else is an error, and the texts stay without vectors. The key is in no message and no Debug.

use std::fmt;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};

use super::{EmbedError, Embedder, EmbeddingModel};
use crate::settings::Secret;

/// What is known of the arithmetic behind an endpoint. Part of the model's identity: its vectors are never mixed with those
/// of a model of the same name in this process.
const PRECISION: &str = "served";

/// Bytes of an answer at most: 2048 vectors of 4096 components as text.
const MAX_ANSWER_BYTES: u64 = 128 << 20;

/// Characters of what an endpoint says that a message repeats.
const REASON_CHARACTERS: usize = 200;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Bytes of text that are taken for a token: models of other makers count otherwise, and this is only for batches.
const BYTES_PER_TOKEN: usize = 4;

/// Where a model is served, and how it is asked.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// `http://` or `https://`, up to the host, to `/v1`, or to `/v1/embeddings`. Errors show it.
    pub url: String,
    /// Shown as a bearer token.
    pub api_key: Option<Secret>,
    /// The model's name there, and in the database.
    pub model: String,
    /// Components that its vectors must have; none for what the first answer has.
    pub dimension: Option<usize>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Tries of a request after the first, for errors that time may mend.
    pub retries: u32,
    /// Texts of one request at most.
    pub batch_texts: usize,
}

/// A model behind an endpoint. Its calls block.
pub struct EndpointModel {
    agent: ureq::Agent,
    url: String,
    model: EmbeddingModel,
    options: EndpointOptions,
}

impl fmt::Debug for EndpointModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointModel").field("url", &self.url).field("model", &self.model).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    input: &'a [&'a str],
    encoding_format: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Numbered>,
}

#[derive(Deserialize)]
struct Numbered {
    index: usize,
    embedding: Vec<f32>,
}

/// How OpenAI and those like it say what is wrong.
#[derive(Deserialize)]
struct Refusal {
    error: Said,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Object { message: String },
    Text(String),
}

/// Why a request failed.
struct Failure {
    reason: String,
    /// Whether the same request may succeed later, and when at the earliest.
    again_after: Option<Duration>,
}

impl Failure {
    fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), again_after: None }
    }

    fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), again_after: Some(Duration::ZERO) }
    }
}

impl EndpointModel {
    /// Asks the endpoint for one vector, to see that it answers and of which dimension.
    ///
    /// # Errors
    /// When it does not answer, or not with the dimension that is expected.
    pub fn connect(options: EndpointOptions) -> Result<Self, EmbedError> {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(options.timeout))
            .http_status_as_error(false)
            // Neither key nor texts go to a place that nobody named.
            .max_redirects(0)
            .tls_config(tls)
            .user_agent(concat!("oneiric-otel/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let url = embeddings_url(&options.url);
        let model = EmbeddingModel {
            name: options.model.clone(),
            dimension: options.dimension.unwrap_or_default(),
            precision: PRECISION.to_owned(),
        };
        let mut endpoint = Self { agent, url, model, options };
        let found = endpoint.ask(&["dimension"])?.first().map_or(0, Vec::len);
        if let Some(expected) = endpoint.options.dimension
            && found != expected
        {
            return Err(endpoint.error(format!("its vectors have {found} dimensions, expected {expected}")));
        }
        endpoint.model.dimension = found;
        Ok(endpoint)
    }

    fn error(&self, reason: impl fmt::Display) -> EmbedError {
        EmbedError { model: self.model.name.clone(), reason: format!("{}: {reason}", self.url) }
    }

    /// Vectors of one request, of any dimension that is the same for all.
    fn ask(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let question = Question { model: &self.options.model, input: texts, encoding_format: "float" };
        let body = serde_json::to_vec(&question).map_err(|error| self.error(error))?;
        let mut pause = FIRST_PAUSE;
        let mut retries = 0;
        loop {
            let failure = match self.post(&body).and_then(|answer| vectors(&answer, texts.len())) {
                Ok(vectors) => return Ok(vectors),
                Err(failure) => failure,
            };
            let Some(after) = failure.again_after.filter(|_| retries < self.options.retries) else {
                return Err(self.error(failure.reason));
            };
            tracing::debug!(url = self.url, reason = failure.reason, "the embedding endpoint is asked again");
            thread::sleep(after.min(LONGEST_PAUSE).max(pause.mul_f64(rand::rng().random_range(0.5..=1.0))));
            pause = (pause * 2).min(LONGEST_PAUSE);
            retries += 1;
        }
    }

    fn post(&self, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.options.api_key {
            request = request.header("authorization", format!("Bearer {}", key.expose()));
        }
        let answer = request.send(body).map_err(|error| transport(&error))?;
        let (head, body) = answer.into_parts();
        let mut bytes = Vec::new();
        let read = body.into_reader().take(MAX_ANSWER_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::passing(format!("the answer broke off: {error}")))?;
        if bytes.len() as u64 > MAX_ANSWER_BYTES {
            return Err(Failure::lasting(format!("an answer of more than {MAX_ANSWER_BYTES} bytes")));
        }
        if head.status == StatusCode::OK { Ok(bytes) } else { Err(self.refused(head.status, &head.headers, &bytes)) }
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
        let mut reason = format!("HTTP {status}");
        // Some repeat the key that they refuse.
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
            && let Ok(refusal) = serde_json::from_slice::<Refusal>(body)
        {
            let (Said::Object { message } | Said::Text(message)) = refusal.error;
            let message = match &self.options.api_key {
                Some(key) => message.replace(key.expose(), "(hidden)"),
                None => message,
            };
            reason = format!("{reason}: {}", message.chars().take(REASON_CHARACTERS).collect::<String>());
        }
        let passes = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
        let after = headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        Failure { reason, again_after: passes.then(|| Duration::from_secs(after.unwrap_or_default())) }
    }
}

impl Embedder for EndpointModel {
    fn model(&self) -> &EmbeddingModel {
        &self.model
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for part in texts.chunks(self.options.batch_texts.max(1)) {
            for vector in self.ask(part)? {
                let (found, expected) = (vector.len(), self.model.dimension);
                if found != expected {
                    return Err(self.error(format!("a vector has {found} dimensions, expected {expected}")));
                }
                vectors.push(vector);
            }
        }
        Ok(vectors)
    }

    fn token_count(&self, text: &str) -> usize {
        text.len().div_ceil(BYTES_PER_TOKEN)
    }
}

/// The whole URL of what may end before the path.
fn embeddings_url(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.ends_with("/embeddings") {
        url.to_owned()
    } else if url.ends_with("/v1") {
        format!("{url}/embeddings")
    } else {
        format!("{url}/v1/embeddings")
    }
}

/// What went wrong before there was an answer.
fn transport(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            Failure::lasting(error.to_string())
        }
        error => Failure::passing(error.to_string()),
    }
}

/// The vectors of an answer, normalised, in the order of the texts.
fn vectors(answer: &[u8], texts: usize) -> Result<Vec<Vec<f32>>, Failure> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| Failure::lasting(format!("the answer is not understood: {error}")))?;
    let mut vectors = vec![Vec::new(); texts];
    for Numbered { index, embedding } in answer.data {
        match vectors.get_mut(index) {
            Some(place) if place.is_empty() => *place = normalised(embedding)?,
            _ => {
                return Err(Failure::lasting(format!(
                    "vector {index} of {texts} texts was not asked for, or comes twice"
                )));
            }
        }
    }
    let dimension = vectors.first().map_or(0, Vec::len);
    if dimension == 0 || vectors.iter().any(|vector| vector.len() != dimension) {
        return Err(Failure::lasting(format!("not every one of {texts} texts has a vector of the same dimension")));
    }
    Ok(vectors)
}

fn normalised(mut vector: Vec<f32>) -> Result<Vec<f32>, Failure> {
    let norm = vector.iter().map(|component| f64::from(*component).powi(2)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return Err(Failure::lasting("a vector has no direction"));
    }
    for component in &mut vector {
        *component = (f64::from(*component) / norm) as f32;
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_may_end_before_the_path() {
        for (url, whole) in [
            ("http://h:1", "http://h:1/v1/embeddings"),
            ("http://h:1/", "http://h:1/v1/embeddings"),
            ("http://h/v1", "http://h/v1/embeddings"),
            ("http://h/v1/", "http://h/v1/embeddings"),
            ("https://h/api/v1/embeddings", "https://h/api/v1/embeddings"),
        ] {
            assert_eq!(embeddings_url(url), whole);
        }
    }

    #[test]
    fn answers_that_lack_something_are_refused() {
        let read = |text: &str| vectors(text.as_bytes(), 2).map_err(|failure| failure.reason);
        let good = r#"{"data":[{"index":1,"embedding":[0,3]},{"index":0,"embedding":[2,0]}]}"#;
        assert_eq!(read(good).expect("good"), [[1.0, 0.0], [0.0, 1.0]]);
        for (answer, reason) in [
            ("{}", "missing field"),
            ("<html>", "not understood"),
            (r#"{"data":[]}"#, "not every one"),
            (r#"{"data":[{"index":0,"embedding":[1]}]}"#, "not every one"),
            (r#"{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1,2]}]}"#, "not every one"),
            (r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#, "comes twice"),
            (r#"{"data":[{"index":7,"embedding":[1]}]}"#, "not asked for"),
            (r#"{"data":[{"index":0,"embedding":[0,0]}]}"#, "no direction"),
            (r#"{"data":[{"index":0,"embedding":[null]}]}"#, "not understood"),
            (r#"{"data":[{"index":0,"embedding":"AAAA"}]}"#, "not understood"),
        ] {
            let told = read(answer).expect_err(answer);
            assert!(told.contains(reason), "{answer}: {told}");
        }
    }
}
