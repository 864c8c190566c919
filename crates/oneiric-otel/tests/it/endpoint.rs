//! A model behind an OpenAI-compatible endpoint: a small server that computes real vectors, and does what servers do wrong.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_otel::embed::{Embedder, EmbeddingModel, EndpointModel, EndpointOptions};
use oneiric_otel::settings::Secret;
use serde_json::{Value, json};

use crate::scene::minilm;

const KEY: &str = "sk-s3cr3t";

/// What the server does with a request instead of answering it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Status(u16, &'static str),
    HangUp,
    /// Says nothing until the test is over.
    Silence,
    Body(&'static str),
}

/// Serves all-MiniLM-L6-v2, in the way of OpenAI.
struct Endpoint {
    url: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// How many texts each request had.
    requests: Arc<Mutex<Vec<usize>>>,
    over: Arc<AtomicBool>,
}

impl Endpoint {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let this = Self { url, faults: Arc::default(), requests: Arc::default(), over: Arc::default() };
        let (faults, requests, over) = (this.faults.clone(), this.requests.clone(), this.over.clone());
        let model = minilm();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (faults, requests, over) = (faults.clone(), requests.clone(), over.clone());
                let model = Arc::clone(&model);
                // Whoever hangs up in the middle ends the thread, not the test.
                std::thread::spawn(move || serve(&stream.unwrap(), &*model, &faults, &requests, &over));
            }
        });
        this
    }

    fn options(&self) -> EndpointOptions {
        EndpointOptions {
            url: self.url.clone(),
            api_key: Some(Secret::new(KEY)),
            model: "all-MiniLM-L6-v2".to_owned(),
            dimension: None,
            timeout: Duration::from_secs(30),
            retries: 3,
            batch_texts: 4,
        }
    }

    fn then(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// The sizes of the requests since the last call.
    fn requests(&self) -> Vec<usize> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn serve(
    stream: &TcpStream,
    model: &dyn Embedder,
    faults: &Mutex<VecDeque<Fault>>,
    requests: &Mutex<Vec<usize>>,
    over: &AtomicBool,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut body = vec![0; header("content-length:")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let question: Value = serde_json::from_slice(&body).ok()?;
        let texts: Vec<&str> = question["input"].as_array()?.iter().filter_map(Value::as_str).collect();
        requests.lock().unwrap().push(texts.len());
        let fault = faults.lock().unwrap().pop_front();
        let (status, body) = match fault {
            Some(Fault::HangUp) => return None,
            Some(Fault::Silence) => {
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                return None;
            }
            Some(Fault::Status(status, body)) => (status, body.to_owned()),
            Some(Fault::Body(body)) => (200, body.to_owned()),
            None if !head.starts_with("post /v1/embeddings ") => (404, String::new()),
            None if header("authorization:") != Some("bearer sk-s3cr3t") => (401, String::new()),
            None => (200, answer(model, &question, &texts)),
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nRetry-After: 0\r\n\r\n", body.len());
        let mut stream = stream;
        stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    }
}

/// The last text first, since the order is not promised, and not normalised.
fn answer(model: &dyn Embedder, question: &Value, texts: &[&str]) -> String {
    let vectors = model.embed(texts).unwrap();
    let data = vectors.into_iter().enumerate().rev().map(|(index, vector)| {
        let vector: Vec<f32> = vector.into_iter().map(|component| component * 3.0).collect();
        json!({"object": "embedding", "index": index, "embedding": vector})
    });
    json!({"object": "list", "model": question["model"], "data": data.collect::<Vec<_>>()}).to_string()
}

const TEXTS: [&str; 6] =
    ["connection refused", "paper jam", "checkout failed", "", "slow disk", "ünïcode \" \\ \u{1F600}"];

#[test]
fn vectors_are_those_of_the_model_in_the_order_of_the_texts() {
    let endpoint = Endpoint::start();
    let served = EndpointModel::connect(EndpointOptions { dimension: Some(384), ..endpoint.options() }).unwrap();
    let identity =
        EmbeddingModel { name: "all-MiniLM-L6-v2".to_owned(), dimension: 384, precision: "served".to_owned() };
    assert_eq!(*served.model(), identity);
    assert_eq!(endpoint.requests(), [1]);
    let (found, expected) = (served.embed(&TEXTS).unwrap(), minilm().embed(&TEXTS).unwrap());
    assert_eq!(endpoint.requests(), [4, 2]);
    assert_eq!(found.len(), TEXTS.len());
    for (found, expected) in found.iter().zip(&expected) {
        let cosine: f32 = found.iter().zip(expected).map(|(one, other)| one * other).sum();
        assert!((cosine - 1.0).abs() < 1e-5, "{cosine}");
    }
    assert!(served.embed(&[]).unwrap().is_empty());
    assert!(!format!("{served:?} {:?}", endpoint.options()).contains(KEY));
}

#[test]
fn what_time_may_mend_is_tried_again_and_nothing_else() {
    let endpoint = Endpoint::start();
    let served = EndpointModel::connect(endpoint.options()).unwrap();
    endpoint.requests();
    endpoint.then(&[Fault::Status(429, ""), Fault::Status(503, "<html>"), Fault::HangUp]);
    assert_eq!(served.embed(&["x"]).unwrap().len(), 1);
    assert_eq!(endpoint.requests().len(), 4);

    endpoint.then(&[Fault::Status(500, ""); 4]);
    assert!(served.embed(&["x"]).unwrap_err().to_string().contains("HTTP 500"));
    assert_eq!(endpoint.requests().len(), 4, "three retries");

    let echo = r#"{"error":{"message":"the key sk-s3cr3t has no such model"}}"#;
    for (fault, expected) in [
        (Fault::Status(401, echo), "HTTP 401"),
        (Fault::Status(404, echo), "the key (hidden) has no such model"),
        (Fault::Status(400, r#"{"error":"too long"}"#), "too long"),
        (Fault::Status(302, ""), "HTTP 302"),
        (Fault::Body("{}"), "not understood"),
        (Fault::Body(r#"{"data":[{"index":0,"embedding":[1,0]}]}"#), "2 dimensions, expected 384"),
    ] {
        endpoint.then(&[fault]);
        let told = served.embed(&["x"]).unwrap_err().to_string();
        assert!(told.contains(expected) && told.contains(&endpoint.url) && !told.contains(KEY), "{told}");
        assert_eq!(endpoint.requests().len(), 1, "{fault:?}");
    }
    assert_eq!(served.embed(&["x"]).unwrap().len(), 1, "afterwards all is well");
}

#[test]
fn an_endpoint_that_cannot_be_used_is_refused_at_once() {
    let endpoint = Endpoint::start();
    let once = EndpointOptions { retries: 0, ..endpoint.options() };
    let refusal = |options: EndpointOptions| EndpointModel::connect(options).unwrap_err().to_string();
    let wrong = refusal(EndpointOptions { dimension: Some(768), ..once.clone() });
    assert!(wrong.contains("384 dimensions, expected 768"), "{wrong}");
    let wrong = refusal(EndpointOptions { api_key: None, ..once.clone() });
    assert!(wrong.contains("HTTP 401"), "{wrong}");
    endpoint.then(&[Fault::Silence]);
    let silent = refusal(EndpointOptions { timeout: Duration::from_millis(50), ..once.clone() });
    assert!(silent.contains("timeout"), "{silent}");
    let nowhere = refusal(EndpointOptions { url: "http://127.0.0.1:1".to_owned(), ..once });
    assert!(nowhere.contains("http://127.0.0.1:1/v1/embeddings"), "{nowhere}");
}
