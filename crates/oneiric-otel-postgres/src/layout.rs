//! What lies where in the data directory.
//!
//! Below `<data_dir>/postgres/`:
//!
//! | path | what | owner | mode |
//! |---|---|---|---|
//! | `.` | | caller | 0700; 0711 if root, so that the server's user can pass |
//! | `data/` | the cluster; appears by one rename when it is complete | server's user | 0700 |
//! | `log/` | the server's log, bounded | server's user | 0700 |
//! | `run/` | the socket, if the path is short enough for one | server's user | 0700 |
//! | `password` | the password of the superuser | caller | 0600 |
//! | `reader-password` | the password of the role that reads, once somebody asked for it | caller | 0600 |
//! | `start.lock` | held exclusively while deciding about start and stop | caller | 0600 |
//! | `users.lock` | held shared by every process that uses the server | caller | 0600 |
//! | `.new-*` | a cluster in the making; dead if `start.lock` is free | server's user | 0700 |

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::PostgresError;

/// The port is only part of the socket's name: there is no TCP.
pub(crate) const PORT: u16 = 5432;
/// Of the address structure, less the final zero byte, on the system that gives least (macOS; Linux has 107).
const SOCKET_PATH_LIMIT: usize = 103;

/// The paths of one data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) cluster: PathBuf,
    pub(crate) log_dir: PathBuf,
    run_dir: PathBuf,
    pub(crate) password: PathBuf,
    pub(crate) reader_password: PathBuf,
    start_lock: PathBuf,
    users_lock: PathBuf,
}

impl Layout {
    /// For an existing data directory. One directory has one name, because the server's command line is compared.
    pub(crate) fn of(data_dir: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(data_dir)?.join("postgres");
        Ok(Self {
            cluster: root.join("data"),
            log_dir: root.join("log"),
            run_dir: root.join("run"),
            password: root.join("password"),
            reader_password: root.join("reader-password"),
            start_lock: root.join("start.lock"),
            users_lock: root.join("users.lock"),
            root,
        })
    }

    /// Creates the data directory and `postgres/` in it, where they are missing.
    pub(crate) fn create(data_dir: &Path) -> Result<Self, PostgresError> {
        let root_mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        let mut missing: Vec<&Path> = data_dir.ancestors().take_while(|path| !path.exists()).collect();
        while let Some(path) = missing.pop() {
            if !path.as_os_str().is_empty() {
                make_dir(path, root_mode)?;
            }
        }
        let layout = Self::of(data_dir).map_err(PostgresError::io("use", data_dir))?;
        if !layout.root.to_str().is_some_and(is_quotable) {
            return Err(PostgresError::Path { path: layout.root });
        }
        make_dir(&layout.root, root_mode)?;
        Ok(layout)
    }

    /// Whether there is a complete cluster.
    pub(crate) fn is_initialised(&self) -> Result<bool, PostgresError> {
        let path = self.cluster.join("PG_VERSION");
        // No permission to look is not the same as nothing there.
        path.try_exists().map_err(PostgresError::io("look at", &path))
    }

    /// The major version that the cluster belongs to, as its file says.
    pub(crate) fn cluster_version(&self) -> Result<String, PostgresError> {
        let path = self.cluster.join("PG_VERSION");
        Ok(fs::read_to_string(&path).map_err(PostgresError::io("read", &path))?.trim().to_owned())
    }

    /// The password of the cluster.
    pub(crate) fn read_password(&self) -> Result<String, PostgresError> {
        read_password(&self.password)
    }

    /// The file to lock around decisions.
    pub(crate) fn open_start_lock(&self) -> Result<fs::File, PostgresError> {
        open_lock(&self.start_lock)
    }

    /// The file to lock while using the server.
    pub(crate) fn open_users_lock(&self) -> Result<fs::File, PostgresError> {
        open_lock(&self.users_lock)
    }

    /// Creates the directory for the socket: `run/`, or one under a shorter path if that is too long or has characters
    /// that would need quoting in the server's command line. Clients learn it from the running server.
    pub(crate) fn make_socket_dir(&self, account: &Account) -> Result<PathBuf, PostgresError> {
        if fits_socket(&self.run_dir) {
            make_server_dir(&self.run_dir, account)?;
            return Ok(self.run_dir.clone());
        }
        let mut hasher = DefaultHasher::new();
        self.root.hash(&mut hasher);
        let name = format!("oneiric-otel-{}-{:016x}", account.uid, hasher.finish());
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let dir = runtime_dir
            // It belongs to the caller, whom the server may not be.
            .filter(|dir| !account.switches && dir.is_dir())
            .map(|dir| dir.join(&name))
            .filter(|dir| fits_socket(dir))
            .unwrap_or_else(|| Path::new("/tmp").join(&name));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => account.own(&dir)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Everybody may create names in /tmp.
                let meta = fs::symlink_metadata(&dir).map_err(PostgresError::io("look at", &dir))?;
                if !meta.is_dir() || meta.uid() != account.uid || meta.mode() & 0o077 != 0 {
                    return Err(PostgresError::Owner {
                        path: dir,
                        owner: crate::account::user_name(meta.uid()),
                        user: account.name.clone(),
                        remedy: "remove it, or choose a --data-dir with a shorter path",
                    });
                }
            }
            Err(error) => return Err(PostgresError::io("create", &dir)(error)),
        }
        Ok(dir)
    }

    /// Removes a socket directory that lies outside of the data directory, if nothing is in it.
    pub(crate) fn remove_socket_dir(&self, dir: &Path) {
        if dir != self.run_dir
            && let Err(error) = fs::remove_dir(dir)
        {
            tracing::debug!(dir = %dir.display(), %error, "socket directory stays");
        }
    }
}

/// The password in a file.
pub(crate) fn read_password(path: &Path) -> Result<String, PostgresError> {
    let missing = || PostgresError::PasswordMissing { path: path.to_owned() };
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        other => other.map_err(PostgresError::io("read", path))?,
    };
    let password = text.trim();
    if password.is_empty() { Err(missing()) } else { Ok(password.to_owned()) }
}

/// A directory that belongs to the server's user.
pub(crate) fn make_server_dir(path: &Path, account: &Account) -> Result<(), PostgresError> {
    make_dir(path, 0o700)?;
    account.own(path)
}

fn fits_socket(dir: &Path) -> bool {
    let Some(text) = dir.to_str() else { return false };
    text.len() + format!("/.s.PGSQL.{PORT}").len() <= SOCKET_PATH_LIMIT
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
}

/// pg_ctl puts paths between double quotes in a shell command.
pub(crate) fn is_quotable(path: &str) -> bool {
    !path.chars().any(|c| c.is_control() || "\"$`\\".contains(c))
}

/// Creates a directory with this mode whatever the umask. One that exists stays as it is.
fn make_dir(path: &Path, mode: u32) -> Result<(), PostgresError> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(PostgresError::io("set the permissions of", path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(PostgresError::io("create", path)(error)),
    }
}

fn open_lock(path: &Path) -> Result<fs::File, PostgresError> {
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(PostgresError::io("open", path))
}
