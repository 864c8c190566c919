//! The database that a system works on: one that somebody named, or the embedded one, attached to or started for as long
//! as it is needed.

use crate::store::{Database, StoreError};

#[cfg(feature = "embedded")]
use super::embedded::Embedded;

/// An open database. Letting go of it stops the embedded server if nobody else uses it.
#[derive(Debug)]
pub struct Backend {
    database: Database,
    maintenance: Option<Database>,
    #[cfg(feature = "embedded")]
    embedded: Option<Embedded>,
}

/// Whether the schema is known to be up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It is.
    Ready,
    /// The database could not be asked yet.
    Awaited,
}

/// What went wrong with a database before or after it was asked anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The database answered badly or not at all.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// PostgreSQL could not be obtained.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Parts(#[from] oneiric_otel_parts::PartsError),
    /// The embedded server did not do what it was told.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Postgres(#[from] oneiric_otel_postgres::PostgresError),
    /// The runtime was shut down in the middle.
    #[error("{what} was cut off")]
    Interrupted {
        /// What was going on.
        what: &'static str,
    },
}

impl Backend {
    /// A database that somebody named, and where it has one, another way to it for migrations and maintenance.
    pub fn new(database: Database, maintenance: Option<Database>) -> Self {
        Self {
            database,
            maintenance,
            #[cfg(feature = "embedded")]
            embedded: None,
        }
    }

    /// The embedded database of a directory: attaches to its server, or starts it, or makes it. A statement of a question
    /// may take `read_limit`.
    ///
    /// # Errors
    /// When PostgreSQL cannot be obtained or started there.
    #[cfg(feature = "embedded")]
    pub async fn embedded(
        data_dir: std::path::PathBuf,
        read_limit: std::time::Duration,
        progress: std::sync::Arc<dyn oneiric_otel_parts::Progress>,
    ) -> Result<Self, BackendError> {
        let (embedded, url) = Embedded::open(data_dir, progress).await?;
        Ok(Self {
            database: Database::new(&url)?.with_read_limit(read_limit),
            maintenance: None,
            embedded: Some(embedded),
        })
    }

    /// Whether this is the embedded database.
    pub fn is_embedded(&self) -> bool {
        #[cfg(feature = "embedded")]
        return self.embedded.is_some();
        #[cfg(not(feature = "embedded"))]
        return false;
    }

    /// The embedded server, if that is what this is.
    #[cfg(feature = "embedded")]
    pub fn embedded_server(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    /// Brings the schema up to date. Returns what was applied.
    ///
    /// # Errors
    /// Of class transient where the database is away.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        migrate(&self.database, self.other_way()).await
    }

    /// The same for who can wait: a database that is away is no error.
    ///
    /// # Errors
    /// When the database answers and the schema cannot be brought up to date.
    pub async fn migrate_if_there(&self) -> Result<Schema, StoreError> {
        match self.migrate().await {
            Ok(_) => Ok(Schema::Ready),
            Err(error) if error.class() == crate::store::ErrorClass::Transient => {
                tracing::warn!(%error, database = self.target(), "the database is away; requests wait for it");
                Ok(Schema::Awaited)
            }
            Err(error) => Err(error),
        }
    }

    /// The database for migrations and maintenance.
    pub fn maintenance(&self) -> &Database {
        self.maintenance.as_ref().unwrap_or(&self.database)
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Host, port and database, without credentials.
    pub fn target(&self) -> &str {
        self.database.target()
    }

    /// Closes the connections and lets go of the embedded server.
    ///
    /// # Errors
    /// When the embedded server cannot be stopped.
    pub async fn release(self) -> Result<(), BackendError> {
        self.database.close();
        if let Some(maintenance) = &self.maintenance {
            maintenance.close();
        }
        #[cfg(feature = "embedded")]
        let released = async {
            match self.embedded {
                Some(embedded) => embedded.release().await,
                None => Ok(()),
            }
        };
        #[cfg(not(feature = "embedded"))]
        let released = std::future::ready(Ok(()));
        released.await
    }

    /// Another way to the database, for migrations and maintenance, where it has one.
    pub(super) fn other_way(&self) -> Option<&Database> {
        self.maintenance.as_ref()
    }
}

/// Brings the schema of `database` up to date, over the connection `maintenance` if there is one.
pub(super) async fn migrate(database: &Database, maintenance: Option<&Database>) -> Result<Vec<String>, StoreError> {
    let Some(maintenance) = maintenance else { return database.migrate().await };
    let mut applied = maintenance.migrate().await?;
    // Nothing is left to be done, if both lead to the same database.
    applied.extend(database.migrate().await?);
    Ok(applied)
}
