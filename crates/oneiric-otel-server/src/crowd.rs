//! Who is connected: never more than a limit, and who must go when it is reached. Knows nothing of sockets.
//!
//! Whoever has been idle longest makes way for a newcomer, so that connections that say nothing cannot lock out those
//! that have something to say. A connection with a request in flight is never asked to go.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection idle for less may be about to speak.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// How often it is looked for somebody to send away while a newcomer waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How often the log is told that the limit is reached.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// The connections of the listeners that share a limit.
#[derive(Debug)]
pub(crate) struct Crowd {
    limit: usize,
    permits: Arc<Semaphore>,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    next: u64,
    members: HashMap<u64, Arc<Member>>,
    warned: Option<Instant>,
}

/// A connection as others see it.
#[derive(Debug)]
pub(crate) struct Member {
    doing: Mutex<Doing>,
    leave: CancellationToken,
}

#[derive(Debug)]
struct Doing {
    requests: usize,
    has_spoken: bool,
    idle_since: Instant,
}

/// The right to be connected. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct Seat {
    crowd: Arc<Crowd>,
    number: u64,
    member: Arc<Member>,
    _permit: OwnedSemaphorePermit,
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Member>);

impl Crowd {
    /// At most `limit` connections.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Arc::new(Self { limit, permits: Arc::new(Semaphore::new(limit)), present: Mutex::default() })
    }

    /// A seat, at once or when another has gone.
    pub(crate) async fn enter(self: &Arc<Self>) -> Seat {
        let mut permit = pin!(Arc::clone(&self.permits).acquire_owned());
        // Ready at once when a seat is free.
        let mut patience = Duration::ZERO;
        let permit = loop {
            match tokio::time::timeout(patience, permit.as_mut()).await {
                Ok(permit) => break permit.expect("nobody closes the semaphore"),
                Err(_) => self.make_room(),
            }
            patience = LOOK_INTERVAL;
        };
        let member = Arc::new(Member {
            doing: Mutex::new(Doing { requests: 0, has_spoken: false, idle_since: Instant::now() }),
            leave: CancellationToken::new(),
        });
        let mut present = lock(&self.present);
        let number = present.next;
        present.next += 1;
        present.members.insert(number, Arc::clone(&member));
        drop(present);
        Seat { crowd: Arc::clone(self), number, member, _permit: permit }
    }

    fn make_room(&self) {
        let now = Instant::now();
        let mut present = lock(&self.present);
        if present.may_warn(now) {
            tracing::warn!(
                limit = self.limit,
                "the limit of open connections is reached; for each new one, the one idle longest is closed"
            );
        }
        if let Some(member) = present.idlest(now) {
            member.leave.cancel();
        }
    }
}

impl Present {
    fn may_warn(&mut self, now: Instant) -> bool {
        if self.warned.is_some_and(|last| now.saturating_duration_since(last) < WARN_INTERVAL) {
            return false;
        }
        self.warned = Some(now);
        true
    }

    /// Of those that may go and have not been asked yet.
    fn idlest(&self, now: Instant) -> Option<&Member> {
        let mut found: Option<(&Member, Instant)> = None;
        for member in self.members.values() {
            let doing = lock(&member.doing);
            let since = doing.idle_since;
            let may_go = doing.requests == 0 && now.saturating_duration_since(since) >= MIN_IDLE;
            if may_go && !member.leave.is_cancelled() && found.is_none_or(|(_, earliest)| since < earliest) {
                found = Some((member, since));
            }
        }
        found.map(|(member, _)| member)
    }
}

impl Seat {
    /// Who sits here.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.crowd.present).members.remove(&self.number);
    }
}

impl Member {
    /// A request begins; it ends when the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        let mut doing = lock(&self.doing);
        doing.requests += 1;
        doing.has_spoken = true;
        drop(doing);
        Busy(Arc::clone(self))
    }

    /// Whether there ever was a request.
    pub(crate) fn has_spoken(&self) -> bool {
        lock(&self.doing).has_spoken
    }

    /// Whether no request is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.doing).requests == 0
    }

    /// Ends when this connection should make room.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut doing = lock(&self.0.doing);
        doing.requests -= 1;
        doing.idle_since = Instant::now();
    }
}

/// What is locked here is whole at every moment, so it is so too after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_idle_longest_goes_and_never_one_with_a_request() {
        let crowd = Crowd::new(3);
        let (first, second, third) = (crowd.enter().await, crowd.enter().await, crowd.enter().await);
        let request = first.member().begin();
        drop(second.member().begin());
        let now = Instant::now();
        let later = now + 2 * MIN_IDLE;
        let idlest = |at| lock(&crowd.present).idlest(at).map(std::ptr::from_ref);
        assert_eq!(idlest(now), None, "all have just come");
        // The second has been idle since its request only.
        assert_eq!(idlest(later), Some(Arc::as_ptr(third.member())));
        third.member().leave.cancel();
        assert_eq!(idlest(later), Some(Arc::as_ptr(second.member())));
        drop(second);
        assert_eq!(idlest(later), None);
        drop(request);
        assert!(first.member().has_spoken() && first.member().is_idle() && !third.member().has_spoken());
        assert_eq!(idlest(Instant::now() + MIN_IDLE), Some(Arc::as_ptr(first.member())));
        drop((first, third));
        assert_eq!(crowd.permits.available_permits(), 3);
    }

    #[tokio::test]
    async fn the_log_is_told_once_in_a_while() {
        let crowd = Crowd::new(1);
        let now = Instant::now();
        let mut present = lock(&crowd.present);
        assert!(present.may_warn(now));
        assert!(!present.may_warn(now + WARN_INTERVAL / 2));
        assert!(present.may_warn(now + WARN_INTERVAL));
    }
}
