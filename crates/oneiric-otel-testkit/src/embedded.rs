//! A private PostgreSQL for tests, shared by all test processes of this user on this machine.
//!
//! The first process starts it, the others attach; it stops by itself some seconds after the last of them has ended,
//! however it ended. Its data directory lies beside the runtime parts and stays, so that it is made only once.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_postgres::{Options, Server};
use rustix::fs::{FlockOperation, flock};

use crate::server::Version;

/// How long the server outlives its last user: the pause between two test binaries of one run is shorter.
const LINGER_SECONDS: &str = "5";

/// This process's part in the private server. Kept for the life of the process.
#[derive(Debug)]
pub(crate) struct Embedded {
    server: Server,
    /// Locked shared: this process may use the server. The keeper watches it.
    _use: fs::File,
    _keeper: Child,
}

impl Embedded {
    /// Attaches to the private server of that version, or starts it. The first time ever, this downloads it.
    pub(crate) fn attach(version: Version) -> Result<Self> {
        let parts = Parts::open_default()?;
        let installation = match version {
            Version::V16 => parts.postgres(&Silent)?,
            Version::V18 => parts.postgres18(&Silent)?,
        };
        // A data directory belongs to one installation.
        let identity = blake3::hash(installation.as_os_str().as_encoded_bytes()).to_hex();
        let name = format!("test-postgres-{}", identity.get(..8).unwrap_or(&identity));
        fs::create_dir_all(parts.cache_root())?;
        let users_lock = parts.cache_root().join(format!("{name}.users"));
        let keeper_lock = parts.cache_root().join(format!("{name}.keeper"));
        let users = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&users_lock)?;
        // Waits while a keeper is stopping the server.
        flock(&users, FlockOperation::LockShared).with_context(|| format!("lock {}", users_lock.display()))?;
        let data_dir = parts.cache_root().join(name);
        let server = Server::attach_or_start(&Options { installation, data_dir: data_dir.clone() })?;
        let keeper = start_keeper(&users_lock, &keeper_lock, &data_dir.join("postgres/data"))?;
        Ok(Self { server, _use: users, _keeper: keeper })
    }

    pub(crate) fn url(&self) -> String {
        self.server.connection().url()
    }
}

/// A process that outlives this one. It ends at once if there is a keeper already.
fn start_keeper(users_lock: &Path, keeper_lock: &Path, cluster: &Path) -> Result<Child> {
    Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/keeper.py"))
        .args([users_lock, keeper_lock, cluster])
        .arg(LINGER_SECONDS)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("the private test server needs python3 to be stopped at the end")
}
