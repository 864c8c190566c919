//! The server as its users see it: started by the first, shared by all, stopped by the last.
//!
//! Every user holds a shared lock on `users.lock`. Who lets go of it tries to get it exclusively; who succeeds was the
//! last and stops the server. A killed process loses its lock without stopping anything; the next user finds the
//! server running and is then its keeper like any other. Decisions about start and stop are made one at a time, under
//! the exclusive `start.lock`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use crate::account::Account;
use crate::cluster::{self, DATABASE, READER, USER};
use crate::connection::ConnectionInfo;
use crate::error::PostgresError;
use crate::installation::Installation;
use crate::layout::{Layout, PORT, make_server_dir};
use crate::lock::Lock;
use crate::postmaster::{self, Observation, PidFile};
use crate::server_log;
use crate::settings::{self, Machine};

/// The user to drop to when root starts the server.
const USER_VARIABLE: &str = "ONEIRIC_OTEL_POSTGRES_USER";
/// Recovery after a crash replays up to `max_wal_size`; on a slow disk that takes minutes.
const START_SECONDS: u64 = 900;
/// Who leaves does not wait long for a server that hangs: the next user will deal with it.
const SETTLE_SECONDS: u64 = 30;
/// Orphans of a killed server end by themselves, usually at once.
const ORPHANS_GONE_WITHIN: Duration = Duration::from_mins(1);
const TRIM_LOG_EVERY: Duration = Duration::from_secs(30);

/// What a server is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// A PostgreSQL installation: the directory that contains `bin/`.
    pub installation: PathBuf,
    /// Where the database lives, in a subdirectory `postgres/`. Created if missing.
    pub data_dir: PathBuf,
}

/// What is known about the server of a data directory, from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// There is no database.
    NotInitialised,
    /// There is a database, and no server runs.
    Stopped {
        /// The major version of PostgreSQL that it belongs to, as in "16".
        version: String,
    },
    /// A server runs.
    Running {
        /// The process id of the postmaster.
        pid: u32,
        /// The major version of PostgreSQL, as in "16".
        version: String,
        /// When it was started, to the second. `None` while it is starting or stopping.
        since: Option<SystemTime>,
    },
}

/// A running server, and this process's share in it. Dropping it is letting go: see [`Server::release`].
#[derive(Debug)]
pub struct Server {
    layout: Layout,
    installation_dir: PathBuf,
    connection: ConnectionInfo,
    pid: u32,
    started_by_us: bool,
    /// Locked shared; `None` once released.
    share: Option<Lock>,
    janitor: Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Server {
    /// Attaches to the server of the data directory; starts it if none runs; creates the database if there is none.
    /// Blocks until it takes connections: typically a tenth of a second for a start, two seconds for a creation, more
    /// when it recovers from a crash.
    ///
    /// # Errors
    /// Every variant of [`PostgresError`]; the texts say what to do.
    pub fn attach_or_start(options: &Options) -> Result<Self, PostgresError> {
        let layout = Layout::create(&options.data_dir)?;
        let deciding = lock_decisions(&layout)?;
        let share = lock_share(&layout)?;
        let (file, started_by_us) = bring_up(&layout, &options.installation)?;
        drop(deciding);
        Self::new(layout, &file, started_by_us, share)
    }

    /// Attaches to the server of the data directory if one runs.
    ///
    /// # Errors
    /// If files cannot be read, or a server is neither up nor down for minutes.
    pub fn attach(data_dir: &Path) -> Result<Option<Self>, PostgresError> {
        let Some(layout) = existing(data_dir)? else { return Ok(None) };
        let deciding = lock_decisions(&layout)?;
        let Observation::Ready(file) = postmaster::settle(&layout, START_SECONDS)? else { return Ok(None) };
        let share = lock_share(&layout)?;
        drop(deciding);
        Self::new(layout, &file, false, share).map(Some)
    }

    /// What is there, without touching it.
    ///
    /// # Errors
    /// If files cannot be read.
    pub fn status(data_dir: &Path) -> Result<Status, PostgresError> {
        let Some(layout) = existing(data_dir)? else { return Ok(Status::NotInitialised) };
        let version = layout.cluster_version()?;
        Ok(match postmaster::observe(&layout)? {
            Observation::Stopped { .. } => Status::Stopped { version },
            Observation::Changing { pid } => Status::Running { pid: pid.unsigned_abs(), version, since: None },
            Observation::Ready(file) => {
                Status::Running { pid: file.pid.unsigned_abs(), version, since: Some(file.since) }
            }
        })
    }

    fn new(layout: Layout, file: &PidFile, started_by_us: bool, share: Lock) -> Result<Self, PostgresError> {
        let connection = connection_info(&layout, file)?;
        let installation_dir = running_installation(&layout)?;
        let janitor = start_janitor(&layout);
        let pid = file.pid.unsigned_abs();
        Ok(Self { layout, installation_dir, connection, pid, started_by_us, share: Some(share), janitor })
    }

    /// How to connect.
    pub fn connection(&self) -> &ConnectionInfo {
        &self.connection
    }

    /// How to connect as a role with fewer rights. Its name and password are the same for everybody who asks, the password
    /// is drawn for the first; to make a role of that name with that password is up to the caller.
    ///
    /// # Errors
    /// If the file with the password can be neither read nor written.
    pub fn reader_connection(&self) -> Result<ConnectionInfo, PostgresError> {
        let deciding = lock_decisions(&self.layout)?;
        let password = cluster::make_password(&self.layout.root, &self.layout.reader_password)?;
        drop(deciding);
        Ok(ConnectionInfo { user: READER.to_owned(), password, ..self.connection.clone() })
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this call, and not an earlier user, started the server.
    pub fn started_by_us(&self) -> bool {
        self.started_by_us
    }

    /// Where the server writes its log.
    pub fn log_dir(&self) -> &Path {
        &self.layout.log_dir
    }

    /// The psql of the installation, or the one in `PATH` if it has none, set up to connect. Arguments may be added.
    pub fn psql_command(&self) -> Command {
        let bundled = self.installation_dir.join("bin/psql");
        let mut command = if bundled.is_file() { Command::new(bundled) } else { Command::new("psql") };
        // Settings of the caller for other databases.
        for name in ["PGHOSTADDR", "PGSERVICE", "PGSSLMODE", "PGOPTIONS", "PGPASSFILE", "PGREQUIREAUTH"] {
            command.env_remove(name);
        }
        command
            .env("PGHOST", &self.connection.socket_dir)
            .env("PGPORT", self.connection.port.to_string())
            .env("PGUSER", &self.connection.user)
            .env("PGPASSWORD", &self.connection.password)
            .env("PGDATABASE", &self.connection.database);
        command
    }

    /// Whether the server is up and answers, at most five seconds later.
    ///
    /// # Errors
    /// [`PostgresError::Unresponsive`] if not.
    pub fn check_health(&self) -> Result<(), PostgresError> {
        let reason = match postmaster::observe(&self.layout)? {
            Observation::Ready(_) => return Ok(()),
            Observation::Changing { .. } => "it is starting, stopping or hanging",
            Observation::Stopped { .. } => "it is not running",
        };
        Err(PostgresError::Unresponsive { socket_dir: self.connection.socket_dir.clone(), reason })
    }

    /// Starts the server again if it has died; it recovers what was committed. Says whether that was needed.
    ///
    /// # Errors
    /// As [`Server::attach_or_start`].
    pub fn ensure_running(&mut self) -> Result<bool, PostgresError> {
        let deciding = lock_decisions(&self.layout)?;
        let (file, started) = bring_up(&self.layout, &self.installation_dir)?;
        drop(deciding);
        self.connection = connection_info(&self.layout, &file)?;
        self.pid = file.pid.unsigned_abs();
        Ok(started)
    }

    /// Lets go of the server, and stops it if nobody else uses it. Open transactions are then rolled back; blocks
    /// until it has stopped.
    ///
    /// # Errors
    /// If the server cannot be stopped. It then keeps running, and the next user takes it over.
    pub fn release(mut self) -> Result<(), PostgresError> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), PostgresError> {
        if let Some((stop, thread)) = self.janitor.take() {
            drop(stop);
            if thread.join().is_err() {
                tracing::warn!("the thread that trims the database server's log has panicked");
            }
        }
        let Some(share) = self.share.take() else { return Ok(()) };
        let _deciding = lock_decisions(&self.layout)?;
        drop(share);
        let users = self.layout.open_users_lock()?;
        let Some(_last) = Lock::try_exclusive(users, &self.layout.root)? else { return Ok(()) };
        server_log::trim(&self.layout.log_dir);
        match postmaster::settle(&self.layout, SETTLE_SECONDS)? {
            Observation::Ready(file) => postmaster::stop(&self.layout, &file),
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.let_go() {
            tracing::warn!(%error, "the database server could not be released");
        }
    }
}

/// The layout of a data directory with a database.
fn existing(data_dir: &Path) -> Result<Option<Layout>, PostgresError> {
    match Layout::of(data_dir) {
        Ok(layout) if layout.is_initialised()? => Ok(Some(layout)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PostgresError::io("use", data_dir)(error)),
    }
}

fn connection_info(layout: &Layout, file: &PidFile) -> Result<ConnectionInfo, PostgresError> {
    Ok(ConnectionInfo {
        socket_dir: file.socket_dir.clone(),
        port: file.port,
        user: USER.to_owned(),
        password: layout.read_password()?,
        database: DATABASE.to_owned(),
    })
}

/// The installation that the running server came from: it wrote its command line down.
fn running_installation(layout: &Layout) -> Result<PathBuf, PostgresError> {
    let path = layout.cluster.join("postmaster.opts");
    let text = fs::read_to_string(&path).map_err(PostgresError::io("read", &path))?;
    let program = text.split(" \"").next().unwrap_or_default().trim();
    Ok(Path::new(program).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned())
}

fn lock_decisions(layout: &Layout) -> Result<Lock, PostgresError> {
    Lock::exclusive(layout.open_start_lock()?, &layout.root)
}

/// Does not have to wait: who locks exclusively holds the start lock, and so does the caller.
fn lock_share(layout: &Layout) -> Result<Lock, PostgresError> {
    Lock::shared(layout.open_users_lock()?, &layout.root)
}

/// Keeps the log within bounds while the server is used. Without a thread it is trimmed at the end only.
fn start_janitor(layout: &Layout) -> Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)> {
    let (stop, stopped) = mpsc::channel::<()>();
    let log_dir = layout.log_dir.clone();
    let run = move || {
        loop {
            server_log::trim(&log_dir);
            if stopped.recv_timeout(TRIM_LOG_EVERY) != Err(mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
    };
    match std::thread::Builder::new().name("postgres-log".to_owned()).spawn(run) {
        Ok(thread) => Some((stop, thread)),
        Err(error) => {
            tracing::warn!(%error, "no thread to trim the database server's log");
            None
        }
    }
}

/// A server that takes connections, and whether it had to be started. The caller holds the start lock.
fn bring_up(layout: &Layout, installation: &Path) -> Result<(PidFile, bool), PostgresError> {
    let stale_pid = match postmaster::settle(layout, START_SECONDS)? {
        Observation::Ready(file) => return Ok((file, false)),
        Observation::Stopped { stale_pid } => stale_pid,
        // settle() waits as long as this is so.
        Observation::Changing { pid } => Some(pid),
    };
    let wanted = std::env::var(USER_VARIABLE).ok().filter(|name| !name.is_empty());
    let account = Account::choose(&layout.cluster, wanted.as_deref())?;
    let installation = Installation::check(installation, &account)?;
    cluster::ensure(layout, &installation, &account)?;
    let data_version = layout.cluster_version()?;
    if data_version != installation.major.to_string() {
        return Err(PostgresError::Version {
            data_dir: layout.cluster.clone(),
            data_version,
            installation: installation.dir,
            installed_version: installation.major,
        });
    }
    account.check_reaches(&layout.cluster, "--data-dir")?;
    start(layout, &installation, &account, stale_pid).map(|file| (file, true))
}

fn start(
    layout: &Layout,
    installation: &Installation,
    account: &Account,
    stale_pid: Option<i32>,
) -> Result<PidFile, PostgresError> {
    make_server_dir(&layout.log_dir, account)?;
    let socket_dir = layout.make_socket_dir(account)?;
    write_settings(layout, account)?;
    if let Some(pid) = stale_pid {
        postmaster::neutralise_stale_pid(layout, pid)?;
    }
    remove_dead_socket(&socket_dir)?;
    let deadline = Instant::now() + ORPHANS_GONE_WITHIN;
    loop {
        let output = run_pg_ctl(layout, installation, account, &socket_dir)?;
        if let Observation::Ready(file) = postmaster::settle(layout, START_SECONDS)? {
            return Ok(file);
        }
        let log = server_log::tail(&layout.log_dir);
        if log.contains("pre-existing shared memory block") && Instant::now() < deadline {
            tracing::info!("waiting for the last processes of a killed database server to end");
            std::thread::sleep(Duration::from_millis(100));
            continue;
        }
        let otherwise = |data_dir, output| PostgresError::Start { data_dir, output };
        return Err(PostgresError::from_output(&layout.cluster, format!("{log}\n{output}"), otherwise));
    }
}

/// The directory is the server's alone, and no server runs: what a killed one left there only confuses the next, which
/// would take a reused process number for a rival.
fn remove_dead_socket(socket_dir: &Path) -> Result<(), PostgresError> {
    for name in [format!(".s.PGSQL.{PORT}"), format!(".s.PGSQL.{PORT}.lock")] {
        let path = socket_dir.join(name);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(PostgresError::io("remove", &path)(error));
        }
    }
    Ok(())
}

/// Starts the server in a session of its own, so that a Ctrl-C for this process does not reach it, and returns what
/// pg_ctl printed.
fn run_pg_ctl(
    layout: &Layout,
    installation: &Installation,
    account: &Account,
    socket_dir: &Path,
) -> Result<String, PostgresError> {
    let start_log = layout.log_dir.join(server_log::START_LOG);
    if let Err(error) = fs::remove_file(&start_log)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(PostgresError::io("remove", &start_log)(error));
    }
    let program = installation.program("pg_ctl");
    // On the command line, so that nothing in the configuration moves the server away from us. The directory's name
    // has no character that the shell would mind.
    let server_options = format!(
        "-c listen_addresses= -c unix_socket_directories={} -c unix_socket_permissions=0700 -c port={PORT}",
        socket_dir.display()
    );
    let output = account
        .command(&program, &layout.cluster)
        .args(["start", "--silent", "--wait", "--timeout", &START_SECONDS.to_string()])
        .arg("-D")
        .arg(&layout.cluster)
        .arg("-l")
        .arg(&start_log)
        .arg("-o")
        .arg(server_options)
        .output()
        .map_err(PostgresError::io("run", &program))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(text.trim().to_owned())
}

fn write_settings(layout: &Layout, account: &Account) -> Result<(), PostgresError> {
    let path = layout.cluster.join(settings::FILE_NAME);
    let text = settings::text(Machine::look(&layout.cluster), &layout.log_dir);
    if fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let new = layout.cluster.join(format!("{}.new", settings::FILE_NAME));
    fs::write(&new, text).map_err(PostgresError::io("write", &new))?;
    account.own(&new)?;
    fs::rename(&new, &path).map_err(PostgresError::io("write", &path))
}
