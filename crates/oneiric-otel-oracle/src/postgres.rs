//! The database under test: a private PostgreSQL of the run, and what can be done to it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_postgres::{Options, Server};
use rustix::process::Signal;

pub use oneiric_otel_bench::database::connect;

use crate::process;

/// A postmaster that was killed leaves processes that end by themselves; recovery may take longer.
const PATIENCE: Duration = Duration::from_mins(5);

/// A PostgreSQL of our own. Clones are the same.
#[derive(Debug, Clone)]
pub struct Postgres {
    server: Arc<Mutex<Server>>,
    /// Beside the server, which is locked while it starts.
    pid: Arc<AtomicU32>,
}

/// How to stop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Rolls back and writes a checkpoint.
    Fast,
    /// At once; recovers at the next start.
    Immediate,
}

impl Postgres {
    /// Creates and starts it in a directory that its user can enter.
    ///
    /// # Errors
    /// If PostgreSQL is not to be had or does not start.
    pub async fn start(data_dir: PathBuf) -> Result<Self> {
        let start = move || -> Result<Server> {
            let installation = Parts::open_default()?.postgres(&Silent)?;
            Ok(Server::attach_or_start(&Options { installation, data_dir })?)
        };
        let server = tokio::task::spawn_blocking(start).await??;
        let pid = Arc::new(AtomicU32::new(server.pid()));
        Ok(Self { server: Arc::new(Mutex::new(server)), pid })
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection string, over the Unix socket. It holds the password.
    pub fn url(&self) -> String {
        self.server().connection().url()
    }

    /// The same for another database of this server.
    pub fn url_of(&self, database: &str) -> String {
        let url = self.url();
        let (server, parameters) = url.split_once("/otel?").unwrap_or((url.as_str(), ""));
        format!("{server}/{database}?{parameters}")
    }

    /// The connection string through a proxy on this port of the loopback.
    pub fn url_through(&self, port: u16) -> String {
        let server = self.server();
        let connection = server.connection();
        // The password is hex or base64url: nothing in it needs to be encoded.
        format!("postgresql://{}:{}@127.0.0.1:{port}/{}", connection.user, connection.password, connection.database)
    }

    /// The Unix socket it listens on.
    pub fn socket(&self) -> PathBuf {
        let server = self.server();
        let connection = server.connection();
        connection.socket_dir.join(format!(".s.PGSQL.{}", connection.port))
    }

    /// The postmaster, as it was seen last.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Starts it again if it does not run, and waits until it answers.
    ///
    /// # Errors
    /// If it does not start in minutes.
    pub async fn ensure_running(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let this = self.clone();
            let ensured = tokio::task::spawn_blocking(move || {
                let mut server = this.server();
                let started = server.ensure_running();
                this.pid.store(server.pid(), Ordering::Relaxed);
                started
            });
            let error = match ensured.await? {
                Ok(_) => match self.answers().await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            if Instant::now() > deadline {
                return Err(error.context("PostgreSQL does not come back"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn answers(&self) -> Result<()> {
        let client = connect(&self.url()).await?;
        client.simple_query("SELECT 1").await?;
        Ok(())
    }

    /// kill -9 of the postmaster. Its children notice and end. Says whether there was one.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn kill(&self) -> Result<bool> {
        self.end(Signal::KILL).await
    }

    /// Ends the postmaster with a signal. Another fault, such as a full disk, may have ended it already.
    async fn end(&self, signal: Signal) -> Result<bool> {
        self.ensure_running().await?;
        let pid = self.pid();
        if process::send(pid, signal).is_err() {
            return Ok(false);
        }
        gone(pid).await.map(|()| true)
    }

    /// kill -9 of a process that serves a client; PostgreSQL then ends all of them and recovers. Says whether there was
    /// one. `choice` chooses.
    pub fn kill_backend(&self, choice: u64) -> bool {
        let backends: Vec<u32> = process::children(self.pid())
            .into_iter()
            .filter(|child| process::title(*child).contains("[local]"))
            .collect();
        if backends.is_empty() {
            return false;
        }
        let chosen = backends[(choice % backends.len() as u64) as usize];
        // It may have ended since.
        process::send(chosen, Signal::KILL).is_ok()
    }

    /// Stops it. Says whether it ran.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(&self, how: Stop) -> Result<bool> {
        self.end(if how == Stop::Fast { Signal::INT } else { Signal::QUIT }).await
    }

    /// Suspends every process of it, for this long. Says whether it ran.
    ///
    /// # Errors
    /// If it cannot be made to run before.
    pub async fn suspend(&self, duration: Duration) -> Result<bool> {
        self.ensure_running().await?;
        let pid = self.pid();
        let mut suspended = vec![pid];
        if process::send(pid, Signal::STOP).is_err() {
            return Ok(false);
        }
        // With the postmaster suspended there are no new ones.
        for child in process::children(pid) {
            if process::send(child, Signal::STOP).is_ok() {
                suspended.push(child);
            }
        }
        tokio::time::sleep(duration).await;
        for pid in suspended.into_iter().rev() {
            // One that ended meanwhile needs nothing.
            drop(process::send(pid, Signal::CONT));
        }
        Ok(true)
    }
}

async fn gone(pid: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while process::is_alive(pid) {
        if Instant::now() > deadline {
            return Err(anyhow!("process {pid} does not end"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
