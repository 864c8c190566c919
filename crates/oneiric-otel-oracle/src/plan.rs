//! Which fault when: a function of the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// kill -9 of a server.
    ServerKill,
    /// SIGTERM to a server.
    ServerStop,
    /// SIGTERM to a server, and again a moment later.
    ServerStopTwice,
    /// kill -9 of the postmaster.
    PostgresKill,
    /// kill -9 of a process of PostgreSQL that serves a connection.
    BackendKill,
    /// PostgreSQL stopped at once and started again.
    PostgresRestart,
    /// PostgreSQL stopped properly, and away for a while.
    PostgresStop,
    /// Every process of PostgreSQL suspended for a while.
    PostgresHang,
    /// A connection to PostgreSQL cut after some bytes, mostly in mid-COPY.
    ConnectionCut,
    /// A connection to PostgreSQL cut just before the confirmation of a COMMIT.
    CommitLost,
    /// Every exchange with PostgreSQL takes a while.
    SlowDatabase,
    /// No space under a server's data directory.
    SpoolDiskFull,
    /// No space under PostgreSQL.
    DatabaseDiskFull,
    /// Clients that do not wait for the answer and send again.
    ClientTimeouts,
    /// Clients that send again what was acknowledged, or give up what was not.
    ClientResends,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::ServerKill,
        Self::ServerStop,
        Self::ServerStopTwice,
        Self::PostgresKill,
        Self::BackendKill,
        Self::PostgresRestart,
        Self::PostgresStop,
        Self::PostgresHang,
        Self::ConnectionCut,
        Self::CommitLost,
        Self::SlowDatabase,
        Self::SpoolDiskFull,
        Self::DatabaseDiskFull,
        Self::ClientTimeouts,
        Self::ClientResends,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerKill => "server-kill",
            Self::ServerStop => "server-stop",
            Self::ServerStopTwice => "server-stop-twice",
            Self::PostgresKill => "postgres-kill",
            Self::BackendKill => "backend-kill",
            Self::PostgresRestart => "postgres-restart",
            Self::PostgresStop => "postgres-stop",
            Self::PostgresHang => "postgres-hang",
            Self::ConnectionCut => "connection-cut",
            Self::CommitLost => "commit-lost",
            Self::SlowDatabase => "slow-database",
            Self::SpoolDiskFull => "spool-disk-full",
            Self::DatabaseDiskFull => "database-disk-full",
            Self::ClientTimeouts => "client-timeouts",
            Self::ClientResends => "client-resends",
        }
    }

    /// Which of the lanes it belongs to; none for what clients do. Lanes run beside each other, the faults of a lane one
    /// after the other.
    pub fn lane(self) -> Option<Lane> {
        Some(match self {
            Self::ServerKill | Self::ServerStop | Self::ServerStopTwice => Lane::Servers,
            Self::SpoolDiskFull | Self::DatabaseDiskFull => Lane::Disks,
            Self::ClientTimeouts | Self::ClientResends => return None,
            _ => Lane::Database,
        })
    }

    /// How often it comes, compared with others of its lane.
    fn weight(self) -> usize {
        match self {
            Self::ServerKill => 10,
            Self::ConnectionCut | Self::CommitLost => 4,
            Self::BackendKill | Self::PostgresKill => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("{text:?} is no fault; there are: all, none, {}", names.join(", "))
        })
    }
}

/// `all`, `none`, or names with commas between them.
///
/// # Errors
/// If a name is none.
pub fn parse_faults(text: &str) -> Result<BTreeSet<Fault>, String> {
    match text {
        "all" => Ok(Fault::ALL.into_iter().collect()),
        "none" => Ok(BTreeSet::new()),
        names => names.split(',').map(|name| name.trim().parse()).collect(),
    }
}

/// What goes wrong beside what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// The servers' processes.
    Servers,
    /// PostgreSQL and the way to it.
    Database,
    /// Space.
    Disks,
}

/// How much goes wrong: the mean time between two faults of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tempo {
    /// Of [`Lane::Servers`].
    pub servers: Duration,
    /// Of [`Lane::Database`].
    pub database: Duration,
    /// Of [`Lane::Disks`].
    pub disks: Duration,
    /// How long something is away or slow, at most.
    pub outage: Duration,
    /// One of so many stops of PostgreSQL takes two minutes; 0 for none.
    pub long_outages: u32,
}

impl Tempo {
    /// For runs of minutes to hours.
    pub const LONG: Self = Self {
        servers: Duration::from_millis(2_500),
        database: Duration::from_secs(8),
        disks: Duration::from_secs(40),
        outage: Duration::from_secs(12),
        long_outages: 5,
    };
}

/// A fault at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Event {
    /// From the beginning of the load. It comes later if its lane is busy then.
    #[serde(serialize_with = "milliseconds")]
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// Which server, where that matters.
    pub server: usize,
    /// How long, where that matters.
    #[serde(serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Whatever else is left to chance.
    pub choice: u64,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

/// The faults of a run, by lane and time.
pub fn make(
    seed: u64,
    length: Duration,
    faults: &BTreeSet<Fault>,
    servers: usize,
    tempo: Tempo,
) -> BTreeMap<Lane, Vec<Event>> {
    let mut plan = BTreeMap::new();
    let lanes = [(Lane::Servers, tempo.servers), (Lane::Database, tempo.database), (Lane::Disks, tempo.disks)];
    for (lane, mean) in lanes {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(3).wrapping_add(lane as u64));
        let chosen: Vec<Fault> = faults.iter().copied().filter(|fault| fault.lane() == Some(lane)).collect();
        if chosen.is_empty() {
            continue;
        }
        // Each at least once, if there is time for it.
        let mut first = chosen.clone();
        first.shuffle(&mut random);
        let deck: Vec<Fault> = chosen.iter().flat_map(|fault| std::iter::repeat_n(*fault, fault.weight())).collect();
        let mut events = Vec::new();
        let mut at = Duration::ZERO;
        loop {
            at += mean.mul_f64(random.random_range(0.3..1.7));
            if at >= length {
                break;
            }
            let fault = first.pop().unwrap_or_else(|| deck[random.random_range(0..deck.len())]);
            let long =
                fault == Fault::PostgresStop && tempo.long_outages > 0 && random.random_ratio(1, tempo.long_outages);
            let duration =
                if long { Duration::from_mins(2) } else { tempo.outage.mul_f64(random.random_range(0.2..1.0)) };
            let server = random.random_range(0..servers.max(1));
            events.push(Event { at, fault, server, duration, choice: random.random() });
        }
        plan.insert(lane, events);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_the_same_for_the_same_seed_and_has_every_fault() {
        let faults = parse_faults("all").unwrap();
        let plan = |seed| make(seed, Duration::from_mins(20), &faults, 2, Tempo::LONG);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let planned: BTreeSet<Fault> = plan(7).values().flatten().map(|event| event.fault).collect();
        let expected: BTreeSet<Fault> = faults.iter().copied().filter(|fault| fault.lane().is_some()).collect();
        assert_eq!(planned, expected);
        let kills = plan(7).values().flatten().filter(|event| event.fault == Fault::ServerKill).count();
        assert!(kills > 200, "{kills}");
    }

    #[test]
    fn faults_are_named() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
            assert_eq!(serde_json::to_value(fault).unwrap(), fault.name());
        }
        assert!(parse_faults("server-kill,flood").unwrap_err().contains("postgres-hang"));
        assert_eq!(parse_faults("none").unwrap().len(), 0);
    }
}
