//! `config`: what is wrong with the settings, what holds, and the page that explains them.

use anyhow::Result;
use oneiric_otel::settings::{Problem, SettingsError, ShownSetting, reference};
use serde::Serialize;

use super::Ending;
use crate::args::{Config, Global};
use crate::screen;

/// What `config check --json` prints.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    valid: bool,
    problems: Vec<Found<'a>>,
}

#[derive(Debug, Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    problem: &'a Problem,
    message: String,
}

pub(crate) fn run(global: &Global, command: Config) -> Result<Ending> {
    match command {
        Config::Check => check(global),
        Config::Show => show(global),
        Config::Reference => screen::print(&reference()).map(|()| Ending::Good),
    }
}

fn check(global: &Global) -> Result<Ending> {
    let problems = global.problems.as_ref().map(SettingsError::problems).unwrap_or_default();
    if global.json {
        let problems =
            problems.iter().map(|problem| Found { problem, message: problem.to_string() }).collect::<Vec<_>>();
        screen::print_json(&Checked { valid: problems.is_empty(), problems })?;
    } else if problems.is_empty() {
        screen::print("the settings are valid\n")?;
    } else {
        let lines = problems.iter().map(|problem| format!("problem: {}\n", screen::clean(&problem.to_string())));
        screen::print(&lines.collect::<String>())?;
    }
    Ok(if problems.is_empty() { Ending::Good } else { Ending::Bad })
}

fn show(global: &Global) -> Result<Ending> {
    let settings = global.resolved.show();
    if global.json {
        screen::print_json(&settings)?;
        return Ok(Ending::Good);
    }
    let mut table = screen::table(&["setting", "value", "from"]);
    for ShownSetting { name, value, source } in settings {
        table.add_row([name.to_owned(), screen::clean(&value.to_string()), screen::clean(&source.to_string())]);
    }
    screen::print(&format!("{table}\n"))?;
    Ok(Ending::Good)
}
