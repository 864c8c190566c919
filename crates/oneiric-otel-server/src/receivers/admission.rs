//! The budget of bytes that requests in flight may hold, and the right to hold some of it.
//!
//! A request takes its share as its bytes arrive, piece by piece: who sends nothing holds nothing, and what does not
//! fit waits in the sender's socket but for one piece. Waiting is bounded in time and in number; whoever waits in vain
//! is told to come again. A part of the budget is for small requests only, so that large ones do not keep them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::status::Failure;

/// Permits of a semaphore are counted in 32 bits, so one stands for this many bytes.
const UNIT: usize = 1024;

/// Requests that wait for their share at one time. Beyond it the answer is immediate.
const MAX_WAITING: usize = 8192;

/// A request that takes no more is small.
const SMALL_BYTES: usize = 64 << 10;

/// This part of the budget is for small requests only.
const SMALL_PART: usize = 8;

/// When a request that was not admitted should come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The budget.
#[derive(Debug)]
pub(crate) struct Admission {
    units: Arc<Semaphore>,
    /// What only small requests get, once the rest is taken.
    small_units: Arc<Semaphore>,
    waiting: AtomicUsize,
    wait: Duration,
}

/// A share of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    permit: Option<OwnedSemaphorePermit>,
    small_permit: Option<OwnedSemaphorePermit>,
}

/// Counts a waiter for as long as it lives: a waiter may be cancelled at any time.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// A budget of `bytes`, for which a request waits at most `wait`.
    pub(crate) fn new(bytes: usize, wait: Duration) -> Arc<Self> {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        let small_units = units / SMALL_PART;
        Arc::new(Self {
            units: Arc::new(Semaphore::new(units - small_units)),
            small_units: Arc::new(Semaphore::new(small_units)),
            waiting: AtomicUsize::new(0),
            wait,
        })
    }

    /// A share of nothing yet.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { admission: Arc::clone(self), permit: None, small_permit: None }
    }
}

impl Reservation {
    /// Grows to at least `bytes`, waiting for others to give theirs back.
    pub(crate) async fn cover(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.try_cover(bytes).is_ok() {
            return Ok(());
        }
        let missing = self.missing(bytes)?;
        let admission = Arc::clone(&self.admission);
        let waiter = Waiter(&admission.waiting);
        if admission.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return Err(busy());
        }
        let acquire = Arc::clone(&admission.units).acquire_many_owned(missing);
        let granted = tokio::time::timeout(admission.wait, acquire).await;
        drop(waiter);
        match granted {
            Ok(Ok(permit)) => add(&mut self.permit, permit),
            Ok(Err(_)) | Err(_) => return Err(busy()),
        }
        Ok(())
    }

    /// Grows to at least `bytes` if the budget has it now.
    pub(crate) fn try_cover(&mut self, bytes: usize) -> Result<(), Failure> {
        let missing = self.missing(bytes)?;
        if missing == 0 {
            return Ok(());
        }
        if let Ok(permit) = Arc::clone(&self.admission.units).try_acquire_many_owned(missing) {
            add(&mut self.permit, permit);
            return Ok(());
        }
        if bytes > SMALL_BYTES {
            return Err(busy());
        }
        let permit = Arc::clone(&self.admission.small_units).try_acquire_many_owned(missing).map_err(|_| busy())?;
        add(&mut self.small_permit, permit);
        Ok(())
    }

    /// Gives back what is more than `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let mut excess = self.held().saturating_sub(bytes.div_ceil(UNIT));
        for permit in [&mut self.small_permit, &mut self.permit].into_iter().flatten() {
            let given = excess.min(permit.num_permits());
            drop(permit.split(given));
            excess -= given;
        }
    }

    /// What it holds, in whole units.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.held() * UNIT
    }

    fn missing(&self, bytes: usize) -> Result<u32, Failure> {
        u32::try_from(bytes.div_ceil(UNIT).saturating_sub(self.held())).map_err(|_| busy())
    }

    /// In units.
    fn held(&self) -> usize {
        [&self.permit, &self.small_permit].into_iter().flatten().map(OwnedSemaphorePermit::num_permits).sum()
    }
}

fn add(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(permit) => permit.merge(more),
        None => *held = Some(more),
    }
}

fn busy() -> Failure {
    Failure::Unavailable {
        reason: "too many bytes of requests in flight; send again later".to_owned(),
        retry_after: RETRY_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_is_given_back_when_dropped_and_when_shrunk() {
        let admission = Admission::new(1600 * UNIT, Duration::ZERO);
        let mut first = admission.reserve();
        first.cover(1300 * UNIT).await.expect("the budget is free");
        let mut second = admission.reserve();
        assert!(matches!(second.cover(200 * UNIT).await, Err(Failure::Unavailable { .. })));
        first.shrink(1200 * UNIT);
        second.cover(200 * UNIT).await.expect("that many are free");
        drop(first);
        second.cover(1400 * UNIT).await.expect("the second may have all");
        assert_eq!(admission.units.available_permits(), 0);
        drop(second);
        assert_eq!(admission.units.available_permits(), 1400);
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn small_requests_are_let_in_when_large_ones_have_taken_the_rest() {
        let admission = Admission::new(800 * UNIT, Duration::ZERO);
        let mut large = admission.reserve();
        large.cover(700 * UNIT).await.expect("what large ones may have");
        assert!(large.cover(701 * UNIT).await.is_err());
        let mut small = admission.reserve();
        small.cover(UNIT).await.expect("a small one");
        small.cover(SMALL_BYTES).await.expect("still a small one");
        assert!(small.cover(SMALL_BYTES + 1).await.is_err(), "not small any more");
        assert_eq!(admission.small_units.available_permits(), 100 - SMALL_BYTES / UNIT);
        large.shrink(600 * UNIT);
        small.cover(100 * UNIT).await.expect("there is room for a large one");
        small.shrink(UNIT);
        assert_eq!((admission.units.available_permits(), admission.small_units.available_permits()), (99, 100));
        drop((small, large));
        assert_eq!((admission.units.available_permits(), admission.small_units.available_permits()), (700, 100));
    }

    #[tokio::test]
    async fn waiting_ends_when_another_gives_back() {
        let admission = Admission::new(4 * UNIT, Duration::from_mins(10));
        let mut first = admission.reserve();
        first.cover(4 * UNIT).await.expect("the budget is free");
        let mut second = admission.reserve();
        let waiting = tokio::spawn(async move { second.cover(UNIT).await.map(|()| second) });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.expect("the task does not panic").expect("the share was given back");
        assert_eq!(second.missing(UNIT).expect("fits"), 0);
    }

    #[tokio::test]
    async fn a_cancelled_waiter_is_not_counted() {
        let admission = Admission::new(UNIT, Duration::from_mins(10));
        let mut first = admission.reserve();
        first.cover(UNIT).await.expect("the budget is free");
        let mut second = admission.reserve();
        tokio::select! {
            biased;
            _ = second.cover(UNIT) => panic!("nothing was given back"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
    }
}
