//! Server processes under test: started, killed, stopped, and started again.
//!
//! One task owns each process. It publishes where the server listens while it does; a server that ends by itself is
//! counted and started again.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use oneiric_otel_bench::server;
pub use oneiric_otel_bench::server::Addresses;

use crate::process;

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE_AFTER_FAILED_START: Duration = Duration::from_millis(200);

/// What the program under test can be told.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    help: Arc<str>,
}

impl Program {
    /// Asks the program for its help.
    ///
    /// # Errors
    /// If it cannot be run.
    pub async fn look_at(path: &Path) -> Result<Self> {
        let output = Command::new(path).args(["serve", "--help"]).output().await;
        let output = output.with_context(|| format!("run {} serve --help", path.display()))?;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self { path: path.to_owned(), help: help.into() })
    }

    /// Whether `serve` has this option.
    pub fn has(&self, option: &str) -> bool {
        self.help.split_whitespace().any(|word| word.trim_end_matches(',') == option)
    }
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program.
    pub program: Program,
    /// Its `--data-dir`.
    pub data_dir: PathBuf,
    /// Its database; none for the embedded one.
    pub url: Option<String>,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
    /// Where its log is appended.
    pub log: PathBuf,
}

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// kill -9.
    Kill,
    /// SIGTERM, and wait.
    Stop,
    /// SIGTERM, and again after this pause.
    StopTwice(Duration),
}

/// What went wrong or is worth counting.
#[derive(Debug, Default)]
pub struct Incidents {
    /// Times that it ended without being told to, after it was ready.
    pub unexpected_ends: AtomicU64,
    /// Starts that failed before it was ready.
    pub failed_starts: AtomicU64,
    /// SIGTERMs that were not obeyed in time, or not with exit code 0.
    pub bad_stops: Mutex<Vec<String>>,
}

/// A server that is always started again.
#[derive(Debug)]
pub struct Serving {
    commands: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    addresses: watch::Receiver<Option<Addresses>>,
    pid: watch::Receiver<Option<u32>>,
    incidents: Arc<Incidents>,
    task: JoinHandle<Result<()>>,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Restart(End),
    Finish,
}

impl Serving {
    /// Starts it.
    pub fn start(settings: Settings) -> Self {
        let (commands, orders) = mpsc::channel(1);
        let (address_sender, addresses) = watch::channel(None);
        let (pid_sender, pid) = watch::channel(None);
        let incidents = Arc::new(Incidents::default());
        let keeper =
            Keeper { settings, orders, addresses: address_sender, pid: pid_sender, incidents: Arc::clone(&incidents) };
        let task = tokio::spawn(keeper.run());
        Self { commands, addresses, pid, incidents, task }
    }

    /// Where it listens now, if it does.
    pub fn addresses(&self) -> watch::Receiver<Option<Addresses>> {
        self.addresses.clone()
    }

    /// Its process id now, if it is ready.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// What went wrong.
    pub fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If that takes minutes.
    pub async fn ready(&self) -> Result<()> {
        let mut addresses = self.addresses.clone();
        let ready = tokio::time::timeout(PATIENCE, addresses.wait_for(Option::is_some)).await;
        ready
            .map_err(|_| anyhow!("the server was not ready in {PATIENCE:?}; see its log"))?
            .context("its keeper is gone")?;
        Ok(())
    }

    /// Ends it, ready or not, and starts it again. Returns when it has ended.
    ///
    /// # Errors
    /// If it does not end at all.
    pub async fn restart(&self, end: End) -> Result<()> {
        self.order(Order::Restart(end)).await
    }

    /// Ends it with SIGTERM for good.
    ///
    /// # Errors
    /// If it does not end at all.
    pub async fn finish(self) -> Result<()> {
        self.order(Order::Finish).await?;
        self.task.await?
    }

    async fn order(&self, order: Order) -> Result<()> {
        let (done, obeyed) = oneshot::channel();
        self.commands.send((order, done)).await.ok().context("its keeper is gone")?;
        obeyed.await.context("its keeper is gone")
    }
}

struct Keeper {
    settings: Settings,
    orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
    addresses: watch::Sender<Option<Addresses>>,
    pid: watch::Sender<Option<u32>>,
    incidents: Arc<Incidents>,
}

impl Keeper {
    async fn run(mut self) -> Result<()> {
        loop {
            let mut child = self.spawn()?;
            let stdout = child.stdout.take().context("stdout is a pipe")?;
            let pid = child.id();
            let began = Instant::now();
            let order = tokio::select! {
                order = self.orders.recv() => order,
                error = announce(stdout, pid, &self.pid, &self.addresses) => return Err(error),
                status = child.wait() => {
                    self.note_end(status?, began);
                    None
                }
            };
            // Before the ports are free for others.
            let was_ready = self.addresses.send_replace(None).is_some();
            self.pid.send_replace(None);
            let Some((order, done)) = order else {
                if self.orders.is_closed() && self.orders.is_empty() {
                    return Ok(());
                }
                if !was_ready {
                    tokio::time::sleep(PAUSE_AFTER_FAILED_START).await;
                }
                continue;
            };
            let end = match order {
                Order::Restart(end) => end,
                Order::Finish => End::Stop,
            };
            self.end(&mut child, end, was_ready).await?;
            // Whoever ordered may have gone.
            done.send(()).ok();
            if matches!(order, Order::Finish) {
                return Ok(());
            }
        }
    }

    fn spawn(&self) -> Result<Child> {
        let Settings { program, data_dir, url, arguments, log } = &self.settings;
        let log = OpenOptions::new().create(true).append(true).open(log).context("the server's log")?;
        let mut command = server::command(&program.path, data_dir, url.as_deref());
        command.args(arguments).stderr(log);
        command.spawn().with_context(|| format!("start {}", program.path.display()))
    }

    fn note_end(&self, status: ExitStatus, began: Instant) {
        let was_ready = self.addresses.borrow().is_some();
        if was_ready {
            self.incidents.unexpected_ends.fetch_add(1, Ordering::Relaxed);
            let after = began.elapsed();
            self.note_bad_stop(format!("it ended by itself with {status}, {after:.1?} after its start"));
        } else {
            self.incidents.failed_starts.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_bad_stop(&self, text: String) {
        self.incidents.bad_stops.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    async fn end(&self, child: &mut Child, end: End, was_ready: bool) -> Result<()> {
        let Some(pid) = child.id() else { return Ok(()) };
        if end == End::Kill {
            child.kill().await.context("kill the server")?;
            return Ok(());
        }
        // It may have ended this moment.
        drop(process::send(pid, Signal::TERM));
        if let End::StopTwice(pause) = end
            && tokio::time::timeout(pause, child.wait()).await.is_err()
        {
            drop(process::send(pid, Signal::TERM));
        }
        let Ok(status) = tokio::time::timeout(PATIENCE, child.wait()).await else {
            self.note_bad_stop(format!("it did not end within {PATIENCE:?} of SIGTERM"));
            return child.kill().await.context("kill the server");
        };
        let status = status?;
        // Before it is ready, or after a second signal, it ends as a process that a signal ended.
        if was_ready && end == End::Stop && !status.success() {
            self.note_bad_stop(format!("after SIGTERM it ended with {status}"));
        }
        Ok(())
    }
}

/// Publishes the line of JSON that says that the server is ready. Ends only if that line is wrong.
async fn announce(
    stdout: ChildStdout,
    pid: Option<u32>,
    pid_sender: &watch::Sender<Option<u32>>,
    addresses_sender: &watch::Sender<Option<Addresses>>,
) -> anyhow::Error {
    let mut lines = BufReader::new(stdout).lines();
    if let Ok(Some(line)) = lines.next_line().await {
        let addresses: Addresses = match serde_json::from_str(&line) {
            Ok(addresses) => addresses,
            Err(error) => return anyhow!("the server's first line is {line:?}: {error}"),
        };
        pid_sender.send_replace(pid);
        addresses_sender.send_replace(Some(addresses));
        // Nothing more comes until the end.
        drop(lines.next_line().await);
    }
    std::future::pending().await
}
