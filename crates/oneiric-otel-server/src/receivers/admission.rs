//! The budget of bytes that requests in flight may hold, and the right to hold some of it.
//!
//! A request takes its share before its bytes are read, so that what does not fit waits in the sender's socket and not
//! in this process. Waiting is bounded in time and in number; whoever waits in vain is told to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::status::Failure;

/// Permits of a semaphore are counted in 32 bits, so one stands for this many bytes.
const UNIT: usize = 1024;

/// Requests that wait for their share at one time. Beyond it the answer is immediate.
const MAX_WAITING: usize = 8192;

/// When a request that was not admitted should come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The budget.
#[derive(Debug)]
pub(crate) struct Admission {
    units: Arc<Semaphore>,
    waiting: AtomicUsize,
    wait: Duration,
}

/// A share of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<Admission>,
    permit: Option<OwnedSemaphorePermit>,
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
        Arc::new(Self { units: Arc::new(Semaphore::new(units)), waiting: AtomicUsize::new(0), wait })
    }

    /// A share of nothing yet.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { admission: Arc::clone(self), permit: None }
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
            Ok(Ok(permit)) => self.add(permit),
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
        match Arc::clone(&self.admission.units).try_acquire_many_owned(missing) {
            Ok(permit) => {
                self.add(permit);
                Ok(())
            }
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => Err(busy()),
        }
    }

    /// Gives back what is more than `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let Some(permit) = &mut self.permit else { return };
        let excess = permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
        drop(permit.split(excess));
    }

    fn missing(&self, bytes: usize) -> Result<u32, Failure> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        u32::try_from(bytes.div_ceil(UNIT).saturating_sub(held)).map_err(|_| busy())
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
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
        let admission = Admission::new(10 * UNIT, Duration::ZERO);
        let mut first = admission.reserve();
        first.cover(8 * UNIT).await.expect("the budget is free");
        let mut second = admission.reserve();
        assert!(matches!(second.cover(3 * UNIT).await, Err(Failure::Unavailable { .. })));
        first.shrink(7 * UNIT);
        second.cover(3 * UNIT).await.expect("three units are free");
        drop(first);
        second.cover(10 * UNIT).await.expect("the second may have all");
        assert_eq!(admission.units.available_permits(), 0);
        drop(second);
        assert_eq!(admission.units.available_permits(), 10);
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
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
