//! Months of telemetry through a server that keeps days of it: whether the disk stays flat, and who waits for whom.
//!
//! ```text
//! each simulated day:  the calendar moves on ─▶ upkeep drops what is too old ─────────────────▶ what is left is counted
//!                                               meanwhile: the day's telemetry over gRPC, and questions without a pause
//! ```
//!
//! Telemetry has the times of the days that end with the last midnight. The database's clock stays as it is. What moves is
//! what retention compares with it: notes of when partitions were written are put back to the day that was simulated, and
//! each table keeps as much longer as the simulated day lies back (see `calendar`). All else is the product: a server as a
//! process, its write path, its schema, and the upkeep that a server does by the hour, done here once a simulated day.
//!
//! A day that was sent and is inside the retention must be there, whole, each time that it is counted; else the run ends.

mod calendar;
mod traffic;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use oneiric_otel::query::QueryService;
use oneiric_otel::store::Database;
use oneiric_otel::store::retention::{RetentionOutcome, RetentionRun};
use serde::Serialize;

use crate::database::{self, Description, Size};
use crate::generate::{Generator, Scenario};
use crate::latency::Quantiles;
use crate::machine::Machine;
use crate::server::Server;
use calendar::Calendar;
pub use calendar::{Count, Held};
use traffic::{Parcel, Samples, Traffic};

/// Decides what is sent.
const SEED: u64 = 9;
const DAY: Duration = Duration::from_hours(24);
/// Counters of PostgreSQL are behind by this at most; retention takes a row that it did not count before for a new one.
const COUNTERS_ARE_BEHIND: Duration = Duration::from_secs(11);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Traces of a request, which makes one of about 500 spans.
const TRACES_OF_A_REQUEST: u64 = 50;
const SPANS_OF_A_TRACE: u64 = 10;
const MINUTES_OF_A_DAY: u64 = 24 * 60;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The product's program: the server.
    pub program: PathBuf,
    /// An empty directory for the server's data.
    pub dir: PathBuf,
    /// Simulated days, at least one.
    pub days: u32,
    /// How long telemetry is kept, in days, at least one.
    pub keep_days: u32,
    /// Spans of a day, about; half as many log records come with them.
    pub spans_per_day: u64,
    /// Minutes of a day of which there are metrics, 280 data points each.
    pub metric_minutes_per_day: u64,
    /// When a request is acknowledged: `spooled` or `stored`.
    pub ack: String,
    /// Connections that send.
    pub connections: usize,
    /// Report every so many days.
    pub every: u32,
    /// The pause between detaching and dropping. A server waits 15 s.
    pub settle: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// On which database.
    pub database: Description,
    /// Simulated days.
    pub simulated_days: u32,
    /// How long telemetry is kept, in days.
    pub retention_days: u32,
    /// Records that were acknowledged, in all.
    pub sent: Count,
    /// Some of the days, in order.
    pub days: Vec<Day>,
    /// What is left of each day after the last, the oldest first. Older days have nothing.
    pub left: Vec<LeftOfDay>,
    /// How the disk went.
    pub disk: Disk,
    /// What takes more room than on the first day with a drop, the most first.
    pub grown: Vec<Grown>,
    /// Partitions that were dropped.
    pub dropped: u64,
    /// Partitions that were written to meanwhile and so were kept by a run; a later one dropped them.
    pub kept: u64,
    /// Times that a run left a partition to the next, such as one that somebody used for long.
    pub postponed: u64,
    /// Seconds that the longest upkeep of a day took, with the indexes of the day before.
    pub longest_upkeep_seconds: f64,
    /// Seconds of the longest retention.
    pub longest_retention_seconds: f64,
    /// What waited, by kind: all the time, and while retention worked.
    pub waits: Vec<Waits>,
    /// Deliveries that were refused and sent again; the wait for it is part of the acknowledgement's.
    pub refused: u64,
    /// What lies on disk at the end, largest first.
    pub sizes: Vec<Size>,
}

/// A simulated day.
#[derive(Debug, Clone, Serialize)]
pub struct Day {
    /// Its number, from 1.
    pub day: u32,
    /// Its date.
    pub date: String,
    /// Bytes of the database when it was over.
    pub bytes: u64,
    /// Partitions of all tables.
    pub partitions: u64,
    /// Rows of them.
    pub rows: Count,
    /// Traces that were derived and are there.
    pub traces: u64,
    /// Partitions that its upkeep dropped.
    pub dropped: usize,
    /// Seconds of retention.
    pub retention_seconds: f64,
    /// From the start of a request until it was acknowledged.
    pub acknowledged: Quantiles,
    /// Of questions, all kinds together.
    pub answered: Quantiles,
}

/// What is left of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOfDay {
    /// Its date.
    pub date: String,
    /// Records that were acknowledged.
    pub sent: Count,
    /// Records that are there.
    pub stored: Count,
}

/// How the size of the database went, from the first day on that something was dropped on.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Disk {
    /// The number of that day; none when nothing was dropped.
    pub full_from_day: Option<u32>,
    /// Bytes on that day.
    pub bytes_then: u64,
    /// The most since.
    pub most_bytes: u64,
    /// On the last day.
    pub last_bytes: u64,
}

/// What has grown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grown {
    /// A table or an index with all its partitions, or the catalogue of PostgreSQL.
    pub name: String,
    /// By so many bytes.
    pub bytes: u64,
}

/// How long something waited.
#[derive(Debug, Clone, Serialize)]
pub struct Waits {
    /// What.
    pub what: &'static str,
    /// How often it was done.
    pub count: usize,
    /// How long it took, whenever.
    pub always: Quantiles,
    /// How often while retention detached and dropped something, at least in part.
    pub count_beside: usize,
    /// How long it took then.
    pub beside: Quantiles,
}

/// Runs the simulation. `tell` hears what goes on.
///
/// # Errors
/// If the server fails, a request or a question is refused, or anything inside the retention is not there.
pub async fn run(options: &Options, tell: &impl Fn(&str)) -> Result<Report> {
    tell("starting the server");
    let (data, log) = (options.dir.join("data"), options.dir.join("serve.log"));
    let server = Server::start(&options.program, &data, None, &[format!("--ack={}", options.ack)], &log).await?;
    let Some(embedded) = oneiric_otel_postgres::Server::attach(&data)? else {
        bail!("the embedded PostgreSQL does not run");
    };
    let url = embedded.connection().url();
    let report = Simulation::begin(options, &server, &url).await?.run(tell).await;
    server.stop().await?;
    embedded.release()?;
    report
}

struct Simulation<'a> {
    options: &'a Options,
    generator: Arc<Generator>,
    calendar: Calendar,
    /// The product, as its upkeep uses it.
    database: Database,
    traffic: Traffic,
    days: Vec<Day>,
    /// What was sent, by the day of its time: some traces of the last minute go on after midnight.
    sent: BTreeMap<u64, Count>,
    /// When each day was derived.
    derived: Vec<Instant>,
    samples: Samples,
    disk: Disk,
    /// On the first day with a drop.
    sizes_then: Vec<Size>,
    dropped: u64,
    kept: u64,
    postponed: u64,
    longest: (Duration, Duration),
}

/// What the upkeep of a day did.
struct Upkeep {
    outcome: RetentionOutcome,
    retention: (Instant, Instant),
    all: Duration,
}

impl<'a> Simulation<'a> {
    async fn begin(options: &'a Options, server: &Server, url: &str) -> Result<Self> {
        let first_day = midnight_before(options.days)?;
        let scenario = Scenario {
            seed: SEED,
            traces: traces_of_a_day(options) * u64::from(options.days),
            start_unix_nanos: u64::try_from(first_day.as_nanosecond())?,
            length: DAY * options.days,
        };
        let generator = Arc::new(Generator::new(scenario));
        let database = Database::new(url)?;
        let service = QueryService::new(Database::new(url)?, None).bypassing_cache();
        Ok(Self {
            options,
            traffic: Traffic::new(server.addresses.grpc, options.connections, service, Arc::clone(&generator))?,
            calendar: Calendar::new(database::connect(url).await?, first_day, options.keep_days),
            generator,
            database,
            days: Vec::new(),
            sent: BTreeMap::new(),
            derived: Vec::new(),
            samples: Samples::default(),
            disk: Disk::default(),
            sizes_then: Vec::new(),
            dropped: 0,
            kept: 0,
            postponed: 0,
            longest: (Duration::ZERO, Duration::ZERO),
        })
    }

    async fn run(mut self, tell: &impl Fn(&str)) -> Result<Report> {
        if database::committed_rows(&self.calendar.client).await? > 0 {
            bail!("the database has telemetry already: the simulation begins with an empty one");
        }
        for day in 0..self.options.days {
            tell(&format!("day {} of {}", day + 1, self.options.days));
            self.day(day).await?;
        }
        tell("the last midnight");
        self.last_midnight().await?;
        self.report().await
    }

    /// Lets a day pass: upkeep, the day's telemetry and questions about the days before, all at the same time.
    async fn day(&mut self, day: u32) -> Result<()> {
        self.await_counters(day).await;
        self.calendar.begin(day).await?;
        let generator = Arc::clone(&self.generator);
        let (traces, minutes) = (self.traces(day), self.minutes(day));
        let parcels = tokio::task::spawn_blocking(move || parcels(&generator, traces, &minutes)).await??;
        for (day, count) in parcels.iter().flat_map(|parcel| &parcel.records) {
            let sent = self.sent.entry(*day).or_default();
            *sent = *sent + *count;
        }

        let kept_from = day.saturating_sub(self.options.keep_days);
        let asking = self.traffic.ask_about(self.traces(kept_from).start..self.traces(day).start);
        let is_done = AtomicBool::new(false);
        let upkeep = async {
            let done = self.upkeep().await;
            is_done.store(true, Ordering::Relaxed);
            done
        };
        let (upkeep, samples) = tokio::join!(upkeep, self.traffic.send(parcels, &is_done));
        let (upkeep, mut samples) = (upkeep?, samples?);
        let all: Count = self.sent.values().copied().sum();
        database::wait_for_rows(&self.calendar.client, all.sum(), LOOK_EVERY, |_| {}).await?;
        database::wait_for_traces(&self.calendar.client, false).await?;
        samples.append(asking.end().await?);
        self.derived.push(Instant::now());

        let worked = Some(upkeep.retention).filter(|_| !upkeep.outcome.dropped.is_empty());
        let (acknowledged, answered) = samples.end_day(worked);
        self.samples.append(samples);
        self.note(&upkeep);
        self.check(day + 1).await?;
        self.count(day, &upkeep, acknowledged, answered).await
    }

    /// Waits until PostgreSQL has counted the rows of the day that is about to go.
    async fn await_counters(&self, day: u32) {
        let going = day.checked_sub(self.options.keep_days + 1).and_then(|going| self.derived.get(going as usize));
        if let Some(derived) = going {
            tokio::time::sleep(COUNTERS_ARE_BEHIND.saturating_sub(derived.elapsed())).await;
        }
    }

    /// What a server does by the hour.
    async fn upkeep(&self) -> Result<Upkeep> {
        let began = Instant::now();
        self.database.make_partitions().await?;
        self.database.forget_errors().await?;
        let retention = Instant::now();
        let run = RetentionRun {
            // The clock was watched for no day, and all that comes is old: that is what a simulation is.
            trust_clock: true,
            shortened_at_once: true,
            settle: self.options.settle,
            ..RetentionRun::default()
        };
        let outcome = self.database.run_retention(&run).await?;
        let retention = (retention, Instant::now());
        self.database.close_partitions().await?;
        Ok(Upkeep { outcome, retention, all: began.elapsed() })
    }

    fn note(&mut self, upkeep: &Upkeep) {
        let kept = upkeep.outcome.dropped.iter().filter(|dropped| dropped.state == "kept").count();
        self.kept += kept as u64;
        self.dropped += (upkeep.outcome.dropped.len() - kept) as u64;
        self.postponed += upkeep.outcome.left.len() as u64;
        let retention = upkeep.retention.1 - upkeep.retention.0;
        self.longest = (self.longest.0.max(upkeep.all), self.longest.1.max(retention));
    }

    /// Every day that is inside the retention must be there.
    async fn check(&self, days: u32) -> Result<()> {
        for day in days.saturating_sub(self.options.keep_days)..days {
            let (sent, stored) = (self.sent_of(day)?, self.calendar.count(day).await?);
            if sent != stored {
                bail!("{}: {sent:?} was acknowledged, and {stored:?} is there", self.calendar.date(day)?);
            }
        }
        Ok(())
    }

    async fn count(&mut self, day: u32, upkeep: &Upkeep, acknowledged: Quantiles, answered: Quantiles) -> Result<()> {
        let held = self.calendar.held().await?;
        let number = day + 1;
        if self.disk.full_from_day.is_none() && !upkeep.outcome.dropped.is_empty() {
            (self.disk.full_from_day, self.disk.bytes_then) = (Some(number), held.bytes);
            self.sizes_then = database::sizes(&self.calendar.client).await?;
        }
        self.disk.most_bytes = self.disk.most_bytes.max(held.bytes);
        self.disk.last_bytes = held.bytes;
        if number.is_multiple_of(self.options.every.max(1)) || number == self.options.days {
            self.days.push(Day {
                day: number,
                date: self.calendar.date(day)?,
                bytes: held.bytes,
                partitions: held.partitions,
                rows: held.rows,
                traces: held.traces,
                dropped: upkeep.outcome.dropped.len(),
                retention_seconds: (upkeep.retention.1 - upkeep.retention.0).as_secs_f64(),
                acknowledged,
                answered,
            });
        }
        Ok(())
    }

    /// The end of the last day: upkeep until nothing is left to do.
    async fn last_midnight(&mut self) -> Result<()> {
        const TRIES: u32 = 5;
        for _ in 0..TRIES {
            tokio::time::sleep(COUNTERS_ARE_BEHIND).await;
            self.calendar.begin(self.options.days).await?;
            let upkeep = self.upkeep().await?;
            self.note(&upkeep);
            let outcome = &upkeep.outcome;
            if outcome.left.is_empty() && outcome.dropped.iter().all(|dropped| dropped.state == "dropped") {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn report(self) -> Result<Report> {
        self.check(self.options.days).await?;
        let mut left = Vec::new();
        for day in 0..self.options.days {
            let stored = self.calendar.count(day).await?;
            if day + self.options.keep_days >= self.options.days || stored != Count::default() {
                left.push(LeftOfDay { date: self.calendar.date(day)?, sent: self.sent_of(day)?, stored });
            }
        }
        let sizes = database::sizes(&self.calendar.client).await?;
        let held = self.calendar.held().await?;
        let grown = grown((&self.sizes_then, self.disk.bytes_then), (&sizes, held.bytes));
        Ok(Report {
            machine: Machine::here(),
            database: database::describe(&self.calendar.client).await?,
            grown: if self.disk.full_from_day.is_some() { grown } else { Vec::new() },
            simulated_days: self.options.days,
            retention_days: self.options.keep_days,
            sent: self.sent.values().copied().sum(),
            left,
            days: self.days,
            disk: self.disk,
            dropped: self.dropped,
            kept: self.kept,
            postponed: self.postponed,
            longest_upkeep_seconds: self.longest.0.as_secs_f64(),
            longest_retention_seconds: self.longest.1.as_secs_f64(),
            refused: self.samples.refused(),
            waits: self.samples.waits(),
            sizes,
        })
    }

    fn sent_of(&self, day: u32) -> Result<Count> {
        Ok(self.sent.get(&self.calendar.number(day)?).copied().unwrap_or_default())
    }

    fn traces(&self, day: u32) -> std::ops::Range<u64> {
        let (a_day, day) = (traces_of_a_day(self.options), u64::from(day));
        day * a_day..(day + 1) * a_day
    }

    /// Minutes of the scenario, spread over the day.
    fn minutes(&self, day: u32) -> Vec<u64> {
        let count = self.options.metric_minutes_per_day.min(MINUTES_OF_A_DAY);
        (0..count).map(|number| u64::from(day) * MINUTES_OF_A_DAY + number * MINUTES_OF_A_DAY / count).collect()
    }
}

/// What takes more than before, the most first. What is no table or index of the schema is the catalogue's.
fn grown((before, bytes_before): (&[Size], u64), (now, bytes_now): (&[Size], u64)) -> Vec<Grown> {
    let of_catalogue = |sizes: &[Size], all: u64| all.saturating_sub(sizes.iter().map(|size| size.bytes).sum());
    let then = |name: &str| before.iter().find(|size| size.name == name).map_or(0, |size| size.bytes);
    let mut grown: Vec<Grown> = now
        .iter()
        .map(|size| Grown { name: size.name.clone(), bytes: size.bytes.saturating_sub(then(&size.name)) })
        .collect();
    let bytes = of_catalogue(now, bytes_now).saturating_sub(of_catalogue(before, bytes_before));
    grown.push(Grown { name: "catalogue of PostgreSQL".to_owned(), bytes });
    grown.retain(|grown| grown.bytes > 0);
    grown.sort_by_key(|grown| std::cmp::Reverse(grown.bytes));
    grown
}

fn traces_of_a_day(options: &Options) -> u64 {
    options.spans_per_day.div_ceil(SPANS_OF_A_TRACE).max(1)
}

/// The start of the first of so many days that end with the last midnight.
fn midnight_before(days: u32) -> Result<Timestamp> {
    const SECONDS_OF_A_DAY: i64 = 24 * 3600;
    let now = Timestamp::now().as_second();
    let start = now - now % SECONDS_OF_A_DAY - SECONDS_OF_A_DAY * i64::from(days);
    Timestamp::from_second(start).context("days before 1970")
}

/// The telemetry of a day as requests, in an order in which each kind is everywhere.
fn parcels(generator: &Generator, traces: std::ops::Range<u64>, minutes: &[u64]) -> Result<Vec<Parcel>> {
    let mut parcels = Vec::new();
    for first in traces.clone().step_by(TRACES_OF_A_REQUEST as usize) {
        let made = generator.requests(first..(first + TRACES_OF_A_REQUEST).min(traces.end));
        parcels.push(Parcel::of_spans(made.traces)?);
        if made.log_records > 0 {
            parcels.push(Parcel::of_logs(made.logs)?);
        }
    }
    let every = (parcels.len() / minutes.len().max(1)).max(1);
    for (number, minute) in minutes.iter().enumerate() {
        let place = (number * (every + 1)).min(parcels.len());
        parcels.insert(place, Parcel::of_points(generator.metrics(*minute..minute + 1))?);
    }
    Ok(parcels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_is_told_with_what_belongs_to_no_table() {
        let size = |name: &str, bytes| Size { name: name.to_owned(), is_index: false, bytes };
        let grown_by = |name: &str, bytes| Grown { name: name.to_owned(), bytes };
        let (before, now) = ([size("a", 10), size("b", 50)], [size("a", 30), size("b", 40), size("c", 5)]);
        assert_eq!(
            grown((&before, 100), (&now, 116)),
            [grown_by("a", 20), grown_by("c", 5), grown_by("catalogue of PostgreSQL", 1)]
        );
    }
}
