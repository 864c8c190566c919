//! The load as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::load::{Load, Sent};

/// The process that makes and sends the load.
pub(crate) struct Sender {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// One that is on its way.
pub(crate) struct Sending {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Sender {
    /// Starts it and waits until it has made what it can make ahead.
    pub(crate) async fn start(program: &Path, server: SocketAddr, load: Load) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["bench", "load", "--json", "--to", &server.to_string()])
            .args(["--start", &load.start.to_string(), "--first-trace", &load.first_trace.to_string()])
            .args(["--spans", &load.spans.to_string()])
            .args(["--spans-per-request", &load.spans_per_request.to_string()])
            .args(["--connections", &load.connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdin = child.stdin.take().context("stdin is a pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line).await?;
        if line.is_empty() {
            bail!("the sender ended before it was ready");
        }
        Ok(Self { child, stdin, stdout })
    }

    pub(crate) async fn go(mut self) -> Result<Sending> {
        self.stdin.write_all(b"go\n").await?;
        Ok(Sending { child: self.child, stdout: self.stdout })
    }
}

impl Sending {
    pub(crate) async fn finish(mut self) -> Result<Sent> {
        let mut told = String::new();
        self.stdout.read_to_string(&mut told).await?;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the sender ended with {status}");
        }
        serde_json::from_str(&told).with_context(|| format!("the sender said {told:?}"))
    }
}
