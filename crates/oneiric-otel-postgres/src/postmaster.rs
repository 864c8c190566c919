//! Is a server running on this cluster, and in which state? And: make it stop.
//!
//! What counts as running is a server that answers on its socket, or a live process whose command line names the
//! cluster. The number in `postmaster.pid` alone proves nothing: after a crash of the machine it may belong to anyone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal};

use crate::error::PostgresError;
use crate::layout::Layout;

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A checkpoint of all buffers to a slow disk fits into it.
const STOP_SECONDS: u64 = 180;
/// An answer to the simplest message there is.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Asks whether the server speaks TLS. It answers without a login, so this needs no password.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What `postmaster.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    pub(crate) since: SystemTime,
    pub(crate) port: u16,
    pub(crate) socket_dir: PathBuf,
    /// "starting", "ready", "stopping", "standby".
    status: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observation {
    /// No server. With a stale pid file, its number.
    Stopped { stale_pid: Option<i32> },
    /// A server that is on its way up or down, or hangs.
    Changing { pid: i32 },
    /// A server that takes connections.
    Ready(PidFile),
}

impl PidFile {
    /// `None` while the file is being written.
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let seconds = lines.get(2)?.parse().ok()?;
        let socket_dir = *lines.get(4)?;
        (!socket_dir.is_empty()).then_some(())?;
        Some(Self {
            pid: lines.first()?.parse().ok()?,
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            port: lines.get(3)?.parse().ok()?,
            socket_dir: PathBuf::from(socket_dir),
            status: (*lines.get(7)?).to_owned(),
        })
    }

    fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{}", self.port))
    }
}

fn pid_path(layout: &Layout) -> PathBuf {
    layout.cluster.join("postmaster.pid")
}

/// Looks once.
pub(crate) fn observe(layout: &Layout) -> Result<Observation, PostgresError> {
    let path = pid_path(layout);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Observation::Stopped { stale_pid: None });
        }
        Err(error) => return Err(PostgresError::io("read", &path)(error)),
    };
    let pid = text.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or_default();
    if let Some(file) = PidFile::parse(&text)
        && answers(&file)
    {
        return Ok(match file.status.as_str() {
            "ready" => Observation::Ready(file),
            _ => Observation::Changing { pid },
        });
    }
    if is_server(pid, &layout.cluster) {
        return Ok(Observation::Changing { pid });
    }
    Ok(Observation::Stopped { stale_pid: Some(pid) })
}

/// Waits while the server is on its way up or down, up to `seconds`.
pub(crate) fn settle(layout: &Layout, seconds: u64) -> Result<Observation, PostgresError> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let Observation::Changing { pid } = observe(layout)? else { return observe(layout) };
        if Instant::now() > deadline {
            return Err(PostgresError::Stuck {
                data_dir: layout.cluster.clone(),
                pid,
                doing: "starting or stopping",
                seconds,
                log_dir: layout.log_dir.clone(),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Makes sure that a stale pid file does not keep the server from starting. PostgreSQL itself refuses when the number
/// belongs to any live process of its user. The file is kept, with a number that no process can have: the rest of it
/// lets the server check that no orphan of its predecessor still uses the shared memory.
pub(crate) fn neutralise_stale_pid(layout: &Layout, stale_pid: i32) -> Result<(), PostgresError> {
    let in_use = Pid::from_raw(stale_pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
    if !in_use {
        return Ok(());
    }
    tracing::warn!(pid = stale_pid, "the pid file of a dead database server names a process that is none");
    let path = pid_path(layout);
    let text = fs::read_to_string(&path).map_err(PostgresError::io("read", &path))?;
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    fs::write(&path, format!("{}\n{rest}", i32::MAX)).map_err(PostgresError::io("write", &path))
}

/// Stops the server: transactions are rolled back, what is committed is on disk. Returns when it is gone.
pub(crate) fn stop(layout: &Layout, file: &PidFile) -> Result<(), PostgresError> {
    let stuck = || PostgresError::Stuck {
        data_dir: layout.cluster.clone(),
        pid: file.pid,
        doing: "stopping",
        seconds: STOP_SECONDS,
        log_dir: layout.log_dir.clone(),
    };
    if !is_server(file.pid, &layout.cluster) {
        // It answers, but is no process of this system: it runs in another container, which shares the directory.
        tracing::warn!(pid = file.pid, "the database server cannot be seen from here and is left running");
        return Ok(());
    }
    let pid = Pid::from_raw(file.pid).ok_or_else(stuck)?;
    match rustix::process::kill_process(pid, Signal::INT) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(PostgresError::io("stop the server of", &layout.cluster)(errno.into())),
    }
    let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS);
    // The file goes last but for the exit itself; a server that was killed meanwhile leaves it.
    while pid_path(layout).exists() && is_server(file.pid, &layout.cluster) {
        if Instant::now() > deadline {
            return Err(stuck());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    layout.remove_socket_dir(&file.socket_dir);
    Ok(())
}

/// Whether the server answers the simplest question. A connection alone proves nothing: the system accepts it for a
/// server that hangs or is just dying.
fn answers(file: &PidFile) -> bool {
    let ask = || -> std::io::Result<()> {
        let mut stream = UnixStream::connect(file.socket())?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(&SSL_REQUEST)?;
        stream.read_exact(&mut [0])
    };
    match ask() {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(socket = %file.socket().display(), %error, "no answer");
            false
        }
    }
}

/// Whether this process is the server of this cluster. A zombie is not: it has no command line any more.
fn is_server(pid: i32, cluster: &Path) -> bool {
    if pid <= 0 {
        return false;
    }
    #[cfg(target_os = "linux")]
    {
        let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut arguments = command_line.split(|byte| *byte == 0);
        let is_postgres = arguments.next().is_some_and(|program| program.ends_with(b"postgres"));
        is_postgres && arguments.any(|argument| argument == std::os::unix::ffi::OsStrExt::as_bytes(cluster.as_os_str()))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let pid = pid.to_string();
        let output = std::process::Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid]).output();
        output.is_ok_and(|output| {
            let line = String::from_utf8_lossy(&output.stdout).into_owned();
            line.contains("postgres") && line.contains(&*cluster.to_string_lossy())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_when_it_is_complete() {
        let text = "4711\n/data/postgres/data\n1763672400\n5432\n/data/postgres/run\n\n  1234567   65536\nready   \n";
        let file = PidFile::parse(text).unwrap();
        assert_eq!((file.pid, file.port, file.status.as_str()), (4711, 5432, "ready"));
        assert_eq!(file.socket(), Path::new("/data/postgres/run/.s.PGSQL.5432"));
        for lines in 0..8 {
            let part: Vec<&str> = text.lines().take(lines).collect();
            assert_eq!(PidFile::parse(&part.join("\n")), None, "{lines} lines");
        }
    }

    #[test]
    fn another_process_is_not_taken_for_the_server() {
        let me = std::process::id() as i32;
        assert!(!is_server(me, Path::new("/data/postgres/data")));
        assert!(!is_server(0, Path::new("/data/postgres/data")));
        assert!(!is_server(-me, Path::new("/data/postgres/data")));
    }
}
