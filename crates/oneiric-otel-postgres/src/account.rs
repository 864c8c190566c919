//! As which user the server's programs run, and with which environment.
//!
//! PostgreSQL refuses to run as root. Started by root, it runs as an existing unprivileged user: the owner of the
//! data directory if there is one already, else the user that `ONEIRIC_OTEL_POSTGRES_USER` names, else `postgres`,
//! else `nobody`. Started by anybody else, it runs as that user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::PostgresError;

const DEFAULT_USERS: [&str; 2] = ["postgres", "nobody"];

/// The user as whom the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether this process is another user (root) and must hand things over.
    pub(crate) switches: bool,
}

impl Account {
    /// Chooses the user. `cluster` is the cluster's directory, which need not exist; `wanted` is the configured name.
    pub(crate) fn choose(cluster: &Path, wanted: Option<&str>) -> Result<Self, PostgresError> {
        let me = rustix::process::geteuid().as_raw();
        let owner = fs::metadata(cluster).ok().map(|meta| (meta.uid(), meta.gid()));
        if me != 0 {
            let account =
                Self { name: user_name(me), uid: me, gid: rustix::process::getegid().as_raw(), switches: false };
            return match owner {
                Some((uid, _)) if uid != me => Err(PostgresError::Owner {
                    path: cluster.to_owned(),
                    owner: user_name(uid),
                    user: account.name,
                    remedy: "run oneiric-otel as the owner or as root, or choose another --data-dir",
                }),
                _ => Ok(account),
            };
        }
        let named = match wanted {
            Some(name) => Some(look_up(name).ok_or_else(|| PostgresError::NoUser { tried: name.to_owned() })?),
            None => None,
        };
        let Some((uid, gid)) = owner else {
            return named
                .or_else(|| DEFAULT_USERS.into_iter().find_map(look_up))
                .ok_or_else(|| PostgresError::NoUser { tried: DEFAULT_USERS.join(", ") });
        };
        let account = Self { name: user_name(uid), uid, gid, switches: true };
        match named {
            Some(named) if named.uid != uid => Err(PostgresError::Owner {
                path: cluster.to_owned(),
                owner: account.name,
                user: named.name,
                remedy: "unset ONEIRIC_OTEL_POSTGRES_USER, or change the owner of the directory while no server runs",
            }),
            _ if uid == 0 => Err(PostgresError::Owner {
                path: cluster.to_owned(),
                owner: account.name,
                user: "an unprivileged user".to_owned(),
                remedy: "change its owner, with everything in it, to an unprivileged user such as postgres",
            }),
            _ => Ok(account),
        }
    }

    /// A command that runs as this user, knows nothing of the caller's environment and prints English messages.
    pub(crate) fn command(&self, program: &Path, work_dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir(work_dir).stdin(Stdio::null());
        // An installation outside the standard places may need the second to find its libraries.
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.switches {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives a file or directory to this user, if it is not theirs anyway.
    pub(crate) fn own(&self, path: &Path) -> Result<(), PostgresError> {
        if !self.switches {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(PostgresError::io("change the owner of", path))
    }

    /// Whether this user can pass through every directory above `path`. `variable` says what names the place.
    pub(crate) fn check_reaches(&self, path: &Path, variable: &'static str) -> Result<(), PostgresError> {
        if !self.switches {
            return Ok(());
        }
        for ancestor in path.ancestors().skip(1) {
            let Ok(meta) = fs::metadata(ancestor) else { continue };
            let needed = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & needed == 0 {
                return Err(PostgresError::Unreachable {
                    user: self.name.clone(),
                    path: path.to_owned(),
                    ancestor: ancestor.to_owned(),
                    variable,
                });
            }
        }
        Ok(())
    }
}

/// An existing, unprivileged user of this name.
fn look_up(name: &str) -> Option<Account> {
    let uid = ask_id(&["-u", "--", name])?.parse::<i64>().ok()?;
    let gid = ask_id(&["-g", "--", name])?.parse::<i64>().ok()?;
    // Some systems print nobody's number as -2.
    (uid != 0).then(|| Account { name: name.to_owned(), uid: uid as u32, gid: gid as u32, switches: true })
}

/// The name of a user for messages, or the number where there is no name.
pub(crate) fn user_name(uid: u32) -> String {
    ask_id(&["-nu", &uid.to_string()]).unwrap_or_else(|| format!("uid {uid}"))
}

/// Asks the system, which may keep its users anywhere.
fn ask_id(arguments: &[&str]) -> Option<String> {
    let output = Command::new("id").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_root_is_refused_whoever_asks() {
        // As root because the server cannot run as its owner, as anybody else because it is not theirs.
        let error = Account::choose(Path::new("/"), None).unwrap_err();
        assert!(matches!(&error, PostgresError::Owner { owner, .. } if owner == "root"), "{error}");
    }

    #[test]
    fn users_are_found_by_name_and_root_is_not_accepted() {
        let nobody = look_up("nobody").unwrap();
        assert_eq!(user_name(nobody.uid), "nobody");
        assert_eq!(look_up("root"), None);
        assert_eq!(look_up("no such user"), None);
    }
}
