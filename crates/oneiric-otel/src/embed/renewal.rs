//! Embeds again, with another model, what was embedded before: the newest first, a share of the time, and in turns with what
//! is new. When all is done, says that the model is complete. Also what is looked after now and then: the index on vectors,
//! and models that were replaced.
//!
//! Promise: until the model is complete another one answers, if there is one that was complete.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batches::check;
use super::worker::{ALL, Stand};
use super::{Embedder, EmbeddingWorker};
use crate::store::StoreError;
use crate::store::model_switch::KnownTexts;

/// Texts that are embedded again before new ones have their turn.
const RENEWED_AT_ONCE: usize = 32;

/// The longest pause after some.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Complete,
    /// Its index was built just now, which can take long: texts have come meanwhile.
    IndexBuilt,
    /// It lacks vectors, or its index.
    Lacking,
}

impl EmbeddingWorker {
    /// Embeds again what is to be, and looks after indexes and models, for ever.
    pub(super) async fn renew_and_maintain(&self) {
        let mut failures: u32 = 0;
        loop {
            let (mut pause, mut is_idle) = (self.options.upkeep, true);
            match self.renew_some().await {
                Ok(Some(busy)) => (pause, is_idle) = (pause_after(busy, self.options.renewal_share), false),
                Ok(None) => failures = 0,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, class = error.class().as_str(), failures, "vectors could not be looked after");
                    }
                    pause = self.options.upkeep.min(self.options.interval * 2u32.pow(failures.min(6)));
                    is_idle = false;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drained.notified(), if is_idle => {}
            }
        }
    }

    /// Embeds some texts or log templates again. Returns how long that took; none when there are none, and all else that was due is
    /// done.
    async fn renew_some(&self) -> Result<Option<Duration>, StoreError> {
        let Some(stand) = self.stand().await? else { return Ok(None) };
        if let Some(renewal) = &stand.renewal {
            // This and new texts wait for one batch of the other at most.
            let _turn = self.turn.lock().await;
            let began = Instant::now();
            let own = self.batches(&self.embedder, &stand.model);
            // What is new waits, too, where the former model has it already.
            let is_served = self.former.get(&renewal.former).await.is_some();
            let ids = if is_served { ALL } else { 0..=renewal.up_to };
            let (_, claimed) = own.texts(&ids, RENEWED_AT_ONCE).await?;
            // Fewer are all that there are. New ones that keep coming do not hold the rest up.
            if claimed >= RENEWED_AT_ONCE {
                return Ok(Some(began.elapsed()));
            }
            if let Some(former) = self.database.registered_model(&renewal.former).await?
                && own.templates(Some(&former), RENEWED_AT_ONCE).await?
            {
                return Ok(Some(began.elapsed()));
            }
        }
        match self.finish(&stand).await? {
            Standing::IndexBuilt => return Ok(Some(Duration::ZERO)),
            Standing::Lacking => {}
            Standing::Complete => {
                self.make_index(&stand.model).await?;
                self.database.drop_replaced_models().await?;
            }
        }
        Ok(None)
    }

    /// Says that the model is complete if all that was there before it has its vector, and these their index where another model
    /// answers until then.
    pub(super) async fn finish(&self, stand: &Stand) -> Result<Standing, StoreError> {
        let model = &stand.model;
        // Asked each time: another process may have found that it is not any more.
        if self.database.is_complete(model).await? {
            self.is_complete.set();
            return Ok(Standing::Complete);
        }
        match self.database.known_texts(model).await? {
            KnownTexts::Embedded if stand.renewal.is_none() => {}
            // Else a model that cannot be reached for long would answer for one that can.
            KnownTexts::Embedded | KnownTexts::Tried if answers_now(&self.embedder).await => {}
            KnownTexts::Embedded | KnownTexts::Tried | KnownTexts::Waiting => return Ok(Standing::Lacking),
        }
        if stand.renewal.is_some()
            && let Some(kind) = self.options.index
        {
            if self.make_index(model).await? {
                return Ok(Standing::IndexBuilt);
            }
            if self.database.lacks_vector_index(model, kind).await? {
                return Ok(Standing::Lacking);
            }
        }
        if !self.database.complete_model(model).await? {
            let times = self.put_off.fetch_add(1, Ordering::Relaxed) + 1;
            if times.is_power_of_two() {
                let model = self.embedder.model();
                tracing::warn!(
                    %model, times,
                    "the model has all its vectors and cannot answer yet: somebody uses the view traces for long, such as a dump \
                     or a long question; it is tried again"
                );
            }
            return Ok(Standing::Lacking);
        }
        self.is_complete.set();
        if let Some(renewal) = &stand.renewal {
            self.former.let_go().await;
            let (from, to) = (&renewal.former, self.embedder.model());
            tracing::info!(%from, %to, "everything is embedded with the new model, which answers from now on");
        }
        Ok(Standing::Complete)
    }
}

/// Whether the model gives a vector now that can be stored.
async fn answers_now(embedder: &Arc<dyn Embedder>) -> bool {
    let embedder = Arc::clone(embedder);
    let answers = move || {
        let dimension = embedder.model().dimension;
        embedder.embed(&["a trace"]).is_ok_and(|vectors| check(&vectors, 1, dimension).is_ok())
    };
    matches!(tokio::task::spawn_blocking(answers).await, Ok(true))
}

/// How long to pause so that what took so long takes this share of the time.
fn pause_after(busy: Duration, share: f64) -> Duration {
    let share = if share > 0.0 { share.min(1.0) } else { 0.01 };
    busy.mul_f64(1.0 / share - 1.0).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_leave_the_share_that_was_said() {
        let busy = Duration::from_millis(100);
        for (share, pause) in [(0.5, 100), (0.25, 300), (1.0, 0), (7.0, 0)] {
            assert_eq!(pause_after(busy, share), Duration::from_millis(pause), "{share}");
        }
        for share in [0.0, -1.0, f64::NAN] {
            assert_eq!(pause_after(busy, share), Duration::from_millis(9900), "{share}");
        }
        assert_eq!(pause_after(Duration::from_hours(1), 0.5), LONGEST_PAUSE);
    }
}
