//! The programs that are given to us.

use std::io;
use std::path::{Path, PathBuf};

use crate::account::Account;
use crate::error::PostgresError;

/// The installation's directory, with `bin/`.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    pub(crate) dir: PathBuf,
    pub(crate) major: u32,
}

impl Installation {
    /// Runs `postgres --version` as the server's user, which shows that this user can reach and run it.
    pub(crate) fn check(dir: &Path, account: &Account) -> Result<Self, PostgresError> {
        // Paths given to the server must hold from another working directory.
        let dir = std::path::absolute(dir).map_err(PostgresError::io("resolve", dir))?;
        if !dir.to_str().is_some_and(crate::layout::is_quotable) {
            return Err(PostgresError::Path { path: dir });
        }
        for name in ["postgres", "initdb", "pg_ctl"] {
            let program = dir.join("bin").join(name);
            if !program.is_file() {
                return Err(PostgresError::Program { program, reason: "there is no such file".to_owned() });
            }
        }
        let program = dir.join("bin/postgres");
        account.check_reaches(&program, "ONEIRIC_OTEL_CACHE_DIR or ONEIRIC_OTEL_POSTGRES_DIR")?;
        let output = account.command(&program, Path::new("/")).arg("--version").output();
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::PermissionDenied => format!("user {} must not run it", account.name),
                    _ => error.to_string(),
                };
                return Err(PostgresError::Program { program, reason });
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let major = text
            .split_whitespace()
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
            .and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        match major {
            Some(major) if output.status.success() => Ok(Self { dir, major }),
            _ => {
                let said = format!("{}{}", text, String::from_utf8_lossy(&output.stderr));
                Err(PostgresError::Program {
                    program,
                    reason: format!("`--version` ends with {} and says: {}", output.status, said.trim()),
                })
            }
        }
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }
}
