//! Clients: each sends its requests one after the other, the same bytes again until they are acknowledged, over gRPC or
//! HTTP, to any of the servers.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use oneiric_otel_testkit::send::send_once;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::content::{Contents, Signal};
use crate::ledger::Ledger;
use crate::serving::Addresses;

/// How long a client waits for an answer before it sends again.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1_500);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How a client talks to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf.
    Http,
}

/// What came of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Everything was accepted.
    Acknowledged,
    /// It may be sent again. What came, in a few words.
    Retry(String),
    /// The server says that the request is at fault.
    Fault(String),
}

/// Sends bytes to servers and keeps connections to them.
#[derive(Debug)]
pub struct Sender {
    protocol: Protocol,
    compress: bool,
    channels: Vec<(SocketAddr, tonic::client::Grpc<Channel>)>,
    http: reqwest::Client,
}

impl Sender {
    /// One that has no connection yet.
    ///
    /// # Errors
    /// If the system's settings for HTTP are broken.
    pub fn new(protocol: Protocol, compress: bool) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_WITHIN).build()?;
        Ok(Self { protocol, compress, channels: Vec::new(), http })
    }

    /// Sends a request once. A caller who does not wait for the end sends half of it, or does not see the answer.
    pub async fn deliver(&mut self, server: Addresses, signal: Signal, request: &Bytes) -> Reply {
        match self.protocol {
            Protocol::Grpc => self.over_grpc(server.grpc, signal, request).await,
            Protocol::Http => self.over_http(server.http, signal, request).await,
        }
    }

    async fn over_grpc(&mut self, address: SocketAddr, signal: Signal, request: &Bytes) -> Reply {
        let client = match self.channel(address) {
            Ok(client) => client,
            Err(error) => return Reply::Retry(format!("{error:#}")),
        };
        match send_once(client, signal, request.clone()).await {
            Ok(0) => Reply::Acknowledged,
            Ok(rejected) => Reply::Fault(format!("{rejected} items rejected")),
            Err(status) => of_status(&status),
        }
    }

    /// The connection to a server; those to servers that have gone are forgotten by and by.
    fn channel(&mut self, address: SocketAddr) -> Result<&mut tonic::client::Grpc<Channel>> {
        const KEPT: usize = 4;
        let known = self.channels.iter().position(|(known, _)| *known == address);
        let index = if let Some(index) = known {
            index
        } else {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_WITHIN);
            let client = tonic::client::Grpc::new(endpoint.connect_lazy());
            let client = if self.compress { client.send_compressed(CompressionEncoding::Gzip) } else { client };
            if self.channels.len() == KEPT {
                self.channels.remove(0);
            }
            self.channels.push((address, client));
            self.channels.len() - 1
        };
        self.channels.get_mut(index).map(|(_, client)| client).context("it was just put there")
    }

    async fn over_http(&self, address: SocketAddr, signal: Signal, request: &Bytes) -> Reply {
        let path = match signal {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
        };
        let mut post =
            self.http.post(format!("http://{address}/v1/{path}")).header("content-type", "application/x-protobuf");
        post = if self.compress {
            match gzip(request) {
                Ok(zipped) => post.header("content-encoding", "gzip").body(zipped),
                Err(error) => return Reply::Retry(error.to_string()),
            }
        } else {
            post.body(request.clone())
        };
        let response = match post.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Reply::Retry("HTTP no connection".to_owned()),
            Err(_) => return Reply::Retry("HTTP connection lost".to_owned()),
        };
        let code = response.status().as_u16();
        let Ok(body) = response.bytes().await else { return Reply::Retry("HTTP connection lost".to_owned()) };
        match code {
            200 => match ExportTraceServiceResponse::decode(body) {
                Ok(reply) => match reply.partial_success.map_or(0, |partial| partial.rejected_spans) {
                    0 => Reply::Acknowledged,
                    rejected => Reply::Fault(format!("{rejected} items rejected")),
                },
                Err(error) => Reply::Fault(format!("HTTP 200 with another body: {error}")),
            },
            429 | 500.. => Reply::Retry(format!("HTTP {code}")),
            _ => Reply::Fault(format!("HTTP {code}: {}", String::from_utf8_lossy(&body))),
        }
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Statuses that a broken connection brings about are not the server's word.
fn of_status(status: &Status) -> Reply {
    let broken = std::error::Error::source(status).is_some();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
            if !broken =>
        {
            Reply::Fault(format!("gRPC {:?}: {}", status.code(), status.message()))
        }
        code if broken => Reply::Retry(format!("gRPC connection lost ({code:?})")),
        code => Reply::Retry(format!("gRPC {code:?}")),
    }
}

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Now and then waits a moment only and sends again.
    pub impatient: bool,
    /// Now and then sends again what was acknowledged, and gives up what was not.
    pub confused: bool,
    /// The least time from one request to the next.
    pub pace: Duration,
}

/// A client of a run.
#[derive(Debug)]
pub struct Client {
    /// Its number.
    pub number: u16,
    /// What it sends.
    pub contents: Contents,
    /// The seed of the run.
    pub seed: u64,
    /// Where the servers are.
    pub servers: Vec<watch::Receiver<Option<Addresses>>>,
    /// Where it notes what it does.
    pub ledger: Arc<Ledger>,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// Becomes true when no new request is to be sent.
    pub ending: watch::Receiver<bool>,
}

impl Client {
    /// Sends until the end is near and what it has begun is acknowledged.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub async fn run(self) -> Result<()> {
        let protocol = if self.number.is_multiple_of(2) { Protocol::Grpc } else { Protocol::Http };
        let mut sender = Sender::new(protocol, self.number % 3 == 2)?;
        let mut next = Instant::now();
        let mut request = 0;
        while !*self.ending.borrow() {
            self.send(&mut sender, request).await;
            request += 1;
            next = (next + self.behaviour.pace).max(Instant::now());
            tokio::time::sleep_until(next).await;
        }
        Ok(())
    }

    async fn send(&self, sender: &mut Sender, request: u32) {
        let mut random = StdRng::seed_from_u64(self.seed ^ (u64::from(self.number) << 40) ^ u64::from(request));
        let plan = self.contents.plan(self.number, request);
        let bytes = Bytes::from(self.contents.request(self.number, request));
        self.ledger.begin(self.number, plan.signal, plan.items);
        let impatient = self.behaviour.impatient && random.random_ratio(1, 10);
        let gives_up = self.behaviour.confused && random.random_ratio(1, 50);
        let repeats = self.behaviour.confused && random.random_ratio(1, 20);
        let mut pause = FIRST_PAUSE;
        for attempt in 0_u32.. {
            let wait =
                if impatient && attempt < 2 { Duration::from_millis(random.random_range(1..150)) } else { PATIENCE };
            match self.deliver(sender, plan.signal, &bytes, wait, &mut random).await {
                Reply::Acknowledged => {
                    self.ledger.acknowledge(self.number, request);
                    break;
                }
                Reply::Fault(text) => {
                    let text = format!("client {} request {request}: {text}", self.number);
                    self.ledger.count(|tally| tally.wrongly_refused.push(text));
                    return;
                }
                Reply::Retry(reason) => {
                    self.ledger.count(|tally| *tally.refused.entry(reason).or_default() += 1);
                }
            }
            if gives_up {
                self.ledger.count(|tally| tally.given_up += 1);
                return;
            }
            sleep(pause.mul_f64(random.random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if repeats {
            self.ledger.count(|tally| tally.sent_after_acknowledgement += 1);
            // Whatever comes: it is stored already.
            drop(self.deliver(sender, plan.signal, &bytes, PATIENCE, &mut random).await);
        }
    }

    async fn deliver(
        &self,
        sender: &mut Sender,
        signal: Signal,
        bytes: &Bytes,
        wait: Duration,
        random: &mut StdRng,
    ) -> Reply {
        let start = random.random_range(0..self.servers.len());
        let (after, before) = (self.servers.iter().skip(start), self.servers.iter().take(start));
        let Some(server) = after.chain(before).find_map(|server| *server.borrow()) else {
            return Reply::Retry("no server".to_owned());
        };
        self.ledger.count(|tally| tally.deliveries += 1);
        match timeout(wait, sender.deliver(server, signal, bytes)).await {
            Ok(reply) => reply,
            Err(_) if wait < PATIENCE => {
                self.ledger.count(|tally| tally.impatient += 1);
                Reply::Retry("not waited for".to_owned())
            }
            Err(_) => Reply::Retry(format!("no answer in {PATIENCE:?}")),
        }
    }
}
