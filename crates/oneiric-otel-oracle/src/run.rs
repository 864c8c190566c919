//! A run: load and faults beside each other, then quiet, then the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bench;
use crate::client::{Behaviour, Client};
use crate::content::{Contents, MAX_CLIENTS, Signal};
use crate::disk::Disk;
use crate::ledger::{Ledger, Tally};
use crate::plan::{self, Event, Fault, Tempo};
use crate::postgres::{self, Postgres, Stop};
use crate::proxy::Proxy;
use crate::serving::{End, Program, Serving, Settings};
use crate::verify::{self, Verdict};

const SPOOL_DISK_BYTES: u64 = 512 << 20;
const SPOOL_BYTES: u64 = 256 << 20;
const DATABASE_DISK_BYTES: u64 = 12 << 30;
const MIN_FREE_BYTES: u64 = 64 << 20;
/// After the faults, clients have this long to get what they have begun acknowledged.
const FINISH_WITHIN: Duration = Duration::from_mins(5);
/// How long the database may stay as it is before what is missing is called lost. A circuit breaker is open for a
/// minute, a trace that cannot be derived waits longer.
const QUIET_FOR: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A fault that takes longer than it should is mentioned.
const LONG_FAULT: Duration = Duration::from_secs(20);
/// How long a cut waits for traffic.
const CUT_WITHIN: Duration = Duration::from_secs(10);

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program under test.
    pub program: PathBuf,
    /// How long load and faults last.
    pub length: Duration,
    /// What the plan and all contents follow from.
    pub seed: u64,
    /// What goes wrong.
    pub faults: BTreeSet<Fault>,
    /// How often.
    pub tempo: Tempo,
    /// How many clients, 1 to 1024.
    pub clients: u16,
    /// How many servers on the one database, 1 or 2.
    pub servers: usize,
    /// Whether the server runs its embedded PostgreSQL. Needs one server; connections cannot be cut then.
    pub embedded: bool,
    /// `--ack` of the servers.
    pub ack: Option<String>,
    /// Items a second that the clients try to send together; 0 for as many as are acknowledged.
    pub items_per_second: u32,
    /// Where everything is kept after the run; a temporary directory otherwise.
    pub keep: Option<PathBuf>,
    /// Whether to say on stderr how it goes.
    pub progress: bool,
}

/// How often a fault was planned and came about.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Injected {
    /// In the plan.
    pub planned: u64,
    /// Came about.
    pub injected: u64,
    /// Why it did not, if it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Repeats the plan.
    pub seed: u64,
    /// Seconds of load and faults.
    pub seconds: u64,
    /// Servers on the database.
    pub servers: usize,
    /// Clients.
    pub clients: u16,
    /// `--ack`, where the program has it.
    pub ack: Option<String>,
    /// By fault.
    pub faults: BTreeMap<Fault, Injected>,
    /// What the clients saw.
    pub tally: Tally,
    /// What is in the database.
    pub verdict: Verdict,
    /// Times that a server ended without being told to.
    pub unexpected_ends: u64,
    /// Starts of servers that failed.
    pub failed_starts: u64,
    /// What else was odd about the servers.
    pub incidents: Vec<String>,
    /// Where logs and database were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Whether the promises were kept.
    pub fn is_good(&self) -> bool {
        self.verdict.is_good() && self.unexpected_ends == 0
    }
}

type Counters = Arc<Mutex<BTreeMap<Fault, Injected>>>;

/// Everything that faults are injected into.
#[derive(Debug)]
pub struct Stage {
    servers: Vec<Serving>,
    settings: Vec<Settings>,
    proxies: Vec<Proxy>,
    postgres: Postgres,
    spool_disks: Vec<Disk>,
    database_disk: Option<Disk>,
    /// Dropped last: the directories that everything above lies in.
    dir: Directory,
}

#[derive(Debug)]
enum Directory {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }
}

/// Does a run.
///
/// # Errors
/// If something that is not under test fails, or a server does not start or end.
pub async fn run(options: &Options) -> Result<Report> {
    let began = Instant::now();
    let (ended, ledger) = Stage::play(options).await?;
    say(options, began, || "comparing".to_owned());
    let verdict = verify::verify(&ended.url(), Contents::new(options.seed), &ledger).await?;
    let kept = match &ended.dir {
        Directory::Kept(path) => Some(path.clone()),
        Directory::Temporary(_) => None,
    };
    Ok(Report {
        seed: options.seed,
        seconds: options.length.as_secs(),
        servers: options.servers,
        clients: options.clients,
        ack: ended.ack,
        faults: ended.faults,
        tally: ledger.tally(),
        verdict,
        unexpected_ends: ended.incidents.unexpected_ends,
        failed_starts: ended.incidents.failed_starts,
        incidents: ended.incidents.texts,
        kept,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change(counters: &Counters, fault: Fault, change: impl FnOnce(&mut Injected)) {
    change(lock(counters).entry(fault).or_default());
}

fn say(options: &Options, began: Instant, text: impl FnOnce() -> String) {
    if options.progress {
        #[expect(clippy::print_stderr, reason = "progress of a long run")]
        {
            eprintln!("{:>5} s: {}", began.elapsed().as_secs(), text());
        }
    }
}

fn start_clients(
    options: &Options,
    faults: &BTreeSet<Fault>,
    stage: &Stage,
    ledger: &Arc<Ledger>,
) -> (watch::Sender<bool>, JoinSet<Result<()>>) {
    let (sender, ending) = watch::channel(false);
    let mut clients = JoinSet::new();
    // A request has some 18 items on average.
    let pace = match options.items_per_second {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64(18.0 * f64::from(options.clients) / f64::from(rate)),
    };
    let behaviour = Behaviour {
        impatient: faults.contains(&Fault::ClientTimeouts),
        confused: faults.contains(&Fault::ClientResends),
        pace,
    };
    for number in 0..options.clients {
        let client = Client {
            number,
            contents: Contents::new(options.seed),
            seed: options.seed,
            servers: stage.servers.iter().map(Serving::addresses).collect(),
            ledger: Arc::clone(ledger),
            behaviour,
            ending: ending.clone(),
        };
        clients.spawn(client.run());
    }
    (sender, clients)
}

/// Waits until they have their acknowledgements.
async fn finish_clients(options: &Options, began: Instant, clients: &mut JoinSet<Result<()>>) -> Result<()> {
    let finished = tokio::time::timeout(FINISH_WITHIN, async {
        while let Some(joined) = clients.join_next().await {
            joined??;
        }
        anyhow::Ok(())
    });
    if let Ok(result) = finished.await {
        return result;
    }
    say(options, began, || format!("{} clients had no acknowledgement in {FINISH_WITHIN:?}", clients.len()));
    clients.shutdown().await;
    Ok(())
}

async fn watch_load(options: &Options, began: Instant, ledger: &Ledger, counters: &Counters) {
    const EVERY: Duration = Duration::from_secs(10);
    while let Some(left) = options.length.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(EVERY)).await;
        say(options, began, || {
            let tally = ledger.tally();
            let faults: u64 = lock(counters).values().map(|injected| injected.injected).sum();
            format!(
                "{} items sent, {} acknowledged, {} deliveries refused or lost, {faults} faults",
                tally.items,
                tally.items_acknowledged,
                tally.refused.values().sum::<u64>(),
            )
        });
    }
}

async fn inject_all(
    stage: Arc<Stage>,
    options: Options,
    events: Vec<Event>,
    began: Instant,
    counters: Counters,
) -> Result<()> {
    for event in events {
        tokio::time::sleep((began + event.at).saturating_duration_since(Instant::now())).await;
        if began.elapsed() >= options.length {
            break;
        }
        let injecting = Instant::now();
        let injected = stage.inject(&event).await.with_context(|| format!("inject {}", event.fault))?;
        let took = injecting.elapsed();
        if took > event.duration + LONG_FAULT {
            say(&options, began, || format!("{} at {:.1?} took {took:.1?}", event.fault, event.at));
        }
        if injected {
            change(&counters, event.fault, |counter| counter.injected += 1);
        }
    }
    Ok(())
}

fn note_client_faults(faults: &BTreeSet<Fault>, tally: &Tally, counters: &Counters) {
    let counts = [
        (Fault::ClientTimeouts, tally.impatient),
        (Fault::ClientResends, tally.sent_after_acknowledgement + tally.given_up),
    ];
    for (fault, count) in counts {
        if faults.contains(&fault) {
            change(counters, fault, |injected| *injected = Injected { planned: count, injected: count, skipped: None });
        }
    }
}

impl Stage {
    /// Load and faults, then quiet: everything of a run but the verdict. The servers have ended, PostgreSQL runs.
    ///
    /// # Errors
    /// If something that is not under test fails, or a server does not start or end.
    pub async fn play(options: &Options) -> Result<(Ended, Arc<Ledger>)> {
        if options.clients == 0 || options.clients > MAX_CLIENTS {
            bail!("clients: expected 1 to {MAX_CLIENTS}, found {}", options.clients);
        }
        if options.embedded && options.servers != 1 {
            bail!("an embedded PostgreSQL has one server here, not {}", options.servers);
        }
        let counters: Counters = Arc::default();
        let mut faults = options.faults.clone();
        let stage = Arc::new(Self::set(options, &mut faults, &counters).await?);
        let ledger = Arc::new(Ledger::default());
        for server in &stage.servers {
            server.ready().await?;
        }

        let (ending, mut clients) = start_clients(options, &faults, &stage, &ledger);
        let began = Instant::now();
        let plan = plan::make(options.seed, options.length, &faults, options.servers, options.tempo);
        let mut lanes = JoinSet::new();
        for events in plan.into_values() {
            for event in &events {
                change(&counters, event.fault, |injected| injected.planned += 1);
            }
            lanes.spawn(inject_all(Arc::clone(&stage), options.clone(), events, began, Arc::clone(&counters)));
        }
        watch_load(options, began, &ledger, &counters).await;
        ending.send_replace(true);
        while let Some(joined) = lanes.join_next().await {
            joined??;
        }
        stage.lift_everything().await?;
        say(options, began, || "the faults are over".to_owned());
        finish_clients(options, began, &mut clients).await?;

        note_client_faults(&faults, &ledger.tally(), &counters);
        let faults = lock(&counters).clone();
        let stage = Arc::into_inner(stage).context("the lanes have ended")?;
        let ended = stage.end(options, began, &ledger, faults).await?;
        Ok((ended, ledger))
    }

    /// Puts everything up. Takes the faults that this machine cannot have out of `faults`.
    async fn set(options: &Options, faults: &mut BTreeSet<Fault>, counters: &Counters) -> Result<Self> {
        let dir = match &options.keep {
            Some(parent) => {
                std::fs::create_dir_all(parent)?;
                Directory::Kept(bench::directory(Some(parent))?.keep())
            }
            None => Directory::Temporary(bench::directory(None)?),
        };
        let program = Program::look_at(&options.program).await?;
        let mut skip = |fault: Fault, reason: String| {
            if faults.remove(&fault) {
                change(counters, fault, |injected| injected.skipped = Some(reason));
            }
        };
        if options.embedded {
            for fault in [Fault::ConnectionCut, Fault::CommitLost, Fault::SlowDatabase] {
                skip(fault, "there is no way to an embedded PostgreSQL to put a proxy into".to_owned());
            }
        }
        if !program.has("--ack") {
            skip(Fault::SpoolDiskFull, "the program has no spool".to_owned());
        }
        let database_dir = bench::subdirectory(dir.path(), "database")?;
        let mut database_disk = None;
        if options.faults.contains(&Fault::DatabaseDiskFull) {
            match Disk::mount(&database_dir, DATABASE_DISK_BYTES) {
                Ok(disk) => database_disk = Some(disk),
                Err(error) => skip(Fault::DatabaseDiskFull, format!("no tmpfs can be mounted: {error:#}")),
            }
        }
        let mut server_dirs = Vec::new();
        let mut spool_disks = Vec::new();
        for index in 0..options.servers {
            if options.embedded {
                server_dirs.push(database_dir.clone());
                skip(Fault::SpoolDiskFull, "the spool is on the disk of the embedded PostgreSQL".to_owned());
                continue;
            }
            let server_dir = bench::subdirectory(dir.path(), &format!("server-{index}"))?;
            if options.faults.contains(&Fault::SpoolDiskFull) && program.has("--ack") {
                match Disk::mount(&server_dir, SPOOL_DISK_BYTES) {
                    Ok(disk) => spool_disks.push(disk),
                    Err(error) => skip(Fault::SpoolDiskFull, format!("no tmpfs can be mounted: {error:#}")),
                }
            }
            server_dirs.push(server_dir);
        }

        let postgres = Postgres::start(database_dir).await?;
        let mut arguments = Vec::new();
        if let Some(ack) = &options.ack {
            if !program.has("--ack") {
                bail!("{} serve has no --ack", options.program.display());
            }
            arguments.push(format!("--ack={ack}"));
        }
        for (option, bytes) in [("--spool-max-bytes", SPOOL_BYTES), ("--min-free-bytes", MIN_FREE_BYTES)] {
            if program.has(option) {
                arguments.push(format!("{option}={bytes}"));
            }
        }
        let mut stage = Self {
            servers: Vec::new(),
            settings: Vec::new(),
            proxies: Vec::new(),
            postgres,
            spool_disks,
            database_disk,
            dir,
        };
        for (index, data_dir) in server_dirs.into_iter().enumerate() {
            let url = if options.embedded {
                None
            } else {
                let proxy = Proxy::start(&stage.postgres.socket()).await?;
                let url = stage.postgres.url_through(proxy.port());
                stage.proxies.push(proxy);
                Some(url)
            };
            let log = stage.dir.path().join(format!("server-{index}.log"));
            let settings = Settings { program: program.clone(), data_dir, url, arguments: arguments.clone(), log };
            stage.servers.push(Serving::start(settings.clone()));
            stage.settings.push(settings);
        }
        Ok(stage)
    }

    /// Injects a fault and lifts it. Says whether it came about.
    async fn inject(&self, event: &Event) -> Result<bool> {
        let server = self.servers.get(event.server).context("no such server")?;
        match event.fault {
            Fault::ServerKill => self.kill(server, event).await,
            Fault::ServerStop => server.restart(End::Stop).await.map(|()| true),
            Fault::ServerStopTwice => {
                let pause = Duration::from_millis(event.choice % 400);
                server.restart(End::StopTwice(pause)).await.map(|()| true)
            }
            Fault::PostgresKill => {
                let killed = self.postgres.kill().await?;
                self.postgres.ensure_running().await.map(|()| killed)
            }
            Fault::BackendKill => Ok(self.postgres.kill_backend(event.choice)),
            Fault::PostgresRestart => {
                let stopped = self.postgres.stop(Stop::Immediate).await?;
                self.postgres.ensure_running().await.map(|()| stopped)
            }
            Fault::PostgresStop => {
                let stopped = self.postgres.stop(Stop::Fast).await?;
                tokio::time::sleep(event.duration).await;
                self.postgres.ensure_running().await.map(|()| stopped)
            }
            Fault::PostgresHang => self.postgres.suspend(event.duration).await,
            Fault::ConnectionCut => {
                let bytes = event.choice % 400_000;
                self.cut(event, |proxy| proxy.cut_after(bytes)).await
            }
            Fault::CommitLost => self.cut(event, Proxy::lose_commit).await,
            Fault::SlowDatabase => {
                let proxy = self.proxies.get(event.server).context("no such proxy")?;
                proxy.slow_down(Duration::from_millis(1 + event.choice % 200));
                tokio::time::sleep(event.duration).await;
                proxy.behave();
                Ok(true)
            }
            Fault::SpoolDiskFull => {
                let disk = self.spool_disks.get(event.server).context("no such disk")?;
                full(disk, event.duration).await.map(|()| true)
            }
            Fault::DatabaseDiskFull => {
                full(self.database_disk.as_ref().context("no such disk")?, event.duration).await?;
                self.postgres.ensure_running().await.map(|()| true)
            }
            Fault::ClientTimeouts | Fault::ClientResends => Ok(false),
        }
    }

    /// Mostly a server that is ready; sometimes one that is starting.
    async fn kill(&self, server: &Serving, event: &Event) -> Result<bool> {
        if !event.choice.is_multiple_of(5) {
            // It may be a while until it is, if the database is away; killing it all the same is as good a fault.
            drop(tokio::time::timeout(CUT_WITHIN, server.ready()).await);
            tokio::time::sleep(Duration::from_millis(event.choice / 5 % 500)).await;
        }
        server.restart(End::Kill).await?;
        Ok(true)
    }

    async fn cut(&self, event: &Event, cut: impl FnOnce(&Proxy)) -> Result<bool> {
        let proxy = self.proxies.get(event.server).context("no such proxy")?;
        let before = proxy.cuts();
        cut(proxy);
        let deadline = Instant::now() + CUT_WITHIN;
        while proxy.cuts() == before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.behave();
        Ok(proxy.cuts() > before)
    }

    async fn lift_everything(&self) -> Result<()> {
        for disk in self.spool_disks.iter().chain(&self.database_disk) {
            disk.free()?;
        }
        self.proxies.iter().for_each(Proxy::behave);
        self.postgres.ensure_running().await?;
        for server in &self.servers {
            server.ready().await?;
        }
        Ok(())
    }

    /// Waits until everything acknowledged is stored and derived, and ends the servers.
    async fn end(
        mut self,
        options: &Options,
        began: Instant,
        ledger: &Ledger,
        faults: BTreeMap<Fault, Injected>,
    ) -> Result<Ended> {
        const ROUNDS: usize = 3;
        let mut ended = Incidents::default();
        for _ in 0..ROUNDS {
            let settled = settle(&self.postgres.url(), ledger).await?;
            say(options, began, || format!("quiet: {settled:?}"));
            for server in std::mem::take(&mut self.servers) {
                ended.add(&server);
                server.finish().await?;
            }
            // What a server wrote while it ended is derived by the next one.
            self.postgres.ensure_running().await?;
            let after = State::look(&self.postgres.url()).await?;
            if after.waiting == 0 {
                break;
            }
            self.servers = self.settings.iter().cloned().map(Serving::start).collect();
            for server in &self.servers {
                server.ready().await?;
            }
        }
        let ack = options.ack.clone().or_else(|| {
            self.settings.first().filter(|settings| settings.program.has("--ack")).map(|_| "default".to_owned())
        });
        Ok(Ended {
            postgres: self.postgres,
            _disks: (self.spool_disks, self.database_disk),
            dir: self.dir,
            ack,
            faults,
            incidents: ended,
        })
    }
}

async fn full(disk: &Disk, duration: Duration) -> Result<()> {
    disk.fill()?;
    tokio::time::sleep(duration).await;
    disk.free()
}

/// What is left of a stage when the servers are gone.
#[derive(Debug)]
pub struct Ended {
    postgres: Postgres,
    _disks: (Vec<Disk>, Option<Disk>),
    dir: Directory,
    ack: Option<String>,
    faults: BTreeMap<Fault, Injected>,
    incidents: Incidents,
}

impl Ended {
    /// The database.
    pub fn url(&self) -> String {
        self.postgres.url()
    }
}

#[derive(Debug, Default)]
struct Incidents {
    unexpected_ends: u64,
    failed_starts: u64,
    texts: Vec<String>,
}

impl Incidents {
    fn add(&mut self, server: &Serving) {
        let incidents = server.incidents();
        self.unexpected_ends += incidents.unexpected_ends.load(Ordering::Relaxed);
        self.failed_starts += incidents.failed_starts.load(Ordering::Relaxed);
        self.texts.extend(lock(&incidents.bad_stops).clone());
    }
}

/// How much is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    spans: i64,
    logs: i64,
    points: i64,
    /// Traces that wait to be derived.
    waiting: i64,
}

impl State {
    async fn look(url: &str) -> Result<Self> {
        let client = postgres::connect(url).await?;
        let sql = "SELECT (SELECT count(*) FROM otel.otel_spans), (SELECT count(*) FROM otel.otel_logs),
                          (SELECT count(*) FROM otel.otel_metrics), (SELECT count(*) FROM otel.otel_trace_touches)";
        let row = client.query_one(sql, &[]).await?;
        Ok(Self { spans: row.get(0), logs: row.get(1), points: row.get(2), waiting: row.get(3) })
    }
}

/// Waits until as many rows are there as items were acknowledged and every trace is derived, or until nothing has moved
/// for minutes. What is missing then, the verification names.
async fn settle(url: &str, ledger: &Ledger) -> Result<State> {
    let mut acknowledged = BTreeMap::new();
    for sent in ledger.requests().values().flatten().filter(|sent| sent.acknowledged) {
        *acknowledged.entry(format!("{:?}", sent.signal)).or_insert(0) += i64::from(sent.items);
    }
    let of = |signal: Signal| acknowledged.get(&format!("{signal:?}")).copied().unwrap_or(0);
    let mut last = None;
    let mut since = Instant::now();
    loop {
        let state = State::look(url).await?;
        let complete = state.spans >= of(Signal::Traces)
            && state.logs >= of(Signal::Logs)
            && state.points >= of(Signal::Metrics)
            && state.waiting == 0;
        if last != Some(state) {
            last = Some(state);
            since = Instant::now();
        } else if complete || since.elapsed() > QUIET_FOR {
            return Ok(state);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
