//! The services, what they offer, how they do it, and when it fails.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::Scenario;
use super::fault::{FAULTS, Fault};
use super::words::{HTTP, RPC, SERVICES, WORK};

/// Incidents that begin in a day.
const INCIDENTS_A_DAY: u64 = 60;

/// Who is there.
#[derive(Debug)]
pub(super) struct Company {
    pub(super) scenario: Scenario,
    pub(super) services: Vec<Service>,
    /// Operations that customers and schedules begin with, the popular ones several times.
    pub(super) entries: Vec<Place>,
    incidents: HashMap<Target, Vec<Incident>>,
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) entities: [&'static str; 2],
    /// Whether it writes the semantic conventions of today.
    pub(super) modern: bool,
    pub(super) operations: Vec<Operation>,
    /// The database that it has.
    pub(super) database: &'static str,
}

/// An operation of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) service: usize,
    pub(super) operation: usize,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) way: Way,
    pub(super) entity: &'static str,
    /// What it computes itself, usually, in microseconds.
    pub(super) work_us: u64,
    pub(super) steps: Vec<Step>,
    /// Which log lines it writes.
    pub(super) lines: Vec<usize>,
    /// Whether it can do without the operations that it calls.
    pub(super) forgives: bool,
}

/// How an operation is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Http { method: &'static str, rest: &'static str },
    Rpc { verb: &'static str },
    Queue,
    Schedule,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Call(Place),
    /// A statement, so many times.
    Query {
        verb: &'static str,
        times: u64,
    },
    Cache,
    Publish,
    Model,
    Work(&'static str),
}

/// A step of an operation.
type Target = (Place, usize);

#[derive(Debug)]
struct Incident {
    fault: Fault,
    from: u64,
    until: u64,
    /// How many of a hundred attempts fail.
    percent: u64,
}

impl Company {
    pub(super) fn new(scenario: Scenario) -> Self {
        let mut random = StdRng::seed_from_u64(scenario.seed);
        let services: Vec<Service> = (0..SERVICES.len()).map(|service| lay_out(service, &mut random)).collect();
        let entries = entries(&services, &mut random);
        let days = scenario.length.as_secs().div_ceil(24 * 3_600);
        let mut incidents: HashMap<Target, Vec<Incident>> = HashMap::new();
        for _ in 0..days * INCIDENTS_A_DAY {
            let (target, incident) = incident(&services, scenario, &mut random);
            incidents.entry(target).or_default().push(incident);
        }
        Self { scenario, services, entries, incidents }
    }

    pub(super) fn operation(&self, place: Place) -> &Operation {
        &self.services[place.service].operations[place.operation]
    }

    /// When a trace begins.
    pub(super) fn start_of(&self, trace: u64) -> u64 {
        let length = self.scenario.length.as_nanos();
        let offset = length * u128::from(trace) / u128::from(self.scenario.traces.max(1));
        self.scenario.start_unix_nanos + u64::try_from(offset).unwrap_or(u64::MAX)
    }

    pub(super) fn trace_id(&self, trace: u64) -> [u8; 16] {
        let high = scatter(self.scenario.seed ^ trace.wrapping_mul(3));
        let low = scatter(high ^ trace);
        (u128::from(high) << 64 | u128::from(low | 1)).to_be_bytes()
    }

    /// The numbers of a trace's own.
    pub(super) fn random_of(&self, trace: u64) -> StdRng {
        StdRng::seed_from_u64(scatter(self.scenario.seed.rotate_left(32) ^ trace))
    }

    /// What goes wrong with a step at a time: during an incident often, else once in some thousand times.
    pub(super) fn fault(&self, place: Place, step: usize, unix_nanos: u64, random: &mut StdRng) -> Option<Fault> {
        let chance = random.random_range(0..100);
        let stray = random.random_range(0..1_000) == 0;
        let mut incidents = self.incidents.get(&(place, step)).into_iter().flatten();
        match incidents.find(|incident| (incident.from..incident.until).contains(&unix_nanos)) {
            Some(incident) if chance < incident.percent => Some(incident.fault),
            _ if stray => Some(FAULTS[random.random_range(0..FAULTS.len())]),
            _ => None,
        }
    }
}

/// Steele's and Vigna's mixing function: neighbours become strangers.
pub(super) fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn lay_out(service: usize, random: &mut StdRng) -> Service {
    let (name, entities, tier) = SERVICES[service];
    let database = ["postgresql", "mysql", "mongodb"][random.random_range(0..3)];
    let mut operations = Vec::new();
    for entity in entities {
        let http = tier < 2 && name != "scheduler";
        for number in 0..5 {
            let way = match (name, tier) {
                ("scheduler", _) => Way::Schedule,
                _ if http => Way::Http { method: HTTP[number].0, rest: HTTP[number].1 },
                _ if number == 4 => Way::Queue,
                _ => Way::Rpc { verb: RPC[number] },
            };
            operations.push(Operation {
                way,
                entity,
                work_us: random.random_range(200..8_000),
                steps: steps(name, tier, random),
                lines: (0..random.random_range(1..3))
                    .map(|_| random.random_range(0..super::words::LINES.len()))
                    .collect(),
                forgives: random.random_range(0..5) == 0,
            });
        }
    }
    Service { name: name.to_owned(), entities, modern: service.is_multiple_of(2), operations, database }
}

/// What an operation does, one thing after the other. Calls go to later tiers, or to later services of the same.
fn steps(name: &str, tier: u8, random: &mut StdRng) -> Vec<Step> {
    let mut steps = Vec::new();
    let later =
        |wanted: u8| -> Vec<usize> { (0..SERVICES.len()).filter(|&service| SERVICES[service].2 == wanted).collect() };
    let calls = match tier {
        0 => random.random_range(1..3),
        1 => random.random_range(0..2),
        _ => 0,
    };
    for _ in 0..calls {
        let services = later(if tier == 0 && random.random_range(0..5) > 0 { 1 } else { 2 });
        let service = services[random.random_range(0..services.len())];
        steps.push(Step::Call(Place { service, operation: random.random_range(0..10) }));
    }
    if name.ends_with("-agent") {
        steps.push(Step::Model);
    }
    for _ in 0..random.random_range(0..4) {
        let step = match random.random_range(0..10) {
            0..5 => {
                let verb = ["SELECT", "SELECT", "SELECT", "INSERT", "UPDATE"][random.random_range(0..5)];
                // The famous N+1 queries.
                let times = if random.random_range(0..25) == 0 { 12 } else { 1 };
                Step::Query { verb, times }
            }
            5..7 => Step::Cache,
            7 => Step::Publish,
            _ => Step::Work(WORK[random.random_range(0..WORK.len())]),
        };
        steps.push(step);
    }
    if steps.is_empty() {
        steps.push(Step::Work(WORK[random.random_range(0..WORK.len())]));
    }
    steps
}

/// Popularity falls as in life: a few operations get most of the traffic.
fn entries(services: &[Service], random: &mut StdRng) -> Vec<Place> {
    let mut entries = Vec::new();
    for (service, laid_out) in services.iter().enumerate() {
        if SERVICES[service].2 == 2 && random.random_range(0..3) > 0 {
            continue;
        }
        for operation in 0..laid_out.operations.len() {
            let weight = if SERVICES[service].2 == 0 { 60 / (1 + operation % 5) } else { 3 };
            entries.extend(std::iter::repeat_n(Place { service, operation }, weight));
        }
    }
    entries
}

fn incident(services: &[Service], scenario: Scenario, random: &mut StdRng) -> (Target, Incident) {
    let service = random.random_range(0..services.len());
    let operation = random.random_range(0..services[service].operations.len());
    let step = random.random_range(0..services[service].operations[operation].steps.len());
    let length = scenario.length.saturating_sub(Duration::from_hours(12)).as_secs().max(1);
    let from = scenario.start_unix_nanos + random.random_range(0..length) * 1_000_000_000;
    let hours = random.random_range(2..13);
    let incident = Incident {
        fault: FAULTS[random.random_range(0..FAULTS.len())],
        from,
        until: from + hours * 3_600 * 1_000_000_000,
        percent: random.random_range(20..90),
    };
    ((Place { service, operation }, step), incident)
}
