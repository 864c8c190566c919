//! Takes what was accepted out of the queue, writes it as OTLP, and hands it to the write path until that promises
//! something or it is time to give up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::encode::{self, CUT_VALUE, Origins, Usual};
use super::error::{NotStored, StoreRefused};
use super::queue::{Entry, Queue, Records, Reply};
use super::receipt::{Acknowledged, Durability};
use crate::otlp::record::Record;
use crate::otlp::{Encoding, Group, Signal, protobuf};
use crate::pipeline::{Accepted, Ingest, Refused, Request};
use crate::self_trace;

/// How long a try may take at least.
const SHORTEST_TRY: Duration = Duration::from_secs(5);

/// Rounds that wait for an answer at a time.
const ROUNDS: usize = 8;

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// To the database.
    Database(Ingest),
    /// To an OTLP endpoint, through a spool of its own. It checks no record: the endpoint does.
    #[cfg(feature = "forward")]
    Endpoint(crate::forward::Forwarder),
}

impl Target {
    /// Bytes in memory of one round of work; as OTLP it is a fraction.
    fn round_bytes(&self) -> usize {
        match self {
            Self::Database(_) => 8 << 20,
            // Collectors take 4 MiB over gRPC, if nobody tells them otherwise.
            #[cfg(feature = "forward")]
            Self::Endpoint(_) => 2 << 20,
        }
    }

    /// `records` is what is in the request.
    #[cfg_attr(not(feature = "forward"), expect(unused_variables, reason = "the database counts for itself"))]
    async fn submit(&self, request: Request, records: u64) -> Result<Accepted, Refused> {
        match self {
            Self::Database(ingest) => ingest.submit(request).await,
            #[cfg(feature = "forward")]
            Self::Endpoint(forwarder) => forwarder.submit(request).await.map(|()| accepted(records)),
        }
    }

    /// What [`Self::submit`] would say. Nothing is kept.
    #[cfg_attr(not(feature = "forward"), expect(unused_variables, reason = "the database counts for itself"))]
    async fn examine(&self, request: Request, records: u64) -> Result<Accepted, Refused> {
        match self {
            Self::Database(ingest) => ingest.examine(request).await,
            #[cfg(feature = "forward")]
            Self::Endpoint(_) => Ok(accepted(records)),
        }
    }
}

#[cfg(feature = "forward")]
fn accepted(records: u64) -> Accepted {
    Accepted { records, ..Accepted::default() }
}

/// How the worker works.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) queue: Arc<Queue>,
    pub(super) target: Target,
    /// Of records that do not say whose they are.
    pub(super) usual: Usual,
    pub(super) durability: Durability,
    /// How long an entry may wait for others to share its request.
    pub(super) gather: Duration,
    /// An entry that is older is given up when it is refused again.
    pub(super) patience: Duration,
}

impl Worker {
    /// Works until the queue is closed and empty, or until it is stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        // However this future ends, nobody may wait for it any more.
        let ending = Ending(Arc::clone(&self.queue));
        let work = async {
            // Dropped with what is in it, when there is no time left.
            let mut rounds = JoinSet::new();
            let turns = Arc::new(Semaphore::new(ROUNDS));
            while let Ok(turn) = Arc::clone(&turns).acquire_owned().await {
                let Some(entries) = self.queue.take(self.target.round_bytes(), self.gather).await else { break };
                let worker = self.clone();
                rounds.spawn(self_trace::inherit(async move {
                    worker.round(entries).await;
                    drop(turn);
                }));
                while rounds.try_join_next().is_some() {}
            }
            while rounds.join_next().await.is_some() {}
        };
        stop.run_until_cancelled(work).await;
        drop(ending);
    }

    async fn round(&self, entries: Vec<Entry>) {
        let usual = self.usual.clone();
        let sorted = tokio::task::spawn_blocking(move || Sorted::of(entries, usual)).await;
        // Cut off at the end: the entries are answered by having been dropped.
        let Ok(Sorted { spans, metrics, logs }) = sorted else { return };
        tokio::join!(self.send(spans), self.send(metrics), self.send(logs));
    }

    async fn send<R: Record>(&self, parcel: Parcel<R>) {
        if parcel.replies.is_empty() {
            return;
        }
        match self.submit(&parcel).await {
            Ok(accepted) if accepted.rejected == 0 || parcel.replies.len() == 1 => {
                parcel.stored(&accepted, self.durability);
            }
            Ok(accepted) => self.tell_each(parcel, &accepted).await,
            // Nothing of it is stored, and only one of them may be to blame.
            Err(NotStored::Rejected { .. }) if parcel.replies.len() > 1 => {
                for single in parcel.split() {
                    Box::pin(self.send(single)).await;
                }
            }
            Err(reason) => parcel.replies.into_iter().for_each(|(reply, _)| reply.resolve(Err(reason.clone()))),
        }
    }

    /// Some records of a request were rejected: finds out whose.
    async fn tell_each<R: Record>(&self, parcel: Parcel<R>, accepted: &Accepted) {
        for single in parcel.split() {
            let body = single.body();
            let request = Request { signal: R::SIGNAL, encoding: Encoding::Protobuf, body };
            match self.target.examine(request, single.count()).await {
                Ok(own) => single.stored(&own, self.durability),
                Err(Refused::Malformed { reason }) => single.reject(&reason),
                Err(Refused::Unavailable { .. }) => single.stored(accepted, self.durability),
            }
        }
    }

    /// Submits a request until it is accepted or rejected.
    async fn submit<R: Record>(&self, parcel: &Parcel<R>) -> Result<Accepted, NotStored> {
        let (body, records, oldest) = (parcel.body(), parcel.count(), parcel.oldest);
        loop {
            let request = Request { signal: R::SIGNAL, encoding: Encoding::Protobuf, body: body.clone() };
            // What has waited too long already gets a try all the same.
            let patience = self.patience.saturating_sub(oldest.elapsed()).max(SHORTEST_TRY.min(self.patience));
            let refused = match tokio::time::timeout(patience, self.target.submit(request, records)).await {
                Ok(Ok(accepted)) => return Ok(accepted),
                Ok(Err(refused)) => refused,
                Err(_) => return Err(NotStored::TimedOut { after: oldest.elapsed() }),
            };
            let (reason, retry_after) = match refused {
                Refused::Malformed { reason } => return Err(NotStored::Rejected { reason }),
                Refused::Unavailable { reason, retry_after } => (reason, retry_after),
            };
            let waited = oldest.elapsed();
            if waited >= self.patience {
                return Err(NotStored::Unavailable { reason, after: waited });
            }
            let left = self.patience.saturating_sub(waited);
            tokio::time::sleep(retry_after.min(left)).await;
        }
    }
}

/// Answers what is left when nobody works any more.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.close(StoreRefused::Closed);
        self.0.clear();
    }
}

/// The entries of a round by signal.
struct Sorted {
    spans: Parcel<Span>,
    metrics: Parcel<Metric>,
    logs: Parcel<LogRecord>,
}

impl Sorted {
    fn of(entries: Vec<Entry>, usual: Usual) -> Self {
        let mut origins = Origins::new(usual);
        let (spans, metrics, logs) = (Parcel::default(), Parcel::default(), Parcel::default());
        let mut sorted = Self { spans, metrics, logs };
        for Entry { records, reply, since } in entries {
            match records {
                Records::Traces(traces) => sorted.spans.add(encode::spans(&mut origins, traces), reply, since),
                Records::Metrics(metrics) => sorted.metrics.add(encode::metrics(&mut origins, metrics), reply, since),
                Records::Logs(logs) => sorted.logs.add(encode::logs(&mut origins, logs), reply, since),
                Records::SpanGroups(groups) => sorted.spans.add(Some(groups), reply, since),
                Records::MetricGroups(groups) => sorted.metrics.add(Some(groups), reply, since),
                Records::LogGroups(groups) => sorted.logs.add(Some(groups), reply, since),
            }
        }
        sorted
    }
}

/// Entries that share a request.
struct Parcel<R> {
    groups: Vec<Group<R>>,
    /// Each with the number of its groups.
    replies: Vec<(Reply, usize)>,
    oldest: Instant,
}

impl<R> Default for Parcel<R> {
    fn default() -> Self {
        Self { groups: Vec::new(), replies: Vec::new(), oldest: Instant::now() }
    }
}

impl<R: Record> Parcel<R> {
    fn add(&mut self, groups: Option<Vec<Group<R>>>, reply: Reply, since: Instant) {
        let Some(groups) = groups else {
            return reply.resolve(Err(NotStored::Rejected { reason: CUT_VALUE.to_owned() }));
        };
        self.oldest = self.oldest.min(since);
        self.replies.push((reply, groups.len()));
        self.groups.extend(groups);
    }

    /// The request.
    fn body(&self) -> Bytes {
        let mut body = protobuf::encode(&self.groups);
        if R::SIGNAL == Signal::Logs {
            body.extend_from_slice(&unique_field());
        }
        body.into()
    }

    /// Spans, log records or data points.
    fn count(&self) -> u64 {
        self.groups.iter().flat_map(|group| &group.records).map(Record::count).sum()
    }

    /// Each entry alone.
    fn split(self) -> Vec<Self> {
        let mut groups = self.groups.into_iter();
        let single = |(reply, count): (Reply, usize)| Self {
            groups: groups.by_ref().take(count).collect(),
            replies: vec![(reply, count)],
            oldest: self.oldest,
        };
        self.replies.into_iter().map(single).collect()
    }

    /// Tells everybody that what is theirs is stored.
    fn stored(mut self, accepted: &Accepted, durability: Durability) {
        let alone = self.replies.len() == 1;
        let mut groups = self.groups.iter();
        for (reply, count) in self.replies.drain(..) {
            let sent: u64 = groups.by_ref().take(count).flat_map(|group| &group.records).map(Record::count).sum();
            let (records, rejected) = if alone { (accepted.records, accepted.rejected) } else { (sent, 0) };
            reply.resolve(Ok(Acknowledged { records, rejected, message: accepted.message.clone(), durability }));
        }
    }

    fn reject(self, reason: &str) {
        for (reply, _) in self.replies {
            reply.resolve(Err(NotStored::Rejected { reason: reason.to_owned() }));
        }
    }
}

/// A field that no version of OTLP has, with a random value. Log records are known by the hash of their request: without
/// it, those of a second call with the same content would pass for a repetition of the first.
fn unique_field() -> Vec<u8> {
    /// Field 1000 with a length before its bytes.
    const KEY: u32 = 1000 << 3 | 2;
    let mut field = Vec::with_capacity(19);
    prost::encoding::encode_varint(KEY.into(), &mut field);
    field.push(16);
    field.extend_from_slice(&rand::random::<[u8; 16]>());
    field
}
