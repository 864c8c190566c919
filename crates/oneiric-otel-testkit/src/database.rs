//! A fresh PostgreSQL database for one test.
//!
//! [`TestDatabase`] is empty when the test gets it, belongs to that test alone, and is dropped with the value: at the
//! end of the test, after a panic too. What a killed test run leaves behind is dropped by the next one.
//!
//! The server is the one that `ONEIRIC_OTEL_TEST_DATABASE_URL` names (the role must be allowed to create databases);
//! without the variable it is a private one that all test processes of this user share and that stops after the last.
//!
//! This module must not know which tables a test makes.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls};

use crate::owner::Owner;
use crate::server::{self, Server, Version};

/// Of the roles that tests make.
const ROLE_PASSWORD: &str = "of-a-test";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A database of its own, dropped at the end. Make it before anything that uses it, so that it goes last.
#[derive(Debug)]
pub struct TestDatabase {
    server: Server,
    name: String,
    url: String,
}

impl TestDatabase {
    /// A fresh, empty database (UTF-8, collation C) on PostgreSQL 16, or on whatever server
    /// `ONEIRIC_OTEL_TEST_DATABASE_URL` names.
    ///
    /// # Panics
    /// If there is no server or it refuses: a test has nothing to run on then.
    pub async fn create() -> Self {
        Self::create_on(Version::V16).await
    }

    /// The same on a chosen version of PostgreSQL. PostgreSQL 18 listens to `ONEIRIC_OTEL_TEST_DATABASE_URL_18`.
    ///
    /// # Panics
    /// If there is no server or it refuses.
    pub async fn create_on(version: Version) -> Self {
        match Self::try_create(version).await {
            Ok(database) => database,
            Err(error) => panic!("no database for this test: {error:#}"),
        }
    }

    async fn try_create(version: Version) -> Result<Self> {
        let server = tokio::task::spawn_blocking(move || server::acquire(version)).await??;
        let name = Owner::this_process()?.database_name(NEXT.fetch_add(1, Ordering::Relaxed));
        let url = replace_database(server.url(), &name)?;
        let client = connect(server.url()).await?;
        // template0: nobody can be connected to it, which would make the copy fail, and it allows another collation.
        client
            .batch_execute(&format!(
                "create database {name} template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'"
            ))
            .await
            .with_context(|| format!("create database {name}"))?;
        Ok(Self { server, name, url })
    }

    /// The connection string of this database, `postgresql://...`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection string of another database on the same server, such as `postgres`: for tests that make roles.
    pub fn url_of(&self, database: &str) -> String {
        replace_database(self.server.url(), database).expect("checked when this database was made")
    }

    /// A connection to this database that finds the tables of the schemas otel and public without a prefix. It lives
    /// as long as the client.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn client(&self) -> Client {
        let opened = async {
            let client = connect(&self.url).await?;
            client.batch_execute("set search_path to otel, public").await?;
            anyhow::Ok(client)
        };
        match opened.await {
            Ok(client) => client,
            Err(error) => panic!("no connection to the test database {}: {error:#}", self.name),
        }
    }

    /// The one integer that `sql` returns, such as `select count(*) from otel_spans`. Opens a connection for it.
    ///
    /// # Panics
    /// If the query fails or returns anything but one row whose first column is an integer.
    pub async fn count(&self, sql: &str) -> i64 {
        // As text, so that int4, int8 and numeric are all welcome.
        let messages = match self.client().await.simple_query(sql).await {
            Ok(messages) => messages,
            Err(error) => panic!("{sql}: {:#}", anyhow::Error::from(error)),
        };
        let mut values = Vec::new();
        for message in &messages {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                values.push(row.get(0).and_then(|text| text.parse().ok()));
            }
        }
        match values.as_slice() {
            [Some(value)] => *value,
            other => panic!("{sql}: expected one row with one integer, found {other:?}"),
        }
    }
}

/// A role that belongs to one test and can log in.
#[derive(Debug, Clone)]
pub struct TestRole {
    /// Its name on the server.
    pub name: String,
    /// The connection string of the test's database for this role.
    pub url: String,
}

impl TestDatabase {
    /// A role that can log in and has no rights of its own. It goes when the database goes.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn create_role(&self, suffix: &str) -> TestRole {
        let name = format!("{}_{suffix}", self.name);
        let made = async {
            let url = replace_user(&self.url, &name)?;
            let client = connect(&self.url).await?;
            client.batch_execute(&format!("create role {name} login password '{ROLE_PASSWORD}'")).await?;
            anyhow::Ok(TestRole { name: name.clone(), url })
        };
        match made.await {
            Ok(role) => role,
            Err(error) => panic!("no role {name} for this test: {error:#}"),
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server_url = self.server.url().to_owned();
        let name = self.name.clone();
        // A thread with a runtime of its own: the test's runtime may be this thread's, and must not be blocked on.
        let thread = std::thread::spawn(move || server::run_blocking(drop_database(&server_url, &name)));
        // PostgreSQL drops the database once every session of the server took note, and a session that is in the
        // middle of a COPY takes note only when its client, perhaps a task of this runtime, goes on.
        let dropped = match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| thread.join()),
            _ => thread.join(),
        };
        let failure = match dropped {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_panic) => "the thread that should drop it panicked".to_owned(),
        };
        #[expect(clippy::print_stderr, reason = "a panic here could hide the test's own failure")]
        {
            eprintln!("the test database {} stays until the next test run: {failure}", self.name);
        }
    }
}

/// Drops what test runs that are dead left on the server. Failures are left to the next run.
pub(crate) async fn sweep(server_url: &str) -> Result<()> {
    let client = connect(server_url).await?;
    let rows = client.query("select datname::text from pg_database", &[]).await?;
    for row in rows {
        let name: String = row.try_get(0)?;
        if Owner::of_database(&name).is_some_and(Owner::is_gone) {
            // Another process may be sweeping too: whoever comes second fails, harmlessly.
            drop(client.batch_execute(&format!("drop database if exists {name} with (force)")).await);
        }
    }
    for row in client.query("select rolname::text from pg_roles", &[]).await? {
        let name: String = row.try_get(0)?;
        if Owner::of_role(&name).is_some_and(Owner::is_gone) {
            drop(client.batch_execute(&format!("drop role if exists {name}")).await);
        }
    }
    Ok(())
}

async fn drop_database(server_url: &str, name: &str) -> Result<()> {
    let client = connect(server_url).await?;
    client.batch_execute(&format!("drop database if exists {name} with (force)")).await?;
    let roles = "select rolname::text from pg_roles where starts_with(rolname, $1 || '_')";
    for row in client.query(roles, &[&name]).await? {
        client.batch_execute(&format!("drop role {}", row.try_get::<_, &str>(0)?)).await?;
    }
    Ok(())
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("connect to the test server")?;
    // Ends when the client is dropped; its errors reach whoever uses the client.
    tokio::spawn(connection);
    Ok(client)
}

/// The same server, another database. `url` is `postgresql://[user[:password]@][host][:port][/database][?parameters]`.
fn replace_database(url: &str, name: &str) -> Result<String> {
    let (scheme, rest) = url
        .split_once("://")
        .context("ONEIRIC_OTEL_TEST_DATABASE_URL must be a URL: postgresql://user:password@host:port/database")?;
    let (location, parameters) = rest.split_once('?').map_or((rest, None), |(left, right)| (left, Some(right)));
    let server = location.split_once('/').map_or(location, |(left, _database)| left);
    let parameters = parameters.map(|text| format!("?{text}")).unwrap_or_default();
    Ok(format!("{scheme}://{server}/{name}{parameters}"))
}

/// The same place, as another user.
fn replace_user(url: &str, user: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").context("checked when the database was made")?;
    let location = rest.split_once('@').map_or(rest, |(_login, location)| location);
    Ok(format!("{scheme}://{user}:{ROLE_PASSWORD}@{location}"))
}

#[cfg(test)]
mod tests;
