//! Runs the binary as a user would, in an environment of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Nothing takes this long unless it hangs. The first run on a machine downloads the parts.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The run must have ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout, which must be one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr),
        }
    }
}

/// A directory that every user can enter: run by root, PostgreSQL is another user.
pub(crate) fn data_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("oneiric-cli-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The binary with no settings but those of `arguments`.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oneiric-otel"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    isolate(&mut command);
    command
}

/// Takes settings of the surroundings away.
pub(crate) fn isolate(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("OTEL_") || ["RUST_LOG", "PGOPTIONS", "PGPASSWORD"].contains(&&*shown) {
            command.env_remove(name);
        }
    }
}

/// Runs to the end.
pub(crate) async fn run(arguments: &[&str]) -> Run {
    finish(command(arguments).spawn().unwrap(), arguments).await
}

/// Runs to the end with a variable.
pub(crate) async fn run_with_variable(arguments: &[&str], name: &str, value: &str) -> Run {
    finish(command(arguments).env(name, value).spawn().unwrap(), arguments).await
}

/// Runs to the end with something on stdin.
pub(crate) async fn run_with_input(arguments: &[&str], input: &[u8]) -> Run {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    finish(child, arguments).await
}

async fn finish(child: Child, arguments: &[&str]) -> Run {
    let Ok(output) = timeout(PATIENCE, child.wait_with_output()).await else {
        panic!("{arguments:?} did not end in {PATIENCE:?}");
    };
    let output = output.unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A server that runs until it is told to stop.
#[derive(Debug)]
pub(crate) struct Serving {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    pub(crate) addresses: serde_json::Value,
    _place: TempDir,
}

impl Serving {
    /// Starts `serve --json` on free ports and waits until it is ready. Its log goes to the test's stderr.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[]).await
    }

    /// The same with variables.
    pub(crate) async fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let free = ["--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--api-addr=127.0.0.1:0"];
        Self::start_on(&free, arguments, variables).await
    }

    /// Starts it again where another one was.
    pub(crate) async fn start_again(addresses: &serde_json::Value, arguments: &[&str]) -> Self {
        let flag = |flag: &str, name: &str| format!("--{flag}={}", addresses[name].as_str().unwrap());
        let ports = [flag("grpc-addr", "grpc_addr"), flag("http-addr", "http_addr"), flag("api-addr", "api_addr")];
        Self::start_on(&ports.each_ref().map(String::as_str), arguments, &[]).await
    }

    async fn start_on(ports: &[&str; 3], arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(&[&["serve", "--json"], &ports[..], arguments].concat());
        // With a database of its own it still needs a place for its spool.
        let place = data_dir();
        if !arguments.contains(&"--data-dir") {
            command.env("OTEL_STORAGE_DATA_DIR", place.path());
        }
        command.envs(variables.iter().copied());
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(PATIENCE, stdout.next_line()).await.unwrap().unwrap();
        let line = line.expect("serve ended before it was ready");
        let addresses = serde_json::from_str(&line).unwrap();
        Self { child, stdout, addresses, _place: place }
    }

    pub(crate) fn address(&self, name: &str) -> String {
        self.addresses[name].as_str().unwrap().to_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Sends SIGTERM.
    pub(crate) async fn terminate(&self) {
        terminate(&self.child).await;
    }

    /// Sends SIGHUP.
    pub(crate) async fn hang_up(&self) {
        self.signal("-HUP").await;
    }

    /// Sends any signal, as `kill` calls it.
    pub(crate) async fn signal(&self, signal: &str) {
        send_signal(&self.child, signal).await;
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for the end and returns the exit code. Nothing more may have come on stdout.
    pub(crate) async fn end(mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert_eq!(self.stdout.next_line().await.unwrap(), None);
        status.code()
    }
}

pub(crate) async fn terminate(child: &Child) {
    send_signal(child, "-TERM").await;
}

async fn send_signal(child: &Child, signal: &str) {
    let pid = child.id().expect("it has not been waited for").to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().await.unwrap();
    assert!(sent.success());
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
