//! The circuit breaker before the database, or another place that requests go to: after repeated failures it lets nothing
//! through for a while, then one probe.
//!
//! ```text
//! CLOSED ── 5 failures within 60 s, or one that only a person can mend ──▶ OPEN ── 60 s ──▶ HALF_OPEN ── a probe
//!    ▲                                                                      ▲                    │
//!    └── success, the count begins anew ────────────────────────────────────┼────────────────────┤
//!                                                                           └────────── failure ─┘
//! ```
//!
//! A failure is a batch whose retries are used up. [`Circuit`] is the machine, told the time with every call;
//! [`Breaker`] shares it between writers and waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Failures within `window` that open it.
    pub threshold: usize,
    /// How long a failure counts.
    pub window: Duration,
    /// How long it stays open before a probe.
    pub open_for: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self { threshold: 5, window: Duration::from_mins(1), open_for: Duration::from_mins(1) }
    }
}

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything goes through.
    Closed,
    /// Nothing goes through.
    Open,
    /// One probe goes through.
    HalfOpen,
}

impl BreakerState {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What is known of the breaker at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Where it stands.
    pub state: BreakerState,
    /// Since when it stands there.
    pub since: SystemTime,
    /// When it lets a probe through, while it is open.
    pub until: Option<SystemTime>,
    /// Since when nothing could be written: the first failure after the last success.
    pub failing_since: Option<SystemTime>,
    /// The latest failure since then.
    pub last_error: Option<String>,
    /// How often it opened since the start of the process.
    pub opened: u64,
}

/// The right to write one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Whether everybody else waits for this batch.
    pub(crate) is_probe: bool,
    /// The state the pass was given in: it ends with it.
    epoch: u64,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Written,
    /// Its retries are used up.
    Failed(&'a str),
    /// Only a person can mend it: there is no sense in further tries before long.
    Hopeless(&'a str),
    /// Nothing was tried, or what was tried says nothing about the database.
    Nothing,
}

#[derive(Debug)]
enum State {
    Closed { failures: VecDeque<Instant> },
    Open { until: Instant },
    HalfOpen { probing: bool },
}

/// The machine. It looks at no clock.
#[derive(Debug)]
struct Circuit {
    options: BreakerOptions,
    state: State,
    /// Counts the changes of state.
    epoch: u64,
    opened: u64,
}

impl Circuit {
    fn new(options: BreakerOptions) -> Self {
        Self { options, state: State::Closed { failures: VecDeque::new() }, epoch: 0, opened: 0 }
    }

    /// A pass, or the time before which there is none. `None` in the error: until somebody else's probe has ended.
    fn enter(&mut self, now: Instant) -> Result<Pass, Option<Instant>> {
        match &mut self.state {
            State::Closed { .. } => Ok(Pass { is_probe: false, epoch: self.epoch }),
            State::Open { until } if now < *until => Err(Some(*until)),
            State::Open { .. } => {
                self.change(State::HalfOpen { probing: true });
                Ok(Pass { is_probe: true, epoch: self.epoch })
            }
            State::HalfOpen { probing: true } => Err(None),
            State::HalfOpen { probing } => {
                *probing = true;
                Ok(Pass { is_probe: true, epoch: self.epoch })
            }
        }
    }

    /// Whether a pass still counts.
    fn is_valid(&self, pass: Pass) -> bool {
        pass.epoch == self.epoch
    }

    fn conclude(&mut self, pass: Pass, verdict: Verdict<'_>, now: Instant) {
        // A pass of an earlier state may come back in a later one.
        let is_probe = pass.is_probe && self.is_valid(pass);
        match (&mut self.state, verdict) {
            (State::HalfOpen { probing }, Verdict::Nothing) if is_probe => *probing = false,
            // Whoever began before the breaker opened and has succeeded since says as much as a probe.
            (State::Open { .. } | State::HalfOpen { .. }, Verdict::Written) => {
                self.change(State::Closed { failures: VecDeque::new() });
            }
            (State::Closed { failures }, Verdict::Failed(_)) => {
                failures.push_back(now);
                while failures.front().is_some_and(|at| *at + self.options.window <= now) {
                    failures.pop_front();
                }
                if failures.len() >= self.options.threshold {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, Verdict::Failed(_)) if is_probe => self.open(now),
            (State::Closed { .. } | State::HalfOpen { .. }, Verdict::Hopeless(_)) => self.open(now),
            // A success while all is well, or the failure of one that began before: nothing new.
            _ => {}
        }
    }

    fn open(&mut self, now: Instant) {
        self.opened += 1;
        self.change(State::Open { until: now + self.options.open_for });
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

/// The breaker that writers share.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// What it stands before, as the log calls it.
    before: &'static str,
    shared: Mutex<Shared>,
    changed: Notify,
}

#[derive(Debug)]
struct Shared {
    circuit: Circuit,
    since: SystemTime,
    failing: Option<(SystemTime, String)>,
}

impl Breaker {
    pub(crate) fn new(before: &'static str, options: BreakerOptions) -> Self {
        let shared = Shared { circuit: Circuit::new(options), since: SystemTime::now(), failing: None };
        Self { before, shared: Mutex::new(shared), changed: Notify::new() }
    }

    /// Waits until a batch may be written. The pass goes back with [`Self::conclude`].
    pub(crate) async fn enter(&self) -> Pass {
        loop {
            let changed = self.changed.notified();
            let outcome = self.with(|circuit| circuit.enter(Instant::now()));
            match outcome {
                Ok(pass) => return pass,
                Err(Some(until)) => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = changed => {}
                },
                Err(None) => changed.await,
            }
        }
    }

    /// Whether what the pass allows is still allowed.
    pub(crate) fn is_valid(&self, pass: Pass) -> bool {
        self.lock().circuit.is_valid(pass)
    }

    /// Gives a pass back.
    pub(crate) fn conclude(&self, pass: Pass, verdict: Verdict<'_>) {
        match verdict {
            Verdict::Written => self.lock().failing = None,
            Verdict::Failed(reason) | Verdict::Hopeless(reason) => {
                let mut shared = self.lock();
                let since = shared.failing.take().map_or_else(SystemTime::now, |(since, _)| since);
                shared.failing = Some((since, reason.to_owned()));
            }
            Verdict::Nothing => {}
        }
        self.with(|circuit| circuit.conclude(pass, verdict, Instant::now()));
        self.changed.notify_waiters();
    }

    /// How long until there may be a pass again; none when there may be one now.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        match self.lock().circuit.state {
            State::Open { until } => {
                Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
            }
            State::Closed { .. } | State::HalfOpen { .. } => None,
        }
    }

    pub(crate) fn status(&self) -> BreakerStatus {
        let shared = self.lock();
        let (state, until) = match shared.circuit.state {
            State::Closed { .. } => (BreakerState::Closed, None),
            State::Open { until } => {
                let left = until.saturating_duration_since(Instant::now());
                (BreakerState::Open, Some(SystemTime::now() + left))
            }
            State::HalfOpen { .. } => (BreakerState::HalfOpen, None),
        };
        let (failing_since, last_error) = shared.failing.clone().unzip();
        let (since, opened) = (shared.since, shared.circuit.opened);
        BreakerStatus { state, since, until, failing_since, last_error, opened }
    }

    /// Asks the machine, and tells the log when it changed.
    fn with<T>(&self, ask: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut shared = self.lock();
        let before = shared.circuit.epoch;
        let answer = ask(&mut shared.circuit);
        if shared.circuit.epoch != before {
            shared.since = SystemTime::now();
            let last_error = shared.failing.as_ref().map(|(_, error)| error.as_str());
            match shared.circuit.state {
                State::Closed { .. } => {
                    tracing::info!(event = "circuit-breaker-closed", "{} takes requests again", self.before);
                }
                State::HalfOpen { .. } => {
                    tracing::info!(event = "circuit-breaker-half-open", "trying one request to {}", self.before);
                }
                State::Open { .. } => tracing::error!(
                    event = "circuit-breaker-open",
                    seconds = shared.circuit.options.open_for.as_secs_f32(),
                    last_error,
                    "{} does not take requests; no more tries for a while",
                    self.before
                ),
            }
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn circuit() -> (Circuit, Instant) {
        (Circuit::new(BreakerOptions::default()), Instant::now())
    }

    fn fail(circuit: &mut Circuit, now: Instant) {
        let pass = circuit.enter(now).expect("a pass");
        circuit.conclude(pass, Verdict::Failed("no answer"), now);
    }

    #[test]
    fn five_failures_within_a_minute_open_it_and_four_do_not() {
        let (mut circuit, start) = circuit();
        for second in 0..4 {
            fail(&mut circuit, start + SECOND * second);
        }
        assert!(matches!(circuit.state, State::Closed { .. }));
        // The first has left the window when this one comes.
        fail(&mut circuit, start + SECOND * 60);
        assert!(matches!(circuit.state, State::Closed { .. }));
        fail(&mut circuit, start + SECOND * 60);
        assert!(matches!(circuit.state, State::Open { .. }));
        assert_eq!(circuit.opened, 1);
    }

    #[test]
    fn a_success_in_between_does_not_hide_failures() {
        let (mut circuit, now) = circuit();
        for _ in 0..4 {
            fail(&mut circuit, now);
            let pass = circuit.enter(now).expect("a pass");
            circuit.conclude(pass, Verdict::Written, now);
        }
        fail(&mut circuit, now);
        assert!(matches!(circuit.state, State::Open { .. }));
    }

    fn opened() -> (Circuit, Instant) {
        let (mut circuit, now) = circuit();
        for _ in 0..5 {
            fail(&mut circuit, now);
        }
        (circuit, now)
    }

    #[test]
    fn after_a_minute_one_probe_goes_through() {
        let (mut circuit, start) = opened();
        assert_eq!(circuit.enter(start + SECOND * 59), Err(Some(start + SECOND * 60)));
        let later = start + SECOND * 60;
        let probe = circuit.enter(later).expect("a probe");
        assert!(probe.is_probe);
        assert_eq!(circuit.enter(later), Err(None), "one only");
        circuit.conclude(probe, Verdict::Failed("no answer"), later);
        assert_eq!(circuit.enter(later + SECOND * 59), Err(Some(later + SECOND * 60)));
        let probe = circuit.enter(later + SECOND * 60).expect("a probe");
        circuit.conclude(probe, Verdict::Written, later + SECOND * 61);
        assert!(!circuit.enter(later + SECOND * 61).expect("a pass").is_probe);
        // The count began anew.
        for _ in 0..4 {
            fail(&mut circuit, later + SECOND * 62);
        }
        assert!(matches!(circuit.state, State::Closed { .. }));
    }

    #[test]
    fn a_probe_that_tried_nothing_leaves_its_place_to_another() {
        let (mut circuit, start) = opened();
        let later = start + SECOND * 60;
        let probe = circuit.enter(later).expect("a probe");
        circuit.conclude(probe, Verdict::Nothing, later);
        assert!(circuit.enter(later).expect("the next").is_probe);
    }

    #[test]
    fn a_pass_ends_with_the_state_it_was_given_in() {
        let (mut circuit, now) = circuit();
        let early = circuit.enter(now).expect("a pass");
        for _ in 0..5 {
            fail(&mut circuit, now);
        }
        assert!(!circuit.is_valid(early));
        // It began all the same, and fails now: that opens nothing a second time.
        circuit.conclude(early, Verdict::Failed("no answer"), now);
        assert_eq!(circuit.opened, 1);
    }

    #[test]
    fn what_only_a_person_can_mend_opens_it_at_once() {
        let (mut circuit, now) = circuit();
        let pass = circuit.enter(now).expect("a pass");
        circuit.conclude(pass, Verdict::Hopeless("password authentication failed"), now);
        assert!(matches!(circuit.state, State::Open { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn writers_wait_while_it_is_open_and_the_status_says_since_when() {
        let breaker = Breaker::new("a test", BreakerOptions { threshold: 1, ..BreakerOptions::default() });
        let began = Instant::now();
        let pass = breaker.enter().await;
        breaker.conclude(pass, Verdict::Failed("no answer"));
        let status = breaker.status();
        assert_eq!((status.state, status.last_error.as_deref()), (BreakerState::Open, Some("no answer")));
        assert!(status.failing_since.is_some() && status.until.is_some());
        let probe = breaker.enter().await;
        assert!(probe.is_probe && began.elapsed() >= Duration::from_mins(1));
        assert_eq!(breaker.status().state, BreakerState::HalfOpen);
        breaker.conclude(probe, Verdict::Written);
        let status = breaker.status();
        assert_eq!((status.state, status.failing_since), (BreakerState::Closed, None));
    }
}
