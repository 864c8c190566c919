//! What PostgreSQL's answers mean for the caller. No other file looks at an SQLSTATE.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

/// A failed attempt to talk to PostgreSQL.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    class: ErrorClass,
    message: String,
    code: Option<SqlState>,
    constraint: Option<String>,
    mark: Option<Mark>,
}

/// What is known of a failure beyond its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Trying the same again is useless although the trouble is transient.
    Stale,
    /// Nobody took the rows of an answer.
    NotTaken,
    /// It says nothing about the database.
    Elsewhere,
}

/// What to do about a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The database is away or busy. The same call can succeed later.
    Transient,
    /// The database refuses these values. The same rows will be refused again; other rows are fine.
    BadData,
    /// The database or our access to it is not as it must be. The data is good; a person has to act.
    Misconfigured,
}

impl ErrorClass {
    /// The word used in logs, metrics and the dead-letter table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::BadData => "bad-data",
            Self::Misconfigured => "misconfigured",
        }
    }
}

impl StoreError {
    /// An error of our own making that only a person can mend.
    pub(crate) fn misconfigured(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Misconfigured, message: message.into(), code: None, constraint: None, mark: None }
    }

    /// An error that time may mend.
    pub(crate) fn transient(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Transient, message: message.into(), code: None, constraint: None, mark: None }
    }

    /// Something other than the database failed, and may be mended.
    pub(crate) fn elsewhere(error: impl std::error::Error) -> Self {
        Self { mark: Some(Mark::Elsewhere), ..Self::transient(error.to_string()) }
    }

    /// Whether it says nothing about the database.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.mark == Some(Mark::Elsewhere)
    }

    /// Whether the database has answered, so that the connection is as good as before.
    pub(crate) fn is_answer(&self) -> bool {
        self.code.is_some()
    }

    /// What was prepared no longer fits the database and has to be prepared again.
    pub(crate) fn stale(message: impl Into<String>) -> Self {
        Self { mark: Some(Mark::Stale), ..Self::transient(message) }
    }

    /// Whether trying the same again is useless although the trouble is transient.
    pub(crate) fn is_stale(&self) -> bool {
        self.mark == Some(Mark::Stale)
    }

    /// A statement was given up after this time.
    pub(crate) fn too_long(limit: std::time::Duration) -> Self {
        let message = format!("the statement took longer than {} s and was cancelled", limit.as_secs_f64());
        Self { code: Some(SqlState::QUERY_CANCELED), ..Self::transient(message) }
    }

    /// An answer was ended because nobody took a row of it for this time.
    pub(crate) fn not_taken(patience: std::time::Duration) -> Self {
        let message = format!("nobody read on for {} s, so the answer was ended", patience.as_secs_f64());
        Self { mark: Some(Mark::NotTaken), ..Self::transient(message) }
    }

    /// Whether an answer was ended because nobody read on.
    pub(crate) fn is_not_taken(&self) -> bool {
        self.mark == Some(Mark::NotTaken)
    }

    /// Whether a statement was given up because of its time.
    pub(crate) fn is_too_long(&self) -> bool {
        self.code == Some(SqlState::QUERY_CANCELED)
    }

    /// What kind of trouble it is.
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// A unique key was there already.
    pub(crate) fn is_duplicate_key(&self) -> bool {
        self.code == Some(SqlState::UNIQUE_VIOLATION)
    }

    /// No partition covers the row's time. PostgreSQL reports it as a check violation without a constraint.
    pub(crate) fn is_missing_partition(&self) -> bool {
        self.code == Some(SqlState::CHECK_VIOLATION) && self.constraint.is_none()
    }

    /// A lock is held by somebody else, and was not waited for, or for too long.
    pub(crate) fn is_locked(&self) -> bool {
        self.code == Some(SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Given up because others waited for this in turn.
    pub(crate) fn is_deadlock(&self) -> bool {
        self.code == Some(SqlState::T_R_DEADLOCK_DETECTED)
    }

    /// This server, or this table as it stands, cannot do that at all.
    pub(crate) fn is_not_possible_here(&self) -> bool {
        let cannot = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
        self.code.as_ref().is_some_and(|code| cannot.contains(code))
    }

    /// A partition would have times that another has.
    pub(crate) fn is_overlap(&self) -> bool {
        self.code == Some(SqlState::INVALID_OBJECT_DEFINITION)
    }

    /// The table or the column is not there.
    pub(crate) fn is_undefined(&self) -> bool {
        self.is_undefined_table() || self.code == Some(SqlState::UNDEFINED_COLUMN)
    }

    /// The role may not do it.
    pub(crate) fn is_denied(&self) -> bool {
        self.code == Some(SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// The table is not there.
    pub(crate) fn is_undefined_table(&self) -> bool {
        self.code == Some(SqlState::UNDEFINED_TABLE)
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(database) = error.as_db_error() else {
            let message = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            return Self { class: class_without_answer(&error), message, code: None, constraint: None, mark: None };
        };
        let mut message = format!("{} (SQLSTATE {})", database.message(), database.code().code());
        if let Some(detail) = database.detail() {
            message.push_str(": ");
            message.push_str(detail);
        }
        if let Some(hint) = database.hint() {
            message.push_str("; hint: ");
            message.push_str(hint);
        }
        Self {
            class: classify(database.code()),
            message,
            code: Some(database.code().clone()),
            constraint: database.constraint().map(str::to_owned),
            mark: None,
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            other => Self::transient(format!("no database connection: {other}")),
        }
    }
}

/// `transaction_timeout`, since PostgreSQL 17.
const TRANSACTION_TIMEOUT: &str = "25P04";

/// The class of an error that the server did not send: the connection broke, could not be made, or the driver cannot do
/// what the server or the URL asks for, such as a password that is missing. The driver tells these apart by words alone.
fn class_without_answer(error: &tokio_postgres::Error) -> ErrorClass {
    match error.to_string().as_str() {
        "invalid configuration" | "authentication error" => ErrorClass::Misconfigured,
        _ => ErrorClass::Transient,
    }
}

/// The class of an SQLSTATE, by its first two characters unless the code itself says more.
fn classify(code: &SqlState) -> ErrorClass {
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        // A failover in progress: the connection leads to the old primary.
        return ErrorClass::Transient;
    }
    if code.code() == TRANSACTION_TIMEOUT {
        return ErrorClass::Transient;
    }
    let mends_itself = [
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        // Another instance makes the same partition at this moment.
        SqlState::DUPLICATE_TABLE,
        // The session behind a pooler changed under us.
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
    ];
    if mends_itself.contains(code) {
        return ErrorClass::Transient;
    }
    match code.code().get(..2).unwrap_or_default() {
        // connection, transaction rollback (serialization, deadlock), resources, operator intervention, lock timeout,
        // system error, internal error
        "08" | "40" | "53" | "57" | "55" | "58" | "XX" => ErrorClass::Transient,
        // data exception, integrity, program limit
        "22" | "23" | "54" => ErrorClass::BadData,
        _ => ErrorClass::Misconfigured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_sqlstate() {
        let cases = [
            (SqlState::CONNECTION_FAILURE, ErrorClass::Transient),
            (SqlState::T_R_DEADLOCK_DETECTED, ErrorClass::Transient),
            (SqlState::DISK_FULL, ErrorClass::Transient),
            (SqlState::TOO_MANY_CONNECTIONS, ErrorClass::Transient),
            (SqlState::ADMIN_SHUTDOWN, ErrorClass::Transient),
            (SqlState::CANNOT_CONNECT_NOW, ErrorClass::Transient),
            (SqlState::LOCK_NOT_AVAILABLE, ErrorClass::Transient),
            (SqlState::READ_ONLY_SQL_TRANSACTION, ErrorClass::Transient),
            (SqlState::DUPLICATE_TABLE, ErrorClass::Transient),
            (SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, ErrorClass::Transient),
            (SqlState::from_code(TRANSACTION_TIMEOUT), ErrorClass::Transient),
            (SqlState::INTERNAL_ERROR, ErrorClass::Transient),
            (SqlState::CHARACTER_NOT_IN_REPERTOIRE, ErrorClass::BadData),
            (SqlState::CHECK_VIOLATION, ErrorClass::BadData),
            (SqlState::STATEMENT_TOO_COMPLEX, ErrorClass::BadData),
            (SqlState::INVALID_PASSWORD, ErrorClass::Misconfigured),
            (SqlState::UNDEFINED_TABLE, ErrorClass::Misconfigured),
            (SqlState::INSUFFICIENT_PRIVILEGE, ErrorClass::Misconfigured),
            (SqlState::INVALID_CATALOG_NAME, ErrorClass::Misconfigured),
        ];
        for (code, class) in cases {
            assert_eq!(classify(&code), class, "{}", code.code());
        }
    }

    /// A server that asks everybody for a password.
    async fn ask_for_password(listener: tokio::net::TcpListener) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        const AUTHENTICATION_CLEARTEXT_PASSWORD: &[u8] = &[b'R', 0, 0, 0, 8, 0, 0, 0, 3];
        let (mut stream, _) = listener.accept().await.unwrap();
        let startup = stream.read(&mut [0; 1024]).await.unwrap();
        assert!(startup > 0);
        stream.write_all(AUTHENTICATION_CLEARTEXT_PASSWORD).await.unwrap();
    }

    #[tokio::test]
    async fn a_password_that_is_missing_is_no_database_that_is_away() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(ask_for_password(listener));
        let url = format!("postgresql://somebody@127.0.0.1:{port}/otel?sslmode=disable");
        let error = crate::store::Database::new(&url).unwrap().ping().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Misconfigured, "{error}");
        assert!(error.to_string().contains("password missing"), "{error}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_a_database_that_is_away() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("postgresql://somebody@127.0.0.1:{port}/otel");
        let error = crate::store::Database::new(&url).unwrap().ping().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    }
}
