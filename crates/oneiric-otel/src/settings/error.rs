//! What can be wrong with settings. No message repeats a secret.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// Where a value comes from. Later ones win over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The program that the settings belong to.
    Program,
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line, as `--ack`.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Program => f.write_str("this program"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "command line {flag}"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// There is no such setting.
    #[error("{origin}: there is no setting {key:?}{}", nearest(near.as_deref()))]
    UnknownKey {
        /// Who names it.
        #[serde(rename = "source")]
        origin: Source,
        /// The name.
        key: String,
        /// The setting whose name is most like it, if any is.
        near: Option<String>,
    },
    /// A value is not of the accepted kind, or out of its range.
    #[error("{origin}: {key}: expected {accepted}{}", found_text(found.as_deref()))]
    Value {
        /// Who says it.
        #[serde(rename = "source")]
        origin: Source,
        /// The setting.
        key: &'static str,
        /// What is accepted.
        accepted: String,
        /// What was found; none where it may be a secret.
        found: Option<String>,
    },
    /// Settings that do not go together.
    #[error("{key}: {reason}")]
    Conflict {
        /// One of them.
        key: &'static str,
        /// What it needs, or what it excludes.
        reason: String,
    },
    /// A file that holds no settings.
    #[error("file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// A prefix that no variables can have, or that none has while another that looks like it is in use.
    #[error("prefix {prefix:?}: {reason}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn nearest(near: Option<&str>) -> String {
    near.map(|near| format!("; the nearest one is {near}")).unwrap_or_default()
}

fn found_text(found: Option<&str>) -> String {
    found.map(|found| format!(", found {found}")).unwrap_or_default()
}

/// Everything that is wrong with the settings, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<Problem>,
}

impl SettingsError {
    /// Ok if there are none.
    pub(super) fn of(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// One setting that something else excludes.
    pub(crate) fn conflict(key: &'static str, reason: impl Into<String>) -> Self {
        Self { problems: vec![Problem::Conflict { key, reason: reason.into() }] }
    }

    /// What is wrong, at least one thing.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}
