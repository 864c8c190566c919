//! What a server and its database use between two moments.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio_postgres::Client;

use crate::{database, process};

/// Processor seconds per million spans; none where they cannot be seen.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cpu {
    /// Of the server.
    pub server: Option<f64>,
    /// Of PostgreSQL with all its processes.
    pub postgres: Option<f64>,
}

impl Cpu {
    /// Of both.
    pub fn sum(&self) -> Option<f64> {
        Some(self.server? + self.postgres?)
    }
}

/// What was used up to a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    pub(crate) at: Instant,
    server: Option<Duration>,
    postgres: Option<Duration>,
    wal: u64,
}

/// What was used between two moments.
pub(crate) struct Used {
    pub(crate) elapsed: Duration,
    pub(crate) server: Option<Duration>,
    pub(crate) postgres: Option<Duration>,
    pub(crate) wal: u64,
}

impl Meter {
    pub(crate) async fn read(client: &Client, server: Option<u32>, postgres: Option<u32>) -> Result<Self> {
        let at = Instant::now();
        let server = server.and_then(process::cpu_time);
        let postgres = postgres.map(process::cpu_time_of_tree);
        Ok(Self { at, server, postgres, wal: database::wal_bytes(client).await? })
    }

    pub(crate) fn since(&self, earlier: &Self) -> Used {
        let between = |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Used {
            elapsed: self.at.saturating_duration_since(earlier.at),
            server: between(self.server, earlier.server),
            postgres: between(self.postgres, earlier.postgres),
            wal: self.wal - earlier.wal,
        }
    }
}

impl Used {
    pub(crate) fn cpu(&self, spans: u64) -> Cpu {
        let share = |cpu: Option<Duration>| cpu.map(|cpu| per_million(cpu, spans));
        Cpu { server: share(self.server), postgres: share(self.postgres) }
    }
}

pub(crate) fn per_million(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / count as f64
}
