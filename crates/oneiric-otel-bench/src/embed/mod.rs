//! How fast and how exact the embedding model is: `oneiric-otel bench embed`.
//!
//! Everything is measured in turns, several rounds of them, so that what else the machine does meets all alike; what is told is
//! the median of the rounds, and of ratios the median of the ratios of each round. The limit is the f32 matrix product of the
//! same library on the model's largest shape. A second of processor time counts also where the machine does other things.

mod exactness;
mod python;
mod texts;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use oneiric_otel_embed::limit::{OPERATIONS_PER_PIECE, Product};
use oneiric_otel_embed::{Instructions, MiniLm, Precision};
use serde::Serialize;

pub use exactness::Exactness;
use python::Python;

use crate::fill::Watcher;
use crate::latency::{Latencies, Quantiles};

/// Texts that are embedded one by one.
const SINGLE_TEXTS: usize = 200;
/// Questions that are asked while a backlog is embedded.
const QUESTIONS: usize = 200;
/// The pause between them.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(15);
/// Texts of one call of a worker: see `oneiric_otel::embed::EmbedOptions`.
const TEXTS_OF_A_CALL: usize = 64;
/// How long the limit is measured at a time.
const LIMIT_TIME: Duration = Duration::from_millis(500);

/// What is measured, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The directory of the model.
    pub model: &'a Path,
    /// Texts of a round.
    pub texts: usize,
    /// Rounds.
    pub rounds: usize,
    /// A Python interpreter that has sentence-transformers.
    pub python: Option<&'a Path>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// Texts of a round.
    pub texts: usize,
    /// Their word pieces, on average.
    pub pieces_per_text: f64,
    /// The versions of sentence-transformers and torch; none when they were not measured.
    pub python: Option<String>,
    /// Each arithmetic by itself.
    pub engines: Vec<EngineReport>,
    /// Each arithmetic on each number of threads.
    pub rates: Vec<Rate>,
    /// How near int8 is to f32.
    pub exactness: Exactness,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor, as it names itself.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// The fastest instructions for int8, and faster ones that the system refuses.
    pub instructions: String,
}

/// One arithmetic.
#[derive(Debug, Clone, Serialize)]
pub struct EngineReport {
    /// Its name.
    pub engine: &'static str,
    /// From nothing to ready, the files in the system's cache.
    pub load_ms: f64,
    /// What the process grew by when it was loaded.
    pub resident_mb: f64,
    /// What the process grew by at most while it embedded.
    pub highest_mb: f64,
    /// One text after the other, one thread.
    pub single: Quantiles,
    /// A question while all threads embed a backlog.
    pub question: Quantiles,
}

/// One arithmetic on some threads.
#[derive(Debug, Clone, Serialize)]
pub struct Rate {
    /// Its name.
    pub engine: &'static str,
    /// Threads.
    pub threads: usize,
    /// Texts in a second.
    pub texts_per_second: f64,
    /// Texts in a second of processor time.
    pub texts_per_processor_second: f64,
    /// Of what the f32 matrix product of the same round would allow, as a share, in time.
    pub share_of_limit: f64,
    /// The same in processor time.
    pub processor_share_of_limit: f64,
    /// Times the texts per second of sentence-transformers in the same round.
    pub times_python: Option<f64>,
}

/// The arithmetics: a name, and how to load.
const ENGINES: [(&str, Option<Instructions>); 4] = [
    ("f32", None),
    ("int8", None),
    ("int8 with AVX-512 VNNI", Some(Instructions::Avx512Vnni)),
    ("int8 with AVX2", Some(Instructions::Avx2)),
];
/// How many of them are a choice of users: the others show what other machines would take.
const CHOICES: usize = 2;

/// Measures.
///
/// # Errors
/// When the model cannot be loaded, or Python does not do what it is asked.
pub fn run(scope: Scope<'_>, watcher: &impl Watcher) -> Result<Report> {
    let texts = texts::texts(scope.texts);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut engines = Vec::new();
    for (name, instructions) in ENGINES.into_iter().take(CHOICES) {
        watcher.step(&format!("{name}, by itself"), None);
        engines.push(measure_alone(scope.model, name, instructions, &texts)?);
    }
    let models = ENGINES
        .into_iter()
        .filter(|(_, other)| other.is_none_or(|other| other.is_available() && other != Instructions::detect()))
        .map(|(name, instructions)| Ok((name, load(scope.model, name, instructions)?)))
        .collect::<Result<Vec<_>>>()?;
    let pieces: usize = texts.iter().map(|text| models[0].1.token_count(text)).sum();
    let mut python = scope.python.map(|interpreter| Python::start(interpreter, scope.model, &texts)).transpose()?;
    let mut rates = Vec::new();
    let mut models = models;
    for threads in [1, 2] {
        models = models.into_iter().map(|(name, model)| (name, model.with_threads(threads))).collect();
        let mut rounds = Vec::new();
        for round in 1..=scope.rounds {
            watcher.step(&format!("{threads} threads, round {round}"), None);
            rounds.push(Round::measure(&models, &texts, threads, python.as_mut())?);
        }
        rates.extend(tell(&models, threads, texts.len(), pieces, &rounds));
    }
    watcher.step("comparing vectors", None);
    let exactness = exactness::compare(&models[0].1.embed(&texts)?, &models[1].1.embed(&texts)?);
    Ok(Report {
        machine: machine(),
        texts: texts.len(),
        pieces_per_text: pieces as f64 / texts.len().max(1) as f64,
        python: python.map(|python| python.version.clone()),
        engines,
        rates,
        exactness,
    })
}

fn load(dir: &Path, name: &str, instructions: Option<Instructions>) -> Result<MiniLm> {
    Ok(match (instructions, name) {
        (Some(instructions), _) => MiniLm::load_with(dir, instructions)?,
        (None, "f32") => MiniLm::load(dir, Precision::F32)?,
        (None, _) => MiniLm::load(dir, Precision::Int8)?,
    })
}

fn measure_alone(
    dir: &Path,
    engine: &'static str,
    instructions: Option<Instructions>,
    texts: &[&str],
) -> Result<EngineReport> {
    // Once before, for the system's cache.
    drop(load(dir, engine, instructions)?);
    let before = resident("VmRSS")?;
    let begin = Instant::now();
    let model = load(dir, engine, instructions)?;
    let load_ms = begin.elapsed().as_secs_f64() * 1000.0;
    let resident_mb = resident("VmRSS")? - before;

    let mut single = Latencies::default();
    for text in texts.iter().cycle().take(SINGLE_TEXTS) {
        let begin = Instant::now();
        model.embed(&[text])?;
        single.add(begin.elapsed());
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let model = model.with_threads(threads);
    forget_highest();
    let question = ask_beside_a_backlog(&model, texts)?;
    let highest_mb = resident("VmHWM")? - before;
    let (single, question) = (single.quantiles(), question.quantiles());
    Ok(EngineReport { engine, load_ms, resident_mb, highest_mb, single, question })
}

/// How long questions take while another thread embeds texts without end, as a worker does.
fn ask_beside_a_backlog(model: &MiniLm, texts: &[&str]) -> Result<Latencies> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let backlog = scope.spawn(|| -> Result<()> {
            let mut calls = texts.chunks(TEXTS_OF_A_CALL).cycle();
            while !done.load(Ordering::Relaxed) {
                model.embed(calls.next().unwrap_or_default())?;
            }
            Ok(())
        });
        let mut times = Latencies::default();
        let asked = texts::QUESTIONS.iter().cycle().take(QUESTIONS).try_for_each(|question| {
            thread::sleep(BETWEEN_QUESTIONS);
            let begin = Instant::now();
            model.embed(&[question])?;
            times.add(begin.elapsed());
            anyhow::Ok(())
        });
        done.store(true, Ordering::Relaxed);
        backlog.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        asked.map(|()| times)
    })
}

/// A time, and the processor's.
#[derive(Debug, Clone, Copy)]
struct Times {
    wall: f64,
    processor: f64,
}

impl Times {
    fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (begin, processor) = (Instant::now(), processor_seconds()?);
        work()?;
        Ok(Self { wall: begin.elapsed().as_secs_f64(), processor: processor_seconds()? - processor })
    }
}

/// What was measured in turn.
struct Round {
    /// Of an operation of the limit, before and after.
    limit: Times,
    /// Of all texts, each model in turn.
    engines: Vec<Times>,
    python: Option<Times>,
}

impl Round {
    fn measure(
        models: &[(&'static str, MiniLm)],
        texts: &[&str],
        threads: usize,
        python: Option<&mut Python>,
    ) -> Result<Self> {
        let before = limit(threads)?;
        let engines = models
            .iter()
            .map(|(_, model)| Times::of(|| model.embed(texts).map(drop).map_err(Into::into)))
            .collect::<Result<Vec<_>>>()?;
        let python = python.map(|python| python.embed(threads)).transpose()?;
        let after = limit(threads)?;
        let mean = |a: f64, b: f64| f64::midpoint(a, b);
        let limit = Times { wall: mean(before.wall, after.wall), processor: mean(before.processor, after.processor) };
        Ok(Self { limit, engines, python })
    }
}

/// The time of an operation of the f32 product on each of `threads` threads at once; of the processor's, of one.
fn limit(threads: usize) -> Result<Times> {
    let mut operations = 0.0;
    let times = Times::of(|| {
        let begin = Instant::now();
        let worker = || {
            let mut product = Product::default();
            let mut done = 0.0;
            while begin.elapsed() < LIMIT_TIME {
                product.run();
                done += Product::OPERATIONS;
            }
            done
        };
        operations = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).sum()
        });
        Ok(())
    })?;
    Ok(Times { wall: times.wall / operations, processor: times.processor / operations })
}

fn tell(models: &[(&'static str, MiniLm)], threads: usize, texts: usize, pieces: usize, rounds: &[Round]) -> Vec<Rate> {
    let operations = OPERATIONS_PER_PIECE * pieces as f64;
    let names = models.iter().map(|(name, _)| *name).enumerate().map(|(index, name)| (name, Some(index)));
    let python = rounds.iter().all(|round| round.python.is_some()).then_some(("sentence-transformers", None));
    let rate = |(engine, index): (&'static str, Option<usize>)| {
        let times = |round: &Round| index.map_or(round.python, |index| round.engines.get(index).copied());
        let over = |value: &dyn Fn(&Round, Times) -> f64| {
            median(rounds.iter().filter_map(|round| Some(value(round, times(round)?))).collect())
        };
        let beside = |round: &Round, own: Times| round.python.map_or(f64::NAN, |python| python.wall / own.wall);
        Rate {
            engine,
            threads,
            texts_per_second: over(&|_, own| texts as f64 / own.wall),
            texts_per_processor_second: over(&|_, own| texts as f64 / own.processor),
            share_of_limit: over(&|round, own| operations * round.limit.wall / own.wall),
            processor_share_of_limit: over(&|round, own| operations * round.limit.processor / own.processor),
            times_python: python.map(|_| over(&beside)),
        }
    };
    names.chain(python).map(rate).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[upper],
        _ => f64::midpoint(values[upper - 1], values[upper]),
    }
}

fn machine() -> Machine {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Machine {
        processor: name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned()),
        processors: thread::available_parallelism().map_or(1, usize::from),
        instructions: Instructions::refused().map_or_else(
            || Instructions::detect().as_str().to_owned(),
            |refused| format!("{}, {} being refused by the system", Instructions::detect().as_str(), refused.as_str()),
        ),
    }
}

/// Processor time that this process has taken, all threads together.
fn processor_seconds() -> Result<f64> {
    /// Linux counts in hundredths wherever a program can see it.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").context("the time of this process")?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th fields after it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok());
    ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND).context("/proc/self/stat")
}

/// A line of this process's status, in MB.
fn resident(name: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("the memory of this process")?;
    let line = status.lines().find(|line| line.starts_with(name)).with_context(|| format!("no line {name}"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kilobytes / 1024.0)
}

/// Lets the highest resident memory begin anew, where the system can: else it is that of the whole run so far.
fn forget_highest() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "halves are exact")]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn processor_time_and_memory_are_told_on_linux() {
        assert!(processor_seconds().expect("a time") >= 0.0);
        assert!(resident("VmRSS").expect("memory") > 1.0);
        assert!(resident("VmNothing").is_err());
    }
}
