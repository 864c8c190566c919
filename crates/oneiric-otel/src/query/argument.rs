//! Arguments that are text, as every call reads them.
//!
//! Promise: what passes can be sent to the database, and a name is as rows have it.

use super::QueryError;
use crate::derive::trace::{MAX_NAME_BYTES, cut};

/// The argument `name`, which must be without NUL: no text of the database has one.
///
/// # Errors
/// [`QueryError::InvalidArgument`] that names the argument.
pub(super) fn without_nul<'a>(name: &'static str, text: &'a str) -> Result<&'a str, QueryError> {
    if text.contains('\0') {
        return Err(QueryError::InvalidArgument { name, accepted: "a text without NUL".to_owned() });
    }
    Ok(text)
}

/// A name of a service, an operation or the like: rows have the beginning of a very long one.
///
/// # Errors
/// [`QueryError::InvalidArgument`] for one that is empty or has a NUL.
pub(super) fn name_argument(name: &'static str, text: &str) -> Result<String, QueryError> {
    if text.is_empty() || text.contains('\0') {
        return Err(QueryError::InvalidArgument { name, accepted: "a name that is not empty, without NUL".to_owned() });
    }
    Ok(cut(text, MAX_NAME_BYTES))
}

/// The argument `service`, if it is given.
///
/// # Errors
/// As [`name_argument`].
pub(super) fn service_argument(service: Option<&str>) -> Result<Option<String>, QueryError> {
    service.map(|service| name_argument("service", service)).transpose()
}
