//! The query API of a Jaeger: service by service, window by window, as much as it gives at a time.
//!
//! An answer has a limit and no next page. A window that fills the limit is asked for in halves, so that nothing is left
//! out, and memory holds one answer.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oneiric_otel::compare::{SpanFacts, jaeger};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::failure;

/// Traces of an answer.
const LIMIT: usize = 200;
/// Bytes of an answer.
const ANSWER_BYTES: usize = 256 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) struct Jaeger {
    base: String,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Jaeger {
    pub(super) fn new(url: &str) -> Result<Self> {
        let accepted = || {
            failure::advised(
                "--jaeger: expected http://HOST:PORT or https://HOST:PORT, with the path that the query API lies below",
                "Jaeger's query API is where its user interface is, by default at port 16686",
            )
        };
        let uri: Uri = url.parse().map_err(|_| accepted())?;
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if !is_known || !is_plain || uri.query().is_some() {
            return Err(accepted());
        }
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .context("cannot read the certificates of authorities of this machine")?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base: url.trim_end_matches('/').to_owned(), client })
    }

    /// Gives the traces of a range, in microseconds since 1970, to `take`, answer by answer. A trace can come again, each
    /// time whole.
    pub(super) async fn read(
        &self,
        since: u64,
        until: u64,
        take: &mut impl FnMut(Vec<Vec<SpanFacts>>) -> Result<()>,
    ) -> Result<()> {
        let services = jaeger::services(&self.get("/api/services").await?).map_err(|reason| self.failed(&reason))?;
        for service in services {
            let service = utf8_percent_encode(&service, NON_ALPHANUMERIC).to_string();
            let mut windows = vec![(since, until)];
            while let Some((start, end)) = windows.pop() {
                let path = format!("/api/traces?service={service}&start={start}&end={end}&limit={LIMIT}");
                let traces = jaeger::traces(&self.get(&path).await?).map_err(|reason| self.failed(&reason))?;
                if traces.len() < LIMIT {
                    take(traces)?;
                    continue;
                }
                let middle = start + (end - start) / 2;
                if middle == start {
                    bail!("{}: more than {LIMIT} traces of {service} began within a microsecond", self.base);
                }
                // Both ends of a window are in it.
                windows.extend([(middle, end), (start, middle)]);
            }
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        let request = Request::get(format!("{}{path}", self.base)).header(header::ACCEPT, "application/json");
        let request = request.body(Empty::new())?;
        let answer = async {
            let response = self.client.request(request).await.context("cannot ask it")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}")).context("its answer broke off")?.to_bytes();
            if !status.is_success() {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                bail!("it answered {status}: {text}");
            }
            Ok(body)
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()));
        answer.map_err(|error| self.failed(&format!("{error:#}")))
    }

    fn failed(&self, reason: &str) -> anyhow::Error {
        failure::advised(
            format!("Jaeger at {}: {}", self.base, crate::screen::clean(reason)),
            "check --jaeger, and that the query API answers /api/services there",
        )
    }
}
