//! The figures that are committed: a line for each path, its name and its instructions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const HEAD: &str = "# Instructions of a unit of each path, as `cargo run --profile guard -p oneiric-otel-guard -- --update` \
                    counted them.\n";

/// Instructions by the name of the path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits(BTreeMap<String, u64>);

impl Limits {
    /// Of the file; none when it is missing.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut limits = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let Some((name, count)) = line.split_once(' ') else { bail!("{line:?}: expected a name and a number") };
            limits.set(name, count.trim().parse().with_context(|| format!("{line:?}: expected a name and a number"))?);
        }
        Ok(limits)
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let mut text = HEAD.to_owned();
        for (name, count) in &self.0 {
            writeln!(text, "{name} {count}")?;
        }
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    pub(crate) fn of(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    pub(crate) fn set(&mut self, name: &str, count: u64) {
        self.0.insert(name.to_owned(), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::PATHS;

    #[test]
    fn what_is_written_is_read_and_nonsense_is_not() {
        let limits = Limits::parse("# a comment\n\ndecode 12\nspool  3456\n").unwrap();
        assert_eq!((limits.of("decode"), limits.of("spool"), limits.of("other")), (Some(12), Some(3456), None));
        let file = tempfile::NamedTempFile::new().unwrap();
        limits.write(file.path()).unwrap();
        assert_eq!(Limits::read(file.path()).unwrap(), limits);
        for nonsense in ["decode", "decode twelve"] {
            let refused = format!("{:#}", Limits::parse(nonsense).unwrap_err());
            assert!(refused.contains(nonsense), "{refused}");
        }
    }

    #[test]
    fn every_path_has_a_limit_and_nothing_else_has() {
        let limits = Limits::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("limits.txt")).unwrap();
        let mut names: Vec<&str> = PATHS.iter().map(|path| path.name).collect();
        names.sort_unstable();
        assert_eq!(limits.0.keys().map(String::as_str).collect::<Vec<_>>(), names);
    }
}
