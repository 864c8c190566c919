//! Clients in Python: the OpenTelemetry SDK, which many users have, and a property tester for HTTP APIs.
//!
//! Each runs in a virtual environment with pinned packages, which is made once and kept in the cache directory of the
//! runtime parts. That needs python3 with venv, and pip's index the first time.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

const REQUIREMENTS: &str = include_str!("../python/requirements.txt");
const TESTER_REQUIREMENTS: &str = include_str!("../python/schemathesis.txt");
/// Written last: an environment without it was interrupted in the making.
const COMPLETE: &str = "complete";

/// How the client speaks to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    HttpProtobuf,
}

impl Protocol {
    /// As `OTEL_EXPORTER_OTLP_PROTOCOL` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// Lets the client send its traces, metrics and logs to `endpoint` (`http://127.0.0.1:4317`, without a path) and
/// returns what it sent, as `python/client.py` describes it. The same seed sends the same spans and log records again.
///
/// # Errors
/// No python3; packages that cannot be installed; a server that did not take everything.
pub async fn run(endpoint: &str, protocol: Protocol, seed: u64) -> Result<Value> {
    run_client(endpoint, protocol, seed, &[], &[]).await
}

/// The same with request bodies compressed by gzip.
///
/// # Errors
/// As [`run`].
pub async fn run_gzip(endpoint: &str, protocol: Protocol, seed: u64) -> Result<Value> {
    run_client(endpoint, protocol, seed, &["--gzip"], &[]).await
}

/// The same with variables of the SDK, such as `OTEL_EXPORTER_OTLP_HEADERS`.
///
/// # Errors
/// As [`run`].
pub async fn run_with(endpoint: &str, protocol: Protocol, seed: u64, variables: &[(&str, &str)]) -> Result<Value> {
    run_client(endpoint, protocol, seed, &[], variables).await
}

async fn run_client(
    endpoint: &str,
    protocol: Protocol,
    seed: u64,
    options: &[&str],
    variables: &[(&str, &str)],
) -> Result<Value> {
    let python = tokio::task::spawn_blocking(|| provide_python(REQUIREMENTS)).await??;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/client.py");
    let mut command = tokio::process::Command::new(python);
    command
        .arg(script)
        .args(["--endpoint", endpoint, "--protocol", protocol.name(), "--seed", &seed.to_string()])
        .args(options)
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, _) in env::vars_os() {
        // Settings of whoever runs the tests must not change what the client does, or whom it trusts.
        let shown = name.to_string_lossy();
        if shown.starts_with("OTEL_") || shown.ends_with("_CA_BUNDLE") {
            command.env_remove(name);
        }
    }
    command.envs(variables.iter().copied());
    let output = command.output().await.context("run the Python client")?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the Python client failed ({}):\n{complaints}", output.status);
    serde_json::from_slice(&output.stdout).context("the Python client printed no JSON")
}

/// Lets schemathesis, a property tester, ask a server what its OpenAPI document says can be asked, and compare the
/// answers with it. `config` is its configuration in TOML; the same seed asks the same.
///
/// # Errors
/// No python3; packages that cannot be installed; an answer that is not as the document says: then the error tells all.
pub async fn schemathesis(document_url: &str, config: &str, seed: u64, options: &[&str]) -> Result<()> {
    let python = tokio::task::spawn_blocking(|| provide_python(TESTER_REQUIREMENTS)).await??;
    let place = tempfile::tempdir()?;
    let config_file = place.path().join("schemathesis.toml");
    fs::write(&config_file, config)?;
    let output = tokio::process::Command::new(python)
        .args(["-m", "schemathesis.cli", "--no-color", "--config-file"])
        .arg(&config_file)
        .args(["run", document_url, "--seed", &seed.to_string()])
        .args(options)
        // It keeps what it has found beside it, and would ask other things the next time.
        .current_dir(place.path())
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run schemathesis")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "schemathesis ({}):\n{said}\n{complaints}", output.status);
    Ok(())
}

/// The interpreter of an environment with the pinned packages. Processes that need it at once make it once.
fn provide_python(pinned: &str) -> Result<PathBuf> {
    let cache = oneiric_otel_parts::Parts::open_default()?.cache_root().to_owned();
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    // An environment belongs to the interpreter that made it.
    let about = Command::new("python3")
        .args(["-c", "import sys; print(sys.version, sys.base_prefix)"])
        .output()
        .context("the tests with the Python SDK need python3 with venv and pip: run python3")?;
    ensure!(about.status.success(), "python3 does not work: {}", String::from_utf8_lossy(&about.stderr));
    let identity = blake3::Hasher::new().update(&about.stdout).update(pinned.as_bytes()).finalize();
    let identity = identity.to_hex();
    let venv = cache.join(format!("test-venv-{}", identity.get(..16).unwrap_or(&identity)));
    let python = venv.join("bin/python");
    if venv.join(COMPLETE).is_file() {
        return Ok(python);
    }
    let lock_path = venv.with_extension("lock");
    let lock = fs::File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("lock {}", lock_path.display()))?;
    // Whoever held the lock before may have made it, or may have been killed over it.
    if !venv.join(COMPLETE).is_file() {
        if venv.exists() {
            fs::remove_dir_all(&venv).with_context(|| format!("remove {}", venv.display()))?;
        }
        run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let requirements = venv.join("requirements.txt");
        fs::write(&requirements, pinned)?;
        run_quietly(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
                .args(["--only-binary=:all:", "--requirement"])
                .arg(&requirements),
        )?;
        fs::write(venv.join(COMPLETE), "")?;
    }
    // Closing the file is what frees the lock.
    drop(lock);
    Ok(python)
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests;
