//! Flags of settings, made from the table of settings: name, help, range and default stand there alone.

use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use oneiric_otel::settings::{Accepts, ENV_PREFIX, FlagOf, Setting, Settings, Shown};

use crate::hide;

/// A value of a flag as it was given.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) setting: &'static str,
    pub(crate) flag: String,
    pub(crate) value: OsString,
}

/// Whose flags these are.
pub(crate) trait Who {
    /// Whether what variables say of these settings counts.
    const HAS_VARIABLES: bool = true;

    fn has(of: FlagOf) -> bool;
}

/// Every command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Everyone;

/// `demo`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listener;

/// `serve`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server;

impl Who for Everyone {
    fn has(of: FlagOf) -> bool {
        of == FlagOf::All
    }
}

impl Who for Listener {
    const HAS_VARIABLES: bool = false;

    fn has(of: FlagOf) -> bool {
        of == FlagOf::Listeners
    }
}

impl Who for Server {
    fn has(of: FlagOf) -> bool {
        matches!(of, FlagOf::Listeners | FlagOf::Server)
    }
}

/// The flags of `W` that were given.
#[derive(Clone)]
pub(crate) struct SettingFlags<W> {
    pub(crate) given: Vec<Given>,
    who: PhantomData<W>,
}

impl<W> fmt::Debug for SettingFlags<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.given.iter().map(|given| &given.flag)).finish()
    }
}

impl<W: Who> SettingFlags<W> {
    fn settings() -> impl Iterator<Item = (&'static Setting, oneiric_otel::settings::Flag)> {
        Settings::table().filter_map(|setting| Some((setting, setting.flag?))).filter(|(_, flag)| W::has(flag.of))
    }
}

impl<W: Who> FromArgMatches for SettingFlags<W> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (setting, flag) in Self::settings() {
            let Some(values) = matches.get_many::<OsString>(setting.name) else { continue };
            let value = hide::found(flag.long, values.cloned().collect::<Vec<_>>().join(",".as_ref()));
            given.push(Given { setting: setting.name, flag: format!("--{}", flag.long), value });
        }
        Ok(Self { given, who: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<W: Who> Args for SettingFlags<W> {
    fn augment_args(command: clap::Command) -> clap::Command {
        Self::settings().fold(command, |command, (setting, flag)| {
            let arg = Arg::new(setting.name)
                .long(flag.long)
                .value_name(if flag.value.is_empty() { "BOOL" } else { flag.value })
                .help(help(setting, W::HAS_VARIABLES))
                .global(flag.of == FlagOf::All)
                .value_parser(clap::value_parser!(OsString));
            let arg = match setting.accepts {
                Accepts::Switch => {
                    arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true)
                }
                _ if is_list(setting) => arg.action(ArgAction::Append),
                _ => arg,
            };
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn is_list(setting: &Setting) -> bool {
    matches!(Settings::default().show(setting.name), Some(Shown::List(_)))
}

/// What the setting is for, its range, its default and its variable, if that counts.
fn help(setting: &Setting, has_variable: bool) -> String {
    let range = match setting.accepts {
        Accepts::Integer { .. } | Accepts::Number { .. } => format!("; {}", setting.accepts),
        Accepts::Word(words) => format!(" [possible values: {}]", words.join(", ")),
        Accepts::Switch | Accepts::Text { .. } => String::new(),
    };
    let default = match (Settings::default().show(setting.name), setting.unset) {
        (Some(Shown::Unset) | None, unset) => unset.map(str::to_owned),
        (Some(Shown::List(_) | Shown::Switch(_)), _) => None,
        (Some(shown), _) => Some(shown.to_string()),
    };
    let default = default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    let variable = if has_variable { format!(" [env: {ENV_PREFIX}{}]", setting.variable()) } else { String::new() };
    format!("{}{range}{default}{variable}", setting.doc)
}
