//! Makes a new cluster: complete under its name, or not there.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use rand::TryRngCore as _;

use crate::account::Account;
use crate::error::PostgresError;
use crate::installation::Installation;
use crate::layout::{Layout, make_server_dir, read_password};
use crate::settings;

/// The superuser of the private server.
pub(crate) const USER: &str = "oneiric";
/// A role that can log in once somebody has made it.
pub(crate) const READER: &str = "oneiric_reader";
/// The database.
pub(crate) const DATABASE: &str = "otel";

const PASSWORD_BYTES: usize = 24;
const NEW_PREFIX: &str = ".new-";

/// Creates the cluster if there is none. The caller holds the start lock.
pub(crate) fn ensure(layout: &Layout, installation: &Installation, account: &Account) -> Result<(), PostgresError> {
    if layout.is_initialised()? {
        return Ok(());
    }
    remove_leftovers(layout);
    if fs::read_dir(&layout.cluster).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(PostgresError::NotADatabase { path: layout.cluster.clone() });
    }
    account.check_reaches(&layout.cluster, "--data-dir")?;
    let password = make_password(&layout.root, &layout.password)?;
    let work = tempfile::Builder::new()
        .prefix(NEW_PREFIX)
        .tempdir_in(&layout.root)
        .map_err(PostgresError::io("create a directory in", &layout.root))?;
    account.own(work.path())?;
    let new = work.path().join("data");
    make_server_dir(&new, account)?;

    run_initdb(layout, installation, account, &new, work.path(), &password)?;
    write_configuration(&new, account)?;
    create_database(layout, installation, account, &new)?;
    flush_to_disk(&new)?;
    // An empty directory, if one is there, gives way.
    fs::rename(&new, &layout.cluster).map_err(PostgresError::io("move into place", &layout.cluster))?;
    fs::File::open(&layout.root).and_then(|dir| dir.sync_all()).map_err(PostgresError::io("flush", &layout.root))
}

/// What a killed process left. Its programs may still be writing; they fail when their directory goes.
fn remove_leftovers(layout: &Layout) {
    let Ok(entries) = fs::read_dir(&layout.root) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(NEW_PREFIX)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove what an interrupted start left");
        }
    }
}

/// The password is on disk before any cluster uses it; one from an interrupted attempt is used again.
pub(crate) fn make_password(dir: &Path, path: &Path) -> Result<String, PostgresError> {
    match read_password(path) {
        Err(PostgresError::PasswordMissing { .. }) => {}
        other => return other,
    }
    let mut bytes = [0; PASSWORD_BYTES];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| PostgresError::io("draw a password for", path)(io::Error::other(error)))?;
    let password = hex::encode(bytes);
    // Created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(PostgresError::io("create a file in", dir))?;
    file.write_all(password.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(PostgresError::io("write", path))?;
    file.persist(path).map_err(|error| PostgresError::io("write", path)(error.error))?;
    Ok(password)
}

fn run_initdb(
    layout: &Layout,
    installation: &Installation,
    account: &Account,
    new: &Path,
    work: &Path,
    password: &str,
) -> Result<(), PostgresError> {
    let password_file = work.join("password");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&password_file)
        .map_err(PostgresError::io("create", &password_file))?;
    file.write_all(password.as_bytes()).map_err(PostgresError::io("write", &password_file))?;
    account.own(&password_file)?;

    let program = installation.program("initdb");
    let mut command = account.command(&program, new);
    command
        .arg("-D")
        .arg(new)
        .args(["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"])
        .arg("--no-instructions")
        .arg("--pwfile")
        .arg(&password_file);
    if cfg!(target_os = "linux") {
        // One flush of the file system at the end is as safe as one for each of a thousand files, and faster.
        command.arg("--no-sync");
    }
    let output = command.output().map_err(PostgresError::io("run", &program))?;
    fs::remove_file(&password_file).map_err(PostgresError::io("remove", &password_file))?;
    check(layout, &output)
}

fn write_configuration(new: &Path, account: &Account) -> Result<(), PostgresError> {
    let path = new.join("postgresql.conf");
    let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(PostgresError::io("open", &path))?;
    file.write_all(settings::INCLUDES.as_bytes()).map_err(PostgresError::io("write", &path))?;
    for (name, text) in [(settings::FILE_NAME, ""), (settings::LOCAL_FILE_NAME, settings::LOCAL_TEXT)] {
        let path = new.join(name);
        fs::write(&path, text).map_err(PostgresError::io("write", &path))?;
        account.own(&path)?;
    }
    Ok(())
}

/// Without a server, so that the cluster is complete when it appears.
fn create_database(
    layout: &Layout,
    installation: &Installation,
    account: &Account,
    new: &Path,
) -> Result<(), PostgresError> {
    let program = installation.program("postgres");
    let mut command = account.command(&program, new);
    command.args(["--single", "-j", "-c", "exit_on_error=on"]);
    if cfg!(target_os = "linux") {
        command.args(["-c", "fsync=off"]);
    }
    command.arg("-D").arg(new).arg("postgres").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(PostgresError::io("run", &program))?;
    if let Some(mut stdin) = child.stdin.take() {
        let statement = format!("CREATE DATABASE {DATABASE};\n\n");
        // If the program has died, its output says why.
        if let Err(error) = stdin.write_all(statement.as_bytes()) {
            tracing::debug!(%error, "postgres --single reads nothing");
        }
    }
    let output = child.wait_with_output().map_err(PostgresError::io("wait for", &program))?;
    check(layout, &output)
}

fn check(layout: &Layout, output: &Output) -> Result<(), PostgresError> {
    if output.status.success() {
        return Ok(());
    }
    let text = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.trim().lines().collect();
    let end = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    let otherwise = |data_dir, output| PostgresError::Init { data_dir, output };
    Err(PostgresError::from_output(&layout.cluster, format!("{} {end}", output.status), otherwise))
}

fn flush_to_disk(new: &Path) -> Result<(), PostgresError> {
    #[cfg(target_os = "linux")]
    {
        let dir = fs::File::open(new).map_err(PostgresError::io("open", new))?;
        rustix::fs::syncfs(&dir).map_err(|errno| PostgresError::io("flush", new)(errno.into()))?;
    }
    #[cfg(not(target_os = "linux"))]
    {
        // initdb has flushed its files, and the server the database.
        let path = new.join("postgresql.conf");
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(PostgresError::io("flush", &path))?;
    }
    Ok(())
}
