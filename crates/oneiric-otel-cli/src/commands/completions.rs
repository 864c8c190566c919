//! `completions`: what a shell needs to complete our command line.

use anyhow::Result;
use clap::CommandFactory as _;

use super::Ending;
use crate::args::Arguments;
use crate::screen;

pub(crate) fn run(shell: clap_complete::Shell) -> Result<Ending> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "oneiric-otel", &mut script);
    screen::print(&String::from_utf8_lossy(&script))?;
    Ok(Ending::Good)
}
