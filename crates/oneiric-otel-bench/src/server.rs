//! A server of its own for a benchmark: the product's program as a process, as users run it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::process;

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_mins(5);
/// Settings of the surroundings that would change what is measured.
const FOREIGN_VARIABLES: [&str; 4] = ["OTEL_STORAGE_DATA_DIR", "RUST_LOG", "PGOPTIONS", "PGPASSWORD"];
const URL_VARIABLE: &str = "OTEL_STORAGE_CONNECTION_STRING";

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Addresses {
    /// OTLP over gRPC.
    #[serde(rename = "grpc_addr")]
    pub grpc: SocketAddr,
    /// OTLP over HTTP.
    #[serde(rename = "http_addr")]
    pub http: SocketAddr,
}

/// `serve` on free ports of the loopback, which prints its addresses when it is ready. Without `url` its database is the
/// embedded one of `data_dir`. Its log is to be directed somewhere.
pub fn command(program: &Path, data_dir: &Path, url: Option<&str>) -> Command {
    let mut command = Command::new(program);
    command
        .args(["serve", "--json", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--api-addr=127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for name in FOREIGN_VARIABLES {
        command.env_remove(name);
    }
    // In the environment, because arguments are there for all to see.
    match url {
        Some(url) => command.env(URL_VARIABLE, url),
        None => command.env_remove(URL_VARIABLE),
    };
    command
}

/// A server that is ready.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its process.
    pub pid: u32,
    /// From the start of the process until it said that it is ready.
    pub ready_after: Duration,
}

impl Server {
    /// Starts one and waits until it is ready. What it has to say goes to the file `log`.
    ///
    /// # Errors
    /// If it ends before it is ready, or is not ready in minutes; with the end of what it said.
    pub async fn start(
        program: &Path,
        data_dir: &Path,
        url: Option<&str>,
        arguments: &[String],
        log: &Path,
    ) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let mut command = command(program, data_dir, url);
        command.args(arguments).stderr(file);
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is a pipe")?).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            bail!(
                "the server did not become ready; it said last: {}",
                last.into_iter().rev().collect::<Vec<_>>().join(" | ")
            );
        };
        let ready_after = began.elapsed();
        let addresses = serde_json::from_str(&line).with_context(|| format!("the server's first line is {line:?}"))?;
        let pid = child.id().context("it runs")?;
        Ok(Self { child, addresses, pid, ready_after })
    }

    /// Ends it with SIGTERM and waits for it.
    ///
    /// # Errors
    /// If it does not end in minutes, or says that something went wrong.
    pub async fn stop(mut self) -> Result<()> {
        process::send(self.pid, Signal::TERM)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.with_context(|| format!("the server did not end within {PATIENCE:?} of SIGTERM"))??;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}
