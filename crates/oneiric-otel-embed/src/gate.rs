//! Lets short work go before long work.
//!
//! Promises that long work goes on, however much short work there is: it waits a bounded time at each step.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Short work that is under way.
pub(crate) struct Gate {
    /// How long a step of long work waits at most.
    longest_wait: Duration,
    short: Mutex<usize>,
    none_left: Condvar,
}

/// Short work, until it is dropped.
pub(crate) struct Short<'a>(&'a Gate);

impl Gate {
    /// A gate before which long work waits at most so long at each step.
    pub(crate) const fn new(longest_wait: Duration) -> Self {
        Self { longest_wait, short: Mutex::new(0), none_left: Condvar::new() }
    }

    /// Says that short work begins.
    pub(crate) fn enter(&self) -> Short<'_> {
        *self.lock() += 1;
        Short(self)
    }

    /// Called before each step of long work: waits while there is short work.
    pub(crate) fn give_way(&self) {
        let end = Instant::now() + self.longest_wait;
        let mut short = self.lock();
        while *short > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return };
            (short, _) = self.none_left.wait_timeout(short, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A count is never left half changed.
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.short.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Short<'_> {
    fn drop(&mut self) {
        let mut short = self.0.lock();
        *short -= 1;
        if *short == 0 {
            self.0.none_left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::Gate;

    #[test]
    fn long_work_waits_for_the_last_of_the_short() {
        let gate = Gate::new(Duration::from_hours(1));
        gate.give_way();
        let (one, two) = (gate.enter(), gate.enter());
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                gate.give_way();
                ended.load(Ordering::SeqCst)
            });
            drop(one);
            ended.store(true, Ordering::SeqCst);
            drop(two);
            assert!(waiting.join().expect("no panic"), "it went on before the last had ended");
        });
    }

    #[test]
    fn long_work_goes_on_when_short_work_does_not_end() {
        let gate = Gate::new(Duration::from_millis(1));
        let _short = gate.enter();
        gate.give_way();
    }
}
