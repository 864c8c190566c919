//! From the sources to settings, with who said what.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

use super::error::{Problem, SettingsError, Source};
#[cfg(feature = "settings-files")]
use super::file::read as read_file;
use super::raw::Raw;
use super::table::{Setting, Settings};
use super::value::{DatabaseUrl, Shown};

/// What variables begin with unless an application chooses otherwise.
pub const ENV_PREFIX: &str = "OTEL_STORAGE_";

/// After the prefix: the variable that names a file of settings.
const CONFIG: &str = "CONFIG";

/// Names that are less alike are not taken for a slip.
const LIKE: f64 = 0.75;

/// Characters by which a prefix can differ from one that was meant.
const SLIPS: usize = 3;

/// Settings, and where each comes from.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    origins: BTreeMap<&'static str, Source>,
}

/// A setting as `config show` tells of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownSetting {
    /// Its name.
    pub name: &'static str,
    /// Its value; of a secret only that it is there.
    pub value: Shown,
    /// Who said so.
    pub source: Source,
}

impl Resolved {
    /// Where the value of a setting comes from.
    pub fn origin(&self, name: &str) -> &Source {
        self.origins.get(name).unwrap_or(&Source::Default)
    }

    /// Every setting, its value and where it comes from.
    pub fn show(&self) -> Vec<ShownSetting> {
        let show = |setting: &Setting| ShownSetting {
            name: setting.name,
            value: self.settings.show(setting.name).unwrap_or(Shown::Unset),
            source: self.origin(setting.name).clone(),
        };
        Settings::table().map(show).collect()
    }
}

impl Settings {
    /// Settings from the variables of this process that begin with `prefix`, such as `MAHAVISHNU_OTEL_STORAGE__`: the
    /// prefix, then the name in capitals, with `__` for a dot. `CONFIG` after the prefix names a file, over which the
    /// variables win. Variables that are set to nothing say nothing.
    ///
    /// No variable at all is no error: then everything is as by default. But if there is one with the name of a setting and
    /// a prefix that differs by a slip, the prefix is refused.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn from_env(prefix: &str) -> Result<Self, SettingsError> {
        Loader::new().environment(prefix).finish().map(|resolved| resolved.settings)
    }

    /// Settings from a file: TOML if its name ends in `.toml`, YAML if in `.yaml` or `.yml`. Takes the crate's feature
    /// `settings-files`; without it every file is refused.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SettingsError> {
        Loader::new().file(path).finish().map(|resolved| resolved.settings)
    }
}

/// Puts sources together, in the order in which they are given: what comes later wins.
#[derive(Debug, Default)]
pub struct Loader {
    settings: Settings,
    origins: BTreeMap<&'static str, Source>,
    problems: Vec<Problem>,
}

impl Loader {
    /// Begins with the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file of settings.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let source = Source::File(path.to_owned());
        match read_file(path) {
            Ok(Content { entries, exposure }) => {
                let secret = entries.iter().find_map(|(key, raw)| secret(key, raw));
                if let (Some(setting), Some(reason)) = (secret, exposure) {
                    let reason = format!("{} stands there, which is a secret, and {reason}", setting.name);
                    self.problems.push(Problem::File { path: path.to_owned(), reason });
                }
                for (key, raw) in entries {
                    self.apply(&key, &raw, &source);
                }
            }
            Err(reason) => self.problems.push(Problem::File { path: path.to_owned(), reason }),
        }
        self
    }

    /// Adds the variables of this process that begin with `prefix`, and before them the file that one of them may name.
    #[must_use]
    pub fn environment(self, prefix: &str) -> Self {
        self.file_and_environment(None, prefix)
    }

    /// As [`Self::environment`], with this file, if there is one, in place of the one that a variable may name.
    #[must_use]
    pub fn file_and_environment(self, file: Option<&Path>, prefix: &str) -> Self {
        let variables: Vec<_> =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        let is_named = |(name, value): &&(String, OsString)| {
            !value.is_empty() && name.strip_prefix(prefix).is_some_and(|rest| rest == CONFIG)
        };
        let named = variables.iter().find(is_named).map(|(_, path)| Path::new(path));
        let with_file = match file.or(named) {
            Some(path) => self.file(path),
            None => self,
        };
        with_file.variables(prefix, variables)
    }

    /// Adds variables, of which those count that begin with `prefix`.
    #[must_use]
    pub fn variables(mut self, prefix: &str, variables: impl IntoIterator<Item = (String, OsString)>) -> Self {
        let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if !(prefix.ends_with('_') && prefix.bytes().all(is_plain) && prefix.bytes().any(|byte| byte != b'_')) {
            let reason = "expected capitals, digits and _, with _ at the end, such as OTEL_STORAGE_".to_owned();
            self.problems.push(Problem::Prefix { prefix: prefix.to_owned(), reason });
            return self;
        }
        let mut is_used = false;
        let mut others = Vec::new();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(prefix) else {
                others.push(name);
                continue;
            };
            is_used = true;
            if rest == CONFIG {
                continue;
            }
            let origin = Source::Variable(name.clone());
            match Settings::table().find(|setting| setting.variable() == rest) {
                Some(setting) => self.apply(setting.name, &Raw::Said(value), &origin),
                None => self.unknown(&rest.replace("__", ".").to_ascii_lowercase(), &origin),
            }
        }
        if !is_used && let Some(meant) = others.iter().find(|name| is_slip(name, prefix)) {
            let reason = format!("no variable begins with it, but there is {meant}");
            self.problems.push(Problem::Prefix { prefix: prefix.to_owned(), reason });
        }
        self
    }

    /// Adds one setting as a command line gives it: its name, its value, and the flag. A secret is refused: others can read
    /// a command line. So is a URL with a password from another flag than the setting's own, which the program takes off
    /// its command line.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Into<OsString>, flag: impl Into<String>) -> Self {
        let (raw, flag) = (Raw::Said(value.into()), flag.into());
        let own = |setting: &Setting| setting.flag.map(|flag| format!("--{}", flag.long));
        let refused = Settings::table()
            .find(|setting| setting.name == name && setting.is_secret)
            .or_else(|| secret(name, &raw).filter(|setting| own(setting).is_none_or(|own| own != flag)));
        let origin = Source::Flag(flag);
        match refused {
            Some(setting) => {
                let accepted = match own(setting) {
                    Some(own) => format!(
                        "a URL without a password, since others can read a command line; {own}, the variable \
                         {ENV_PREFIX}{} and a file take one with a password",
                        setting.variable()
                    ),
                    None => "a variable or a file, since others can read a command line".to_owned(),
                };
                self.problems.push(Problem::Value { origin, key: setting.name, accepted, found: None });
            }
            None => self.apply(name, &raw, &origin),
        }
        self
    }

    /// The settings, if nothing is wrong with any source.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn finish(mut self) -> Result<Resolved, SettingsError> {
        self.problems.extend(self.settings.conflicts());
        SettingsError::of(self.problems)?;
        Ok(Resolved { settings: self.settings, origins: self.origins })
    }

    fn unknown(&mut self, key: &str, origin: &Source) {
        let near = near(key).map(str::to_owned);
        self.problems.push(Problem::UnknownKey { origin: origin.clone(), key: key.to_owned(), near });
    }

    fn apply(&mut self, key: &str, raw: &Raw, source: &Source) {
        let Some(setting) = Settings::table().find(|setting| setting.name == key) else {
            self.unknown(key, source);
            return;
        };
        // A secret that is set to nothing did not arrive; that is not the wish to be open.
        if raw.says_nothing() && !setting.is_secret {
            return;
        }
        match self.settings.put(key, raw) {
            Some(Ok(())) => {
                self.origins.insert(setting.name, source.clone());
            }
            _ => self.problems.push(Problem::Value {
                origin: source.clone(),
                key: setting.name,
                accepted: setting.accepts.to_string(),
                found: (!setting.holds_password).then(|| raw.describe()),
            }),
        }
    }
}

/// What a file says.
pub(super) struct Content {
    /// Keys in the order of the file, with dots between the parts, and their values.
    pub(super) entries: Vec<(String, Raw)>,
    /// Why it is no place for secrets, if it is none.
    pub(super) exposure: Option<String>,
}

/// The setting of this name, if others must not see the value.
fn secret(name: &str, raw: &Raw) -> Option<&'static Setting> {
    let setting = Settings::table().find(|setting| setting.name == name && setting.holds_password)?;
    let is_secret = setting.is_secret || raw.text().is_none_or(|text| DatabaseUrl::new(text).may_have_password());
    (is_secret && !raw.says_nothing()).then_some(setting)
}

#[cfg(not(feature = "settings-files"))]
fn read_file(_path: &Path) -> Result<Content, String> {
    Err("this program is built without the feature settings-files, which reads it".to_owned())
}

/// The setting that may have been meant, by its name or its flag.
fn near(key: &str) -> Option<&'static str> {
    let wanted = key.to_ascii_lowercase().replace('-', "_");
    let likeness = |setting: &Setting| {
        let last = setting.name.rsplit('.').next().unwrap_or_default();
        let flag = setting.flag.map(|flag| flag.long.replace('-', "_")).unwrap_or_default();
        [setting.name, last, &flag].iter().map(|name| strsim::jaro_winkler(name, &wanted)).fold(0.0, f64::max)
    };
    let rated = Settings::table().map(|setting| (likeness(setting), setting.name));
    rated.max_by(|one, other| one.0.total_cmp(&other.0)).filter(|(like, _)| *like >= LIKE).map(|(_, name)| name)
}

/// Whether a variable has the name of a setting behind a prefix that is not, but nearly, this one.
fn is_slip(name: &str, prefix: &str) -> bool {
    let slips = SLIPS.min(prefix.len() / 4);
    Settings::table().any(|setting| {
        let head = name.strip_suffix(&setting.variable());
        head.is_some_and(|head| head.ends_with('_') && strsim::damerau_levenshtein(head, prefix) <= slips)
    })
}
