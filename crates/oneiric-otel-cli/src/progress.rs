//! Progress for people: bars and spinners on a terminal, plain lines elsewhere; all on stderr.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A step that is done sooner is not worth a line.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Shows what is being done, one step at a time. What happens beside it has a progress of its own: [`Self::beside`].
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    bars: MultiProgress,
    step: Mutex<Option<Step>>,
}

#[derive(Debug)]
struct Step {
    what: String,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// On stderr.
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), bars: MultiProgress::new(), step: Mutex::new(None) }
    }

    /// For something that goes on at the same time.
    pub(crate) fn beside(&self) -> Self {
        Self { terminal: self.terminal, bars: self.bars.clone(), step: Mutex::new(None) }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: &str) {
        self.bars.suspend(|| drop(writeln!(io::stderr().lock(), "{text}")));
    }

    /// Starts a step that counts to `total` things. Without a total a spinner turns.
    pub(crate) fn start(&self, what: &str, total: Option<u64>) {
        let template =
            if total.is_some() { "{spinner} {msg} [{bar:30}] {pos}/{len} {eta}" } else { "{spinner} {msg} {elapsed}" };
        self.show(what, total, template);
    }

    fn show(&self, what: &str, total: Option<u64>, template: &str) {
        let bar = self.terminal.then(|| {
            let bar = self.bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        *self.lock() = Some(Step { what: what.to_owned(), began: Instant::now(), bar });
    }

    /// `count` more are done.
    pub(crate) fn add(&self, count: u64) {
        if let Some(bar) = self.lock().as_ref().and_then(|step| step.bar.as_ref()) {
            bar.inc(count);
        }
    }

    /// So many are done.
    pub(crate) fn set(&self, count: u64) {
        if let Some(bar) = self.lock().as_ref().and_then(|step| step.bar.as_ref()) {
            bar.set_position(count);
        }
    }

    /// Ends the step without a trace.
    pub(crate) fn clear(&self) -> Option<(String, Instant)> {
        let step = self.lock().take()?;
        if let Some(bar) = step.bar {
            bar.finish_and_clear();
        }
        Some((step.what, step.began))
    }

    /// Ends the step. A long one leaves a line that says how long.
    pub(crate) fn end(&self) {
        let Some((what, began)) = self.clear() else { return };
        let took = began.elapsed();
        if took >= WORTH_TELLING {
            self.say(&format!("{what} took {:.1} s", took.as_secs_f64()));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Step>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl oneiric_otel_parts::Progress for Progress {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        if !self.terminal {
            // Downloads take long, and in a log nothing moves.
            self.say(&format!("{what} ..."));
        }
        let template = if total_bytes.is_some() {
            "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {eta}"
        } else {
            "{spinner} {msg} {elapsed}"
        };
        self.show(what, total_bytes, template);
    }

    fn advance(&self, bytes: u64) {
        self.add(bytes);
    }

    fn finish(&self) {
        self.end();
    }

    fn note(&self, text: &str) {
        self.say(text);
    }
}
