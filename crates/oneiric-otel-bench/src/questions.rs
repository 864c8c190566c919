//! How long the questions take that users ask, on a database that [`fill`](crate::fill) filled.
//!
//! A class is a kind of question. Its arguments are drawn once; then every question is asked for a first time and, in
//! further rounds, again. Nothing is answered from the cache of answers: it is the database that is measured. What is
//! cold for the first round is up to whoever runs it: `docs/benchmarks.md` says how to restart PostgreSQL and empty the
//! cache of the system before.

mod classes;

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use oneiric_otel::query::{QueryService, TimeRange, TraceFilter, TraceId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::fill::Watcher;
use crate::generate::{FAULTS, Generator};
use crate::latency::{Latencies, Quantiles};

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// Questions of each class.
    pub questions: usize,
    /// How often each is asked again.
    pub repeats: usize,
    /// Decides the arguments.
    pub seed: u64,
}

/// What a class took.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What was asked.
    pub class: &'static str,
    /// What the 99th percentile should be at most, in milliseconds, where there is a goal.
    pub goal_ms: Option<f64>,
    /// Things in an answer, on average: a class of empty answers would be no measurement.
    pub answers: f64,
    /// Each question asked for the first time.
    pub first: Quantiles,
    /// Asked again.
    pub again: Quantiles,
}

/// Asks every class of question.
///
/// # Errors
/// The first question that is not answered.
pub async fn measure(
    service: &QueryService,
    generator: &Generator,
    rounds: Rounds,
    watcher: &impl Watcher,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    let service = &service.bypassing_cache();
    for class in classes::CLASSES {
        watcher.step(class.name, None);
        measured.push(class.measure(service, generator, rounds).await.with_context(|| class.name.to_owned())?);
    }
    Ok(measured)
}

/// Questions of some classes, asked one after the other for as long as somebody likes.
#[derive(Debug)]
pub(crate) struct Asker {
    random: StdRng,
}

impl Asker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    /// Asks a question of the class about one of these traces, of which there is at least one, and returns how many things
    /// were in the answer.
    pub(crate) async fn ask(
        &mut self,
        service: &QueryService,
        generator: &Generator,
        class: &'static str,
        traces: Range<u64>,
    ) -> Result<usize> {
        let Some(known) = classes::CLASSES.iter().find(|known| known.name == class) else {
            anyhow::bail!("no class of questions is called {class:?}");
        };
        (known.ask)(service, Arguments::draw(generator, traces, &mut self.random)).await
    }
}

/// Asks once and says how many things were in the answer.
type Ask = for<'a> fn(&'a QueryService, Arguments) -> BoxFuture<'a, Result<usize>>;

struct Class {
    name: &'static str,
    goal_ms: Option<f64>,
    ask: Ask,
}

/// Where a question points.
#[derive(Debug, Clone)]
struct Arguments {
    trace_id: TraceId,
    service: String,
    /// A time within the data.
    moment: Timestamp,
    /// Of [`FAULTS`].
    fault: usize,
}

impl Arguments {
    /// That point to one of these traces.
    fn draw(generator: &Generator, traces: Range<u64>, random: &mut StdRng) -> Self {
        let trace = random.random_range(traces);
        let services: Vec<&str> = generator.services().collect();
        Self {
            trace_id: TraceId(generator.trace_id(trace)),
            service: services[random.random_range(0..services.len())].to_owned(),
            moment: Timestamp::from_nanosecond(i128::from(generator.start_of(trace))).unwrap_or_default(),
            fault: random.random_range(0..FAULTS.len()),
        }
    }

    /// A time that ends at the moment.
    fn last(&self, length: SignedDuration) -> Result<TimeRange> {
        Ok(TimeRange::new(self.moment.checked_sub(length)?, self.moment)?)
    }

    /// The traces of that time.
    fn traces_of_last(&self, length: SignedDuration) -> Result<TraceFilter> {
        let range = self.last(length)?;
        Ok(TraceFilter { since: Some(range.start()), until: Some(range.end()), ..TraceFilter::default() })
    }
}

impl Class {
    async fn measure(&self, service: &QueryService, generator: &Generator, rounds: Rounds) -> Result<Measured> {
        let mut random = StdRng::seed_from_u64(rounds.seed);
        let arguments: Vec<Arguments> =
            (0..rounds.questions).map(|_| Arguments::draw(generator, 0..generator.traces(), &mut random)).collect();
        let (mut first, mut again) = (Latencies::default(), Latencies::default());
        let mut answers = 0;
        for round in 0..=rounds.repeats {
            for arguments in &arguments {
                let began = Instant::now();
                answers += (self.ask)(service, arguments.clone()).await?;
                if round == 0 { &mut first } else { &mut again }.add(began.elapsed());
            }
        }
        Ok(Measured {
            class: self.name,
            goal_ms: self.goal_ms,
            answers: answers as f64 / (rounds.questions * (rounds.repeats + 1)).max(1) as f64,
            first: first.quantiles(),
            again: again.quantiles(),
        })
    }
}
