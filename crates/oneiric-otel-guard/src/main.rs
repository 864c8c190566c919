//! Counts the instructions of the hot paths and compares them with `limits.txt`.
//!
//! ```text
//! cargo run --profile guard -p oneiric-otel-guard [-- --update]
//! ```
//!
//! Each path runs in a process of its own under `valgrind --tool=callgrind`, for 2 rounds and for 6. What 4 rounds more have
//! executed, divided by what they worked on, is the figure: start, loading and what happens once are in neither. Unlike time it
//! is the same on a busy machine, and nearly the same from run to run. `--update` writes the figures that were seen as the new
//! limits; a change that makes a path dearer does so, and says why in its commit.
//!
//! Valgrind shows processors without AVX-512, so it is the AVX2 paths that are counted, wherever it runs.

mod limits;
mod paths;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use oneiric_otel_parts::{Parts, Silent};

use limits::Limits;
use paths::{Hot, PATHS};

const FEW: u64 = 2;
const MANY: u64 = 6;
/// A path may take as much more than its limit.
const ALLOWED: f64 = 0.10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["run", name, rounds, model] => paths::run(name, rounds.parse()?, Path::new(model)),
        [] => guard(false),
        ["--update"] => guard(true),
        other => bail!("expected nothing or --update, found {other:?}"),
    }
}

/// Counts everything and compares it, or writes it down.
#[expect(clippy::print_stdout, reason = "a program that reports")]
fn guard(update: bool) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("limits.txt");
    let known = Limits::read(&file)?;
    let model = Parts::open_default()?.minilm(&Silent)?;
    let (mut seen, mut worse) = (Limits::default(), Vec::new());
    println!("{:<44} {:>14} {:>14} {:>8}", "instructions for", "counted", "limit", "");
    for hot in PATHS {
        let began = Instant::now();
        let counted = count(hot, &model)?;
        seen.set(hot.name, counted);
        let limit = known.of(hot.name);
        let change = limit.map(|limit| counted as f64 / limit as f64 - 1.0);
        println!(
            "{:<44} {counted:>14} {:>14} {:>8} ({:.0} s)",
            hot.what,
            limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string()),
            change.map_or_else(String::new, |change| format!("{:+.1} %", change * 100.0)),
            began.elapsed().as_secs_f64()
        );
        if change.is_none_or(|change| change > ALLOWED) {
            worse.push(hot.name);
        }
    }
    if update {
        return seen.write(&file);
    }
    if !worse.is_empty() {
        bail!(
            "more than {:.0} % above the limit, or without one: {}. If that is meant: cargo run --profile guard -p \
             oneiric-otel-guard -- --update",
            ALLOWED * 100.0,
            worse.join(", ")
        );
    }
    Ok(())
}

/// Instructions of one unit.
fn count(hot: &Hot, model: &Path) -> Result<u64> {
    let (few, many) = (instructions(hot, FEW, model)?, instructions(hot, MANY, model)?);
    let of_more_rounds = many.checked_sub(few).with_context(|| format!("{}: more rounds took less", hot.name))?;
    Ok(of_more_rounds / ((MANY - FEW) * hot.units))
}

/// Instructions of a process that does so many rounds.
fn instructions(hot: &Hot, rounds: u64, model: &Path) -> Result<u64> {
    let program: PathBuf = std::env::current_exe().context("find this program")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["run", hot.name, &rounds.to_string()])
        .arg(model)
        .output()
        .context("run valgrind, which counts")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} ended with {}: {said}", hot.name, output.status);
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    collected.and_then(|count| count.parse().ok()).with_context(|| format!("valgrind counted nothing: {said}"))
}
