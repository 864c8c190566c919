//! What every mode stands on: a directory, a PostgreSQL, and servers on it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::postgres::Postgres;
use crate::serving::{Program, Serving, Settings};

/// A directory that PostgreSQL's user can enter too.
///
/// # Errors
/// If it cannot be made.
pub fn directory(parent: Option<&Path>) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("oracle-");
    let dir = match parent {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    let dir = dir.context("a directory for the run")?;
    make_open(dir.path())?;
    Ok(dir)
}

fn make_open(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A directory inside, likewise.
///
/// # Errors
/// If it cannot be made.
pub fn subdirectory(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    make_open(&path)?;
    Ok(path)
}

/// One server on a database of its own, for measurements.
#[derive(Debug)]
pub struct Bench {
    /// The database.
    pub postgres: Postgres,
    dir: TempDir,
    program: Program,
}

impl Bench {
    /// Starts PostgreSQL.
    ///
    /// # Errors
    /// If the program or PostgreSQL does not start.
    pub async fn new(program: &Path) -> Result<Self> {
        let dir = directory(None)?;
        let program = Program::look_at(program).await?;
        let postgres = Postgres::start(subdirectory(dir.path(), "database")?).await?;
        Ok(Self { postgres, dir, program })
    }

    /// Whether `serve` knows `--ack`.
    pub fn knows_ack(&self) -> bool {
        self.program.has("--ack")
    }

    /// Starts a server on a new database of this name, and returns it with the database's URL.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn serve(&self, name: &str, ack: Option<&str>) -> Result<(Serving, String)> {
        let client = crate::postgres::connect(&self.postgres.url()).await?;
        client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let url = self.postgres.url_of(name);
        let serving = Serving::start(Settings {
            program: self.program.clone(),
            data_dir: subdirectory(self.dir.path(), name)?,
            url: Some(url.clone()),
            arguments: ack.map(|ack| format!("--ack={ack}")).into_iter().collect(),
            log: self.dir.path().join(format!("{name}.log")),
        });
        serving.ready().await?;
        Ok((serving, url))
    }
}
