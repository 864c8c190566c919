//! From a request's bytes to a promise: the one entry for every receiver.

use std::time::Duration;

use bytes::Bytes;

use crate::otlp::{Encoding, Signal};

/// An OTLP export request as a receiver hands it over: decompressed, within the size limit, not yet decoded.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it carries.
    pub signal: Signal,
    /// How it is written.
    pub encoding: Encoding,
    /// The `Export*ServiceRequest` message.
    pub body: Bytes,
}

/// The promise given for a request: what it accepts is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Records stored, now or by an earlier delivery of the same request.
    pub records: u64,
    /// Records that can never be stored and were rejected. The sender must not send them again.
    pub rejected: u64,
    /// Why records were rejected, or a warning. Empty when there is nothing to say.
    pub message: String,
}

/// Why a request was refused whole. Nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It can never be accepted as it is.
    #[error("{reason}")]
    Malformed {
        /// What is wrong and what is accepted.
        reason: String,
    },
    /// It could not be stored now. Sending it again later is safe and useful.
    #[error("{reason}")]
    Unavailable {
        /// What is in the way.
        reason: String,
        /// When to try again.
        retry_after: Duration,
    },
}

/// The write path. Cheap to clone; every receiver holds one.
#[derive(Debug, Clone)]
pub struct Ingest {}

impl Ingest {
    /// Stores the records of `request` and returns once they are durable.
    ///
    /// # Errors
    /// [`Refused`] when nothing of the request is stored.
    pub async fn submit(&self, request: Request) -> Result<Accepted, Refused> {
        let _ = request;
        Ok(Accepted::default())
    }
}
