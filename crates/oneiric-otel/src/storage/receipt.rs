//! The promise for records that were accepted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::JoinAll;
use serde::Serialize;
use tokio::sync::oneshot;

use super::error::NotStored;

/// What became of the records of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acknowledged {
    /// Records stored: spans, log records and data points. What was stored before counts too.
    pub records: u64,
    /// Records that can never be stored as they are.
    pub rejected: u64,
    /// Why, or another thing to know. Empty when there is nothing to say.
    pub message: String,
    /// What is promised of those that are stored.
    pub durability: Durability,
}

/// Where records are when they are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Durable in the spool on this machine's disk; written to the database later, also by the next process.
    Spooled,
    /// Committed in the database.
    Stored,
    /// In memory only: the oldest may be dropped, and a crash loses them.
    Memory,
}

pub(super) type Outcome = Result<Acknowledged, NotStored>;

/// Accepted. Awaiting it is the promise: it ends when the records are durable, or says why they are not. Who does not
/// care drops it; the records are stored all the same.
#[derive(Debug)]
#[must_use = "accepted is not stored yet: await the receipt, flush(), or drop it explicitly"]
pub struct Receipt {
    parts: JoinAll<Part>,
}

impl Receipt {
    pub(super) fn new(parts: impl IntoIterator<Item = oneshot::Receiver<Outcome>>) -> Self {
        Self { parts: futures::future::join_all(parts.into_iter().map(Part)) }
    }
}

impl Future for Receipt {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.parts).poll(cx).map(together)
    }
}

/// Records of one signal.
#[derive(Debug)]
struct Part(oneshot::Receiver<Outcome>);

impl Future for Part {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(NotStored::Interrupted)))
    }
}

/// A call is stored when all its parts are.
fn together(parts: Vec<Outcome>) -> Outcome {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().unwrap_or(Err(NotStored::Interrupted))?;
    for part in parts {
        let part = part?;
        whole.records += part.records;
        whole.rejected += part.rejected;
        if !part.message.is_empty() {
            let separator = if whole.message.is_empty() { "" } else { "; " };
            whole.message = format!("{}{separator}{}", whole.message, part.message);
        }
    }
    Ok(whole)
}
