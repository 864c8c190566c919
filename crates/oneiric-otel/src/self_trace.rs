//! Spans of our own work: how they are recognised, and what keeps them from multiplying.
//!
//! Own spans are `tracing` spans with the target [`TARGET`]. Nothing here exports them; whoever does hands them to
//! [`crate::pipeline::Ingest::submit_own`]. Where nobody listens to the target a span costs one comparison. Numbers are recorded as `i64`: OpenTelemetry has no other integers,
//! and what is made of them would be text.
//!
//! # No echo
//! Storing own spans is work as well. It must not make spans, or these would have to be stored in turn. So every own span
//! is caused by telemetry of others:
//!
//! - The write path knows own requests by a mark, which the spool keeps. They get no span, and neither has a transaction
//!   that writes nothing else.
//! - Derivation knows own traces by their only service, [`SERVICE_NAME`]. A pass that derived nothing else does not count.
//!   Since names are in the database, two servers on one database do not answer each other either.
//! - Embedding counts only if texts were new in a pass of derivation that counts, maintenance only if others sent
//!   something since the last time.
//!
//! Whether a pass counts is known at its end, by the attribute [`FOR_OTHERS`]: an exporter drops spans that have no parent
//! and are of kind internal when it is missing. Own spans never continue a trace of a sender, so an own trace has no
//! foreign spans and a foreign one no own.
//!
//! An application that stores its own telemetry in its own process cannot be told from a sender, so there no telemetry is
//! made of storing at all: what is started by [`crate::storage::OtelStorage`] runs with OpenTelemetry's suppression, which
//! tasks hand on with `inherit`.

use std::future::Future;
use std::sync::Arc;

/// The target of the spans.
pub const TARGET: &str = "oneiric_otel::self_trace";

/// The `service.name` that own spans are exported with.
pub const SERVICE_NAME: &str = "oneiric-otel";

/// The attribute, with the value true, of a background pass that served others.
pub const FOR_OTHERS: &str = "oneiric_otel.for_others";

/// Whether a trace in which these services took part is of our own spans.
pub(crate) fn is_own<'a>(services: impl IntoIterator<Item = &'a Arc<str>>) -> bool {
    let mut services = services.into_iter();
    services.next().is_some_and(|service| &**service == SERVICE_NAME) && services.next().is_none()
}

/// A task that inherits whether telemetry is suppressed where it is made, and nothing else of the caller's context.
#[cfg(feature = "sdk")]
pub(crate) fn inherit<F: Future>(task: F) -> impl Future<Output = F::Output> + use<F> {
    use opentelemetry::Context;
    use opentelemetry::context::FutureExt as _;
    let context = Context::new();
    let is_suppressed = Context::is_current_telemetry_suppressed();
    task.with_context(if is_suppressed { context.with_telemetry_suppressed() } else { context })
}

/// Without the SDK there is nothing to inherit.
#[cfg(not(feature = "sdk"))]
pub(crate) fn inherit<F: Future>(task: F) -> impl Future<Output = F::Output> + use<F> {
    task
}

/// Calls `start` so that what it spawns makes no telemetry.
pub(crate) fn without_telemetry<T>(start: impl FnOnce() -> T) -> T {
    #[cfg(feature = "sdk")]
    let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
    start()
}
