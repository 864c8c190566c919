//! What was sent and what was acknowledged, per client and request. A few bytes a request.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Serialize;

use crate::content::Signal;

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// What it carries.
    pub signal: Signal,
    /// How many items.
    pub items: u16,
    /// Whether a server has acknowledged it, in full.
    pub acknowledged: bool,
}

/// The requests of a run. Clients write, the verification reads.
#[derive(Debug, Default)]
pub struct Ledger {
    clients: Mutex<BTreeMap<u16, Vec<Sent>>>,
    tally: Mutex<Tally>,
}

/// What is counted beside it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    /// Requests that were sent at least once.
    pub requests: u64,
    /// Their items.
    pub items: u64,
    /// Requests that were acknowledged.
    pub requests_acknowledged: u64,
    /// Their items.
    pub items_acknowledged: u64,
    /// Deliveries of all requests, resends included.
    pub deliveries: u64,
    /// Deliveries that the client did not wait for.
    pub impatient: u64,
    /// Requests that were sent once more after their acknowledgement.
    pub sent_after_acknowledgement: u64,
    /// Requests that a client gave up without an acknowledgement.
    pub given_up: u64,
    /// Deliveries that were not acknowledged, by what came instead.
    pub refused: BTreeMap<String, u64>,
    /// Replies that say that the client is at fault, or that items were rejected. All items are right, so one of these
    /// is an error of the server.
    pub wrongly_refused: Vec<String>,
}

impl Ledger {
    /// Notes a request before its first delivery. Requests of a client come in order.
    pub fn begin(&self, client: u16, signal: Signal, items: u16) {
        let mut clients = lock(&self.clients);
        clients.entry(client).or_default().push(Sent { signal, items, acknowledged: false });
        drop(clients);
        self.count(|tally| {
            tally.requests += 1;
            tally.items += u64::from(items);
        });
    }

    /// Notes an acknowledgement.
    pub fn acknowledge(&self, client: u16, request: u32) {
        let mut clients = lock(&self.clients);
        let Some(sent) = clients.get_mut(&client).and_then(|requests| requests.get_mut(request as usize)) else {
            return;
        };
        let again = std::mem::replace(&mut sent.acknowledged, true);
        let items = u64::from(sent.items);
        drop(clients);
        if !again {
            self.count(|tally| {
                tally.requests_acknowledged += 1;
                tally.items_acknowledged += items;
            });
        }
    }

    /// Changes the counters.
    pub fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut lock(&self.tally));
    }

    /// The counters now.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// All requests, by client.
    pub fn requests(&self) -> BTreeMap<u16, Vec<Sent>> {
        lock(&self.clients).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
