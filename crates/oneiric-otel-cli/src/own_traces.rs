//! `serve --trace-self`: the spans of the server's own work, stored by the server itself.
//!
//! ```text
//! tracing spans ──▶ sampler ──▶ SDK batch processor ──▶ exporter ──▶ Ingest::submit_own
//! (self_trace)      by name     a bounded queue, a thread            in process: no socket, no token
//! ```
//!
//! What keeps this from answering itself for ever is stated in [`oneiric_otel::self_trace`]. The sampler bounds what
//! there is with traffic: so many traces a second for each name, and there are about ten names. Nothing here may hold up
//! or fail the server: what does not fit in the queue, or is refused by the write path, is dropped, counted, and said once.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use oneiric_otel::otlp::{Encoding, Signal};
use oneiric_otel::pipeline::{Ingest, Request};
use oneiric_otel::self_trace::{FOR_OTHERS, SERVICE_NAME, TARGET};
use opentelemetry::trace::{Link, SpanId, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample, SpanData, SpanExporter,
};
use prost::Message as _;
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// Traces of one name that are begun in a second at most.
const TRACES_PER_SECOND: u32 = 10;

/// The write path answers within this time, or the spans are dropped.
const SUBMIT_WITHIN: Duration = Duration::from_secs(5);

/// The end of the server waits so long for the last spans.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The tracing of the server by itself. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct OwnTraces {
    provider: SdkTracerProvider,
    store: Arc<OnceLock<Destination>>,
    dropped: Arc<Dropped>,
}

/// Where spans go once there is a write path.
#[derive(Debug)]
struct Destination {
    ingest: Ingest,
    runtime: Handle,
}

impl OwnTraces {
    pub(crate) fn new() -> Self {
        let (store, dropped) = <(Arc<OnceLock<Destination>>, Arc<Dropped>)>::default();
        let exporter =
            Exporter { resource: (&resource()).into(), store: Arc::clone(&store), dropped: Arc::clone(&dropped) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_sampler(Bounded::default())
            .with_batch_exporter(exporter)
            .build();
        Self { provider, store, dropped }
    }

    /// What turns `tracing` spans of our own work into those of OpenTelemetry. It sees no other.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::from_level(Level::INFO)))
    }

    /// From now on spans are stored here. What was made before waits in the processor's queue or is dropped.
    pub(crate) fn store_in(&self, ingest: Ingest) {
        // Set twice, the first stays: there is one server in a process.
        drop(self.store.set(Destination { ingest, runtime: Handle::current() }));
    }

    /// Spans that the write path refused.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.spans.load(Ordering::Relaxed)
    }

    /// Hands over what was made until now and makes no more. To be called while the write path still takes requests.
    pub(crate) async fn finish(&self) {
        let provider = self.provider.clone();
        let finished = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FINISH_WITHIN)).await;
        match finished {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans of the server itself are lost"),
            Err(error) => tracing::warn!(%error, "the last spans of the server itself are lost"),
        }
    }
}

fn resource() -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", SERVICE_NAME),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

/// Spans that were not stored.
#[derive(Debug, Default)]
struct Dropped {
    spans: AtomicU64,
}

impl Dropped {
    fn add(&self, spans: usize, reason: &str) {
        if self.spans.fetch_add(spans as u64, Ordering::Relaxed) == 0 {
            tracing::warn!(spans, %reason, "spans of the server itself are dropped; further ones are only counted");
        }
    }
}

/// Hands spans to the write path of this process.
struct Exporter {
    resource: ResourceAttributesWithSchema,
    store: Arc<OnceLock<Destination>>,
    dropped: Arc<Dropped>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("store", &self.store).finish_non_exhaustive()
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.retain(is_for_others);
        let spans = batch.len();
        if spans == 0 {
            return Ok(());
        }
        let submitted = match self.store.get() {
            Some(destination) => submit(destination, batch, &self.resource).await,
            None => Err("the write path is not there yet".to_owned()),
        };
        // To the processor all went well: it would write a line for each failure.
        submitted.or_else(|reason| {
            self.dropped.add(spans, &reason);
            Ok(())
        })
    }
}

async fn submit(
    destination: &Destination,
    batch: Vec<SpanData>,
    resource: &ResourceAttributesWithSchema,
) -> Result<(), String> {
    let resource_spans = group_spans_by_resource_and_scope(batch, resource);
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec().into();
    let request = Request { signal: Signal::Traces, encoding: Encoding::Protobuf, body };
    let ingest = destination.ingest.clone();
    // The processor's thread is not of the runtime that the write path needs.
    let submission =
        destination.runtime.spawn(async move { tokio::time::timeout(SUBMIT_WITHIN, ingest.submit_own(request)).await });
    match submission.await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(refused))) => Err(refused.to_string()),
        Ok(Err(_)) => Err(format!("the write path did not answer within {} s", SUBMIT_WITHIN.as_secs())),
        Err(error) => Err(error.to_string()),
    }
}

/// A background pass says at its end whether it served others. Everything else is caused by others.
fn is_for_others(span: &SpanData) -> bool {
    let is_pass = span.span_kind == SpanKind::Internal && span.parent_span_id == SpanId::INVALID;
    !is_pass || span.attributes.iter().any(|attribute| attribute.key.as_str() == FOR_OTHERS)
}

/// Follows the parent; of spans without one, takes so many a second of each name.
#[derive(Debug, Clone, Default)]
struct Bounded {
    /// By name: the second's beginning and how many there were in it. Names are few: they stand in the program.
    taken: Arc<Mutex<HashMap<String, (Instant, u32)>>>,
}

impl Bounded {
    fn takes(&self, name: &str, now: Instant) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, count)) = taken.get_mut(name) else {
            taken.insert(name.to_owned(), (now, 1));
            return true;
        };
        if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= TRACES_PER_SECOND
    }
}

impl ShouldSample for Bounded {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        name: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let parent =
            parent.filter(|context| context.has_active_span()).map(|context| context.span().span_context().clone());
        let is_taken = match &parent {
            Some(parent) => parent.is_sampled(),
            None => self.takes(name, Instant::now()),
        };
        SamplingResult {
            decision: if is_taken { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: parent.map_or_else(TraceState::default, |parent| parent.trace_state().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;

    #[tokio::test]
    async fn spans_that_cannot_be_stored_are_counted_and_idle_passes_are_none() {
        let own_traces = OwnTraces::new();
        let tracer = own_traces.provider.tracer("test");
        tracer.span_builder("POST /v1/traces").with_kind(SpanKind::Server).start(&tracer).end();
        tracer.start("derive traces").end();
        let mut derived = tracer.start("derive traces");
        derived.set_attribute(KeyValue::new(FOR_OTHERS, true));
        derived.end();
        own_traces.finish().await;
        assert_eq!(own_traces.dropped(), 2, "one pass served nobody else");
    }

    #[test]
    fn each_name_has_its_share_of_a_second() {
        let sampler = Bounded::default();
        let start = Instant::now();
        let taken = |name, now| (0..100).filter(|_| sampler.takes(name, now)).count();
        assert_eq!(taken("POST /v1/traces", start), 10);
        assert_eq!(taken("COPY otel_spans", start), 10, "another name");
        assert_eq!(taken("POST /v1/traces", start + Duration::from_millis(999)), 0);
        assert_eq!(taken("POST /v1/traces", start + Duration::from_secs(1)), 10);
    }
}
