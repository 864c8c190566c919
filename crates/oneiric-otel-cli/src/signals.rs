//! SIGINT and SIGTERM: the first asks to stop, the second insists.

use std::process;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The exit code of a process that a signal ended, as shells count.
const SIGNAL_BASE: u8 = 128;

/// Watches for signals from its making to the end of the process.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    received: watch::Receiver<Option<u8>>,
}

impl Signals {
    /// Starts watching. A second signal ends the process at once, whatever it is doing. `interrupts` is false for a
    /// command whose child takes SIGINT from the terminal and means something else by it.
    ///
    /// # Errors
    /// If the system does not let us watch.
    pub(crate) fn watch(interrupts: bool) -> Result<Self> {
        let (sender, received) = watch::channel(None);
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        // Lives as long as the process: there is no moment at which a signal should go unheard.
        tokio::spawn(async move {
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => 2,
                    _ = terminate.recv() => 15,
                };
                if number == 2 && !interrupts {
                    continue;
                }
                if sender.send_replace(Some(number)).is_some() {
                    #[expect(clippy::disallowed_methods, reason = "a second signal asks for an end without clean-up")]
                    process::exit(i32::from(SIGNAL_BASE + number));
                }
            }
        });
        Ok(Self { received })
    }

    /// Waits for the first signal and returns the exit code of a process that it ended.
    pub(crate) async fn first(&mut self) -> u8 {
        match self.received.wait_for(Option::is_some).await {
            Ok(number) => SIGNAL_BASE + number.unwrap_or_default(),
            // The watching task never ends before the process.
            Err(_) => std::future::pending().await,
        }
    }
}
