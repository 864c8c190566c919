//! One dead letter, in the database or in a spool's quarantine, and how it is shown.

use std::path::PathBuf;

use bytes::Bytes;
use jiff::Timestamp;
use oneiric_otel::otlp::record::Record;
use oneiric_otel::otlp::{self, Encoding, Signal, json};
use oneiric_otel::store::DeadLetterEntry;
use oneiric_otel_spool::quarantine::Quarantined;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use crate::{moment, screen};

/// What the ids of quarantined requests begin with.
pub(super) const SPOOL: &str = "spool:";
/// Their class.
pub(super) const QUARANTINE: &str = "quarantine";

/// Bytes of something unreadable that are shown.
const SHOWN_BYTES: usize = 256;

/// Characters of an id that a list shows: enough to tell thousands apart.
const SHORT_ID: usize = 8;

/// Something in the quarantine of a spool.
pub(super) struct SetAside {
    pub(super) spool: PathBuf,
    pub(super) about: Quarantined,
}

/// One of them.
pub(super) enum Letter {
    Dead(DeadLetterEntry),
    Quarantined(SetAside),
}

impl Letter {
    pub(super) fn id(&self) -> String {
        match self {
            Self::Dead(entry) => entry.id.to_string(),
            Self::Quarantined(found) => format!("{SPOOL}{}", found.about.name),
        }
    }

    pub(super) fn time(&self) -> Timestamp {
        match self {
            Self::Dead(entry) => entry.created_at,
            Self::Quarantined(found) => set_aside_at(&found.about),
        }
    }

    pub(super) fn is_processed(&self) -> bool {
        matches!(self, Self::Dead(entry) if entry.processed_at.is_some())
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Dead(entry) => json!(entry),
            Self::Quarantined(SetAside { about, .. }) => {
                json!({ "id": self.id(), "telemetry_type": telemetry_type(about), "error_class": QUARANTINE,
                        "error_message": about.reason, "created_at": self.time().to_string(), "bytes": about.length,
                        "quarantined": about })
            }
        }
    }
}

pub(super) fn row(letter: &Letter) -> Vec<String> {
    const MESSAGE_CHARACTERS: usize = 120;
    let time = |time: Timestamp| moment::show_short(u64::try_from(time.as_nanosecond()).unwrap_or_default());
    let message = |text: &str| screen::clean_short(text, MESSAGE_CHARACTERS);
    match letter {
        Letter::Dead(entry) => vec![
            entry.id.to_string().chars().take(SHORT_ID).collect(),
            time(entry.created_at),
            entry.telemetry_type.clone(),
            screen::clean(&entry.error_class),
            entry.records.to_string(),
            entry.retry_count.to_string(),
            if entry.processed_at.is_some() { "processed".to_owned() } else { time(entry.next_retry_at) },
            message(entry.last_error.as_ref().unwrap_or(&entry.error_message)),
        ],
        Letter::Quarantined(SetAside { about, .. }) => vec![
            screen::clean(&letter.id()),
            time(letter.time()),
            screen::clean(telemetry_type(about)),
            QUARANTINE.to_owned(),
            String::new(),
            String::new(),
            String::new(),
            message(&about.reason),
        ],
    }
}

/// The word for what a lane carries.
fn telemetry_type(about: &Quarantined) -> &str {
    about.lane.strip_suffix('s').unwrap_or(&about.lane)
}

pub(super) fn set_aside_at(about: &Quarantined) -> Timestamp {
    i64::try_from(about.set_aside_at).ok().and_then(|at| Timestamp::from_microsecond(at).ok()).unwrap_or_default()
}

/// A request in protobuf as OTLP JSON.
pub(super) fn as_json(signal: Signal, body: &Bytes) -> Result<Value, String> {
    fn convert<R: Record>(body: &Bytes) -> Result<Value, String> {
        let decoded = otlp::decode::<R>(Encoding::Protobuf, body).map_err(|error| error.to_string())?;
        if let Some(lost) = decoded.undecodable.first() {
            return Err(format!("{}: {}", lost.path, lost.reason));
        }
        serde_json::from_slice(&json::encode(&decoded.groups)).map_err(|error| error.to_string())
    }
    match signal {
        Signal::Traces => convert::<Span>(body),
        Signal::Logs => convert::<LogRecord>(body),
        Signal::Metrics => convert::<Metric>(body),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(SHOWN_BYTES * 2);
    for byte in bytes.iter().take(SHOWN_BYTES) {
        write!(text, "{byte:02x}").unwrap_or_default(); // Writing to a string cannot fail.
    }
    text
}
