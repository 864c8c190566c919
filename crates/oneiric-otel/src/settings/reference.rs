//! The reference page of the settings, made from the table.

use std::fmt::Write as _;

use super::load::ENV_PREFIX;
use super::table::{Flag, Setting, Settings};
use super::value::Shown;

const HEAD: &str = "# Settings

This page is made from the program: `oneiric-otel config reference` prints it.

A setting comes from the first of these that has it: the command line, the environment, a file, its default.

- **Command line**: the flag that the setting has, or `--set NAME=VALUE` for any of them except secrets and URLs with a
  password, which others could read there.
- **Environment**: the variable. Those that are set to nothing say nothing. An application that uses the library chooses
  what its variables begin with in place of `OTEL_STORAGE_`, as `MAHAVISHNU_OTEL_STORAGE__`.
- **File**: `--config FILE`, or the variable `OTEL_STORAGE_CONFIG`; TOML if its name ends in `.toml`, YAML if in `.yaml` or
  `.yml`. What has a dot in its name stands in a table, as `max_attributes` in `[limits]`. Paths are relative to where the
  program was started. With a secret in it, or a URL with a password, others must not be able to read it (`chmod 600`).

A name that does not exist is refused with the nearest one that does, a value out of its range with the range, and both
with who says so. `oneiric-otel config check` says all that is wrong, `oneiric-otel config show` what holds and why.
Passwords, tokens and keys are shown by neither, nor by any log or error.

";

/// The page in Markdown, as `docs/settings.md` has it.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let defaults = Settings::default();
    for setting in Settings::table() {
        let default = match defaults.show(setting.name) {
            Some(Shown::Unset) | None => setting.unset.unwrap_or("not set").to_owned(),
            Some(Shown::List(texts)) if texts.is_empty() => "none".to_owned(),
            Some(shown) => format!("`{shown}`"),
        };
        // Writing to a string cannot fail.
        write!(
            page,
            "## {}\n\n{}.\n\n- Default: {default}\n- Accepted: {}\n- Variable: `{ENV_PREFIX}{}`\n{}\n",
            setting.name,
            setting.doc,
            setting.accepts,
            setting.variable(),
            flag(setting),
        )
        .unwrap_or_default();
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn flag(setting: &Setting) -> String {
    match setting.flag {
        Some(Flag { long, value: "", .. }) => format!("- Flag: `--{long}`\n"),
        Some(Flag { long, value, .. }) => format!("- Flag: `--{long} {value}`\n"),
        None if setting.is_secret => String::new(),
        None => format!("- Flag: `--set {}=VALUE`\n", setting.name),
    }
}
