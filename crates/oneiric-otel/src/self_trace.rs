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
