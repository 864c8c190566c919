//! Passwords on the command line are taken off the process list.
//!
//! Everybody on a machine can read the arguments of a process, only its owner the environment. So a program that is
//! started with a password in a URL starts itself once more, in the same process, with the URL in a variable.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use oneiric_otel::settings::{DatabaseUrl, Settings};

/// What stands on the command line in place of a URL.
const HIDDEN: &str = "(hidden)";

/// Before the name of the setting in the variable with the URL.
const VARIABLE: &str = "ONEIRIC_OTEL_HIDDEN_";

/// The flags that take a URL, without dashes, each with its variable.
fn flags() -> impl Iterator<Item = (&'static str, String)> {
    let settings = Settings::table().filter(|setting| setting.holds_password);
    settings.filter_map(|setting| Some((setting.flag?.long, format!("{VARIABLE}{}", setting.variable()))))
}

/// Starts the program again if its arguments have a password in them. Returns if they have none.
///
/// # Errors
/// If it cannot be started again.
pub(crate) fn passwords() -> io::Result<()> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let Hidden { arguments, variables } = hide(arguments.collect());
    if variables.is_empty() {
        return Ok(());
    }
    Err(Command::new(std::env::current_exe()?).arg0(name).args(arguments).envs(variables).exec())
}

/// What a flag was given, where the command line has it no more.
pub(crate) fn found(flag: &str, value: OsString) -> OsString {
    if value != HIDDEN {
        return value;
    }
    let variable = flags().find(|(long, _)| *long == flag).map(|(_, variable)| variable);
    variable.and_then(std::env::var_os).unwrap_or(value)
}

/// The variables that no other program needs to see.
pub(crate) fn variables() -> impl Iterator<Item = String> {
    flags().map(|(_, variable)| variable)
}

#[derive(Debug, PartialEq)]
struct Hidden {
    arguments: Vec<OsString>,
    variables: Vec<(String, OsString)>,
}

fn hide(arguments: Vec<OsString>) -> Hidden {
    let mut hidden = Hidden { arguments: Vec::with_capacity(arguments.len()), variables: Vec::new() };
    // The flag whose value comes next.
    let mut awaits = None;
    for argument in arguments {
        if let Some(variable) = awaits.take() {
            hidden.arguments.push(hidden_value(argument, variable, &mut hidden.variables));
            continue;
        }
        let mut shown = argument.clone();
        if let Some(flag) = argument.to_str().and_then(|text| text.strip_prefix("--")) {
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            if let Some((_, variable)) = flags().find(|(long, _)| *long == name) {
                match value {
                    Some(value) => {
                        shown = OsString::from(format!("--{name}="));
                        shown.push(hidden_value(value.into(), variable, &mut hidden.variables));
                    }
                    None => awaits = Some(variable),
                }
            }
        }
        hidden.arguments.push(shown);
    }
    hidden
}

fn hidden_value(value: OsString, variable: String, variables: &mut Vec<(String, OsString)>) -> OsString {
    let has_password = |url: &str| DatabaseUrl::new(url).may_have_password();
    if value == OsStr::new(HIDDEN) || !value.to_str().is_some_and(has_password) {
        return value;
    }
    variables.push((variable, value));
    HIDDEN.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_nothing_else_are_hidden() {
        let line = |line: &[&str]| line.iter().map(OsString::from).collect::<Vec<_>>();
        for plain in [
            &["traces", "--limit", "5"][..],
            &["traces", "--database-url", "postgresql://u@h/d"],
            &["traces", "--database-url=postgresql://u@h/d"],
            &["traces", "--database-url"],
            &["traces", "--database-url", HIDDEN],
            &["psql", "-c", "select '--database-url'"],
        ] {
            assert_eq!(hide(line(plain)), Hidden { arguments: line(plain), variables: Vec::new() });
        }
        let hidden = hide(line(&[
            "--database-url",
            "postgresql://u:s3cr3t@h/d",
            "traces",
            "--reader-url=postgres://h/d?password=s3cr3t",
            "--sql-reader-url=postgres://u:p@s@h",
        ]));
        let arguments = ["--database-url", HIDDEN, "traces", "--reader-url=(hidden)", "--sql-reader-url=(hidden)"];
        assert_eq!(hidden.arguments, line(&arguments));
        let names: Vec<&str> = hidden.variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "ONEIRIC_OTEL_HIDDEN_CONNECTION_STRING",
                "ONEIRIC_OTEL_HIDDEN_READER_URL",
                "ONEIRIC_OTEL_HIDDEN_SQL_READER_URL"
            ]
        );
        assert_eq!(hidden.variables[0].1, "postgresql://u:s3cr3t@h/d");
    }
}
