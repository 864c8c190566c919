//! The real server: created, shared, killed, recovered, refused.

#![expect(clippy::unwrap_used, reason = "a failed step of the preparation is a failed test")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_postgres::{Options, PostgresError, Server, Status};
use rustix::process::{Pid, Signal};

/// Where a test that starts itself a second time finds its directory.
const CHILD_DIR: &str = "ONEIRIC_OTEL_POSTGRES_TEST_DIR";

/// A directory for one test, which every user can enter. Stops what a failed test left running.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    fn cluster(&self) -> PathBuf {
        self.data_dir().join("postgres/data")
    }

    fn options(&self) -> Options {
        Options { installation: postgres(), data_dir: self.data_dir() }
    }

    fn start(&self) -> Server {
        Server::attach_or_start(&self.options()).unwrap()
    }

    fn is_running(&self) -> bool {
        matches!(Server::status(&self.data_dir()).unwrap(), Status::Running { .. })
    }

    /// Starts the test of this name again, in a process that holds the server until its standard input ends.
    fn start_holder(&self, test: &str) -> Child {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD_DIR, self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sign = self.dir.path().join(format!("holds-{}", child.id()));
        wait_until("the other process to hold the server", || sign.exists());
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(Some(server)) = Server::attach(&self.data_dir()) {
            drop(server);
        }
    }
}

/// What the second process does. Says whether this is one.
fn hold_if_child() -> bool {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return false };
    let dir = PathBuf::from(dir);
    let server = Server::attach_or_start(&Options { installation: postgres(), data_dir: dir.join("d") }).unwrap();
    assert_eq!(query(&server, "select 40 + 2"), "42");
    let sign = dir.join(format!("holds-{}", std::process::id()));
    fs::write(sign, if server.started_by_us() { "started" } else { "attached" }).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    server.release().unwrap();
    true
}

fn postgres() -> PathBuf {
    Parts::open_default().unwrap().postgres(&Silent).unwrap()
}

fn postgres18() -> PathBuf {
    Parts::open_default().unwrap().postgres18(&Silent).unwrap()
}

fn query(server: &Server, sql: &str) -> String {
    let output = server.psql_command().args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn a_server_is_created_private_and_unprivileged_and_its_data_outlives_it() {
    let place = Place::new();
    assert_eq!(Server::status(&place.data_dir()).unwrap(), Status::NotInitialised);
    let server = place.start();
    assert!(server.started_by_us());
    server.check_health().unwrap();
    let Status::Running { pid, version, since: Some(_) } = Server::status(&place.data_dir()).unwrap() else {
        unreachable!("it was just started")
    };
    assert_eq!((pid, version.as_str()), (server.pid(), "16"));

    for (setting, value) in [
        ("listen_addresses", ""),
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("max_connections", "64"),
        ("jit", "off"),
        ("TimeZone", "UTC"),
    ] {
        // lc_collate is no setting any more from version 16 on.
        let sql = match setting {
            "lc_collate" => "select datcollate from pg_database where datname = current_database()".to_owned(),
            _ => format!("show \"{setting}\""),
        };
        assert_eq!(query(&server, &sql), value, "{setting}");
    }
    assert_eq!(query(&server, "select current_user, current_database()"), "oneiric|otel");
    query(&server, "create extension vector; create table kept as select 7 as n");

    let password = place.data_dir().join("postgres/password");
    assert_eq!(fs::metadata(&password).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(&password).unwrap().uid(), rustix::process::geteuid().as_raw());
    assert_eq!(fs::metadata(place.cluster()).unwrap().mode() & 0o7777, 0o700);
    let refused = server.psql_command().env("PGPASSWORD", "wrong").args(["-X", "-c", "select 1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("password authentication failed"));

    let session = rustix::process::getsid(Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), i32::try_from(pid).unwrap(), "a session of its own");
    let owner = fs::metadata(place.cluster().join("postmaster.pid")).unwrap().uid();
    if let Ok(process) = fs::metadata(format!("/proc/{pid}")) {
        assert_eq!(process.uid(), owner);
    }
    let me = rustix::process::geteuid();
    assert!(if me.is_root() { owner != 0 } else { owner == me.as_raw() }, "runs as {owner}");

    server.release().unwrap();
    assert_eq!(Server::status(&place.data_dir()).unwrap(), Status::Stopped { version: "16".to_owned() });
    assert!(Server::attach(&place.data_dir()).unwrap().is_none());

    let server = place.start();
    assert_eq!(query(&server, "select n from kept"), "7");
    drop(server);
    assert!(!place.is_running(), "dropping is releasing");
}

#[tokio::test]
async fn the_url_works_with_a_client() {
    let place = Place::new();
    let server = place.start();
    let (client, connection) =
        tokio_postgres::connect(&server.connection().url(), tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let row = client.query_one("select 1 + 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 2);
    drop(client);
    driver.await.unwrap().unwrap();
}

#[test]
fn a_second_process_attaches_and_the_last_one_stops_the_server() {
    if hold_if_child() {
        return;
    }
    let place = Place::new();
    let server = place.start();
    let mut holder = place.start_holder("a_second_process_attaches_and_the_last_one_stops_the_server");
    let sign = place.dir.path().join(format!("holds-{}", holder.id()));
    assert_eq!(fs::read_to_string(sign).unwrap(), "attached");
    let pid = server.pid();
    server.release().unwrap();
    assert!(place.is_running(), "the other one still uses it");
    let attached = Server::attach(&place.data_dir()).unwrap().unwrap();
    assert_eq!(attached.pid(), pid);
    assert!(!attached.started_by_us());
    assert_eq!(query(&attached, "select 1"), "1");
    attached.release().unwrap();
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert!(!place.is_running(), "the last one has gone");
}

#[test]
fn a_server_whose_user_was_killed_is_taken_over_by_the_next() {
    if hold_if_child() {
        return;
    }
    let place = Place::new();
    let mut holder = place.start_holder("a_server_whose_user_was_killed_is_taken_over_by_the_next");
    let sign = place.dir.path().join(format!("holds-{}", holder.id()));
    assert_eq!(fs::read_to_string(sign).unwrap(), "started");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(place.is_running(), "nobody was there to stop it");
    let server = place.start();
    assert!(!server.started_by_us());
    assert_eq!(query(&server, "select 1"), "1");
    server.release().unwrap();
    assert!(!place.is_running());
}

#[test]
fn many_that_start_at_once_share_one_server() {
    let place = Place::new();
    let options = place.options();
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..6).map(|_| scope.spawn(|| Server::attach_or_start(&options).unwrap())).collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(servers.iter().filter(|server| server.started_by_us()).count(), 1);
    assert!(servers.iter().all(|server| server.pid() == servers[0].pid()));
    let mut left = servers.len();
    for server in servers {
        assert_eq!(query(&server, "select 1"), "1", "{left} users left");
        server.release().unwrap();
        left -= 1;
        assert_eq!(place.is_running(), left > 0, "{left} users left");
    }
}

#[test]
fn a_killed_server_recovers_what_was_committed() {
    let place = Place::new();
    let mut server = place.start();
    query(&server, "create table kept as select generate_series(1, 100000) as n");
    kill(server.pid());
    wait_until("the server to be gone", || server.check_health().is_err());
    let text = server.check_health().unwrap_err().to_string();
    assert!(text.contains("is not running"), "{text}");
    assert!(server.ensure_running().unwrap());
    assert_eq!(query(&server, "select count(*) from kept"), "100000");
    assert!(!server.ensure_running().unwrap(), "now it runs");

    // A server that hangs is told from one that works.
    let postmaster = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    rustix::process::kill_process(postmaster, Signal::STOP).unwrap();
    assert!(server.check_health().unwrap_err().to_string().contains("hanging"));
    rustix::process::kill_process(postmaster, Signal::CONT).unwrap();
    server.check_health().unwrap();

    // Killed again, and found by a newcomer, while the first user is still there.
    query(&server, "insert into kept values (0)");
    kill(server.pid());
    let newcomer = place.start();
    assert!(newcomer.started_by_us());
    assert_eq!(query(&newcomer, "select count(*) from kept"), "100001");
    drop(newcomer);
    assert!(place.is_running(), "the first user is still there");
    server.release().unwrap();
    assert!(!place.is_running());
}

#[test]
fn a_stale_pid_file_does_not_keep_the_server_from_starting() {
    let place = Place::new();
    let server = place.start();
    let pid_path = place.cluster().join("postmaster.pid");
    let left = fs::read_to_string(&pid_path).unwrap();
    server.release().unwrap();

    // As after a crash of the machine: the number now belongs to another process of the same user, or to none.
    let owner = fs::metadata(place.cluster()).unwrap();
    let mut command = Command::new("sleep");
    command.arg("600");
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let mut other = command.spawn().unwrap();
    for alive in [true, false] {
        let (_, rest) = left.split_once('\n').unwrap();
        fs::write(&pid_path, format!("{}\n{rest}", other.id())).unwrap();
        std::os::unix::fs::chown(&pid_path, Some(owner.uid()), Some(owner.gid())).unwrap();
        assert_eq!(
            Server::status(&place.data_dir()).unwrap(),
            Status::Stopped { version: "16".to_owned() },
            "alive: {alive}"
        );
        let server = place.start();
        assert!(server.started_by_us(), "alive: {alive}");
        assert_eq!(query(&server, "select 1"), "1");
        server.release().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

#[test]
fn a_data_directory_of_another_version_is_refused_and_left_alone() {
    let place = Place::new();
    place.start().release().unwrap();
    let options = Options { installation: postgres18(), data_dir: place.data_dir() };
    let error = Server::attach_or_start(&options).unwrap_err();
    assert!(matches!(error, PostgresError::Version { .. }), "{error}");
    let text = error.to_string();
    for part in ["made by PostgreSQL 16", "is PostgreSQL 18", "ONEIRIC_OTEL_POSTGRES_DIR", "--data-dir"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(!place.is_running());
    let server = place.start();
    assert_eq!(query(&server, "select 1"), "1");
}

#[test]
fn the_newest_version_understands_the_settings() {
    let place = Place::new();
    let options = Options { installation: postgres18(), data_dir: place.data_dir() };
    let server = Server::attach_or_start(&options).unwrap();
    assert!(query(&server, "show server_version").starts_with("18"));
    assert_eq!(query(&server, "select count(*) from pg_file_settings where error is not null"), "0");
}

#[test]
fn a_long_or_odd_path_works_and_an_impossible_one_is_refused() {
    let place = Place::new();
    for name in ["x".repeat(150), "with space, and ' ü".to_owned()] {
        let data_dir = place.dir.path().join(&name);
        let options = Options { installation: postgres(), data_dir: data_dir.clone() };
        let server = Server::attach_or_start(&options).unwrap();
        assert_eq!(query(&server, "select 1"), "1", "{name}");
        let socket_dir = server.connection().socket_dir.clone();
        assert!(!socket_dir.starts_with(&data_dir));
        let meta = fs::metadata(&socket_dir).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o700);
        // Another process, with another environment, finds it all the same.
        assert_eq!(query(&Server::attach(&data_dir).unwrap().unwrap(), "select 1"), "1", "{name}");
        server.release().unwrap();
        assert!(!socket_dir.exists(), "removed with the server");
    }
    let options = Options { installation: postgres(), data_dir: place.dir.path().join("a\"$(b)") };
    let error = Server::attach_or_start(&options).unwrap_err();
    assert!(matches!(error, PostgresError::Path { .. }), "{error}");
}

#[test]
fn what_an_interrupted_creation_left_is_cleared_away() {
    let place = Place::new();
    let root = place.data_dir().join("postgres");
    fs::create_dir_all(root.join(".new-abc/data/base")).unwrap();
    fs::write(root.join(".new-abc/data/PG_VERSION"), "16\n").unwrap();
    fs::write(root.join("password"), "from the first attempt").unwrap();
    for dir in [place.data_dir(), root.clone()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let server = place.start();
    assert_eq!(query(&server, "select 1"), "1");
    assert_eq!(server.connection().password, "from the first attempt");
    assert!(!root.join(".new-abc").exists());
}

#[test]
fn a_directory_with_something_else_in_it_is_refused_and_left_alone() {
    let place = Place::new();
    fs::create_dir_all(place.cluster()).unwrap();
    let file = place.cluster().join("precious");
    fs::write(&file, "letters").unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(place.cluster(), Some(1), Some(1)).unwrap();
    }
    let error = Server::attach_or_start(&place.options()).unwrap_err();
    assert!(matches!(error, PostgresError::NotADatabase { .. }), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "letters");
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let place = Place::new();
    place.start().release().unwrap();
    let local = place.cluster().join("local.conf");
    fs::write(&local, "no_such_setting = 1\n").unwrap();
    fs::set_permissions(&local, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Server::attach_or_start(&place.options()).unwrap_err();
    assert!(matches!(error, PostgresError::Start { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    // The user's own settings win over ours.
    fs::write(&local, "work_mem = '5MB'\n").unwrap();
    assert_eq!(query(&place.start(), "show work_mem"), "5MB");
}

#[test]
fn a_missing_password_is_explained() {
    let place = Place::new();
    place.start().release().unwrap();
    let password = place.data_dir().join("postgres/password");
    let kept = fs::read(&password).unwrap();
    fs::remove_file(&password).unwrap();
    let error = Server::attach_or_start(&place.options()).unwrap_err();
    assert!(matches!(error, PostgresError::PasswordMissing { .. }), "{error}");
    fs::write(&password, kept).unwrap();
    assert_eq!(query(&place.start(), "select 1"), "1");
}

#[test]
fn an_installation_that_is_none_is_named() {
    let place = Place::new();
    let installation = place.dir.path().join("pg");
    let options = Options { installation: installation.clone(), data_dir: place.data_dir() };
    let error = Server::attach_or_start(&options).unwrap_err();
    let missing = installation.join("bin/postgres");
    assert!(matches!(&error, PostgresError::Program { program, .. } if *program == missing), "{error}");

    fs::create_dir_all(installation.join("bin")).unwrap();
    for name in ["postgres", "initdb", "pg_ctl"] {
        let path = installation.join("bin").join(name);
        fs::write(&path, "#!/bin/sh\necho libpq.so.5: cannot open shared object file >&2\nexit 127\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let text = Server::attach_or_start(&options).unwrap_err().to_string();
    assert!(text.contains("cannot open shared object file"), "{text}");
}

#[test]
fn a_place_that_cannot_be_written_or_reached_is_named() {
    let place = Place::new();
    if rustix::process::geteuid().is_root() {
        // Nothing is closed to root, but to the user it drops to.
        let closed = place.dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let options = Options { installation: postgres(), data_dir: closed.join("d") };
        let error = Server::attach_or_start(&options).unwrap_err();
        assert!(matches!(&error, PostgresError::Unreachable { ancestor, .. } if *ancestor == closed), "{error}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
    } else {
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let error = Server::attach_or_start(&place.options()).unwrap_err();
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(&error, PostgresError::Permission { path, .. } if *path == place.data_dir()), "{error}");
    }
    let file = place.dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let options = Options { installation: postgres(), data_dir: file.join("d") };
    let text = Server::attach_or_start(&options).unwrap_err().to_string();
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    assert_eq!(Server::status(Path::new("/no/such/dir")).unwrap(), Status::NotInitialised);
}
