//! The verdict: every acknowledged item exactly once with its exact content, every other one at most once, one right row
//! per trace.
//!
//! Rows are streamed through a cursor; what is kept is one byte an item.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use oneiric_otel::store::Database;
use serde::Serialize;
use serde_json::Value as Json;
use tokio_postgres::{Client, Row};

use crate::compare::{self, Difference, LOG_COLUMNS, POINT_COLUMNS, SPAN_COLUMNS};
use crate::content::{CLIENT_KEY, Contents, ITEM_KEY, ItemId, RESOURCE_URL, SCOPE_URL, Signal, scope_of, service_of};
use crate::ledger::{Ledger, Sent};
use crate::postgres;

/// Offending items that are named, per kind of offence.
const NAMED: usize = 10;
const ROWS_AT_ONCE: i32 = 2_000;
/// Traces that are read back whole and compared by bits.
const TRACES_READ_BACK: usize = 2_000;

/// What is wrong with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    /// Acknowledged and not there.
    Lost,
    /// There more than once.
    Duplicated,
    /// There with another content.
    Altered,
    /// There, and never sent.
    Unknown,
    /// Its row in `otel_traces` is missing, there twice, or wrong.
    Trace,
    /// A dead letter, of items that have no fault.
    DeadLetter,
    /// Refused for good, or in part, though it has no fault.
    Refused,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Acknowledged items.
    pub acknowledged: u64,
    /// Of them those that are there.
    pub found: u64,
    /// Items that are there without an acknowledgement, which is allowed.
    pub found_unacknowledged: u64,
    /// Traces that are there and right.
    pub traces: u64,
    /// Traces read back whole, in which every item was compared by bits.
    pub traces_read_back: u64,
    /// How often each offence was found.
    pub offences: BTreeMap<Offence, u64>,
    /// The first of each.
    pub examples: BTreeMap<Offence, Vec<String>>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.offences.is_empty()
    }

    /// How often an offence was found.
    pub fn count(&self, offence: Offence) -> u64 {
        self.offences.get(&offence).copied().unwrap_or(0)
    }

    fn note(&mut self, offence: Offence, count: u64, example: impl FnOnce() -> String) {
        *self.offences.entry(offence).or_default() += count;
        let examples = self.examples.entry(offence).or_default();
        if examples.len() < NAMED {
            examples.push(example());
        }
    }
}

/// How often each item was found.
#[derive(Debug)]
struct Found {
    requests: BTreeMap<u16, Vec<Sent>>,
    counts: BTreeMap<u16, Vec<Vec<u8>>>,
}

impl Found {
    fn of(ledger: &Ledger) -> Self {
        let requests = ledger.requests();
        let zeros = |sent: &Vec<Sent>| sent.iter().map(|sent| vec![0; usize::from(sent.items)]).collect();
        let counts = requests.iter().map(|(client, sent)| (*client, zeros(sent))).collect();
        Self { requests, counts }
    }

    /// Counts an item of this signal. Says whether it was ever sent.
    fn add(&mut self, signal: Signal, id: ItemId) -> bool {
        let sent = self.requests.get(&id.client).and_then(|requests| requests.get(id.request as usize));
        let count = self
            .counts
            .get_mut(&id.client)
            .and_then(|requests| requests.get_mut(id.request as usize))
            .and_then(|items| items.get_mut(usize::from(id.position)));
        match (sent, count) {
            (Some(sent), Some(count)) if sent.signal == signal => {
                *count = count.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    fn judge(&self, verdict: &mut Verdict) {
        for (client, requests) in &self.requests {
            let counts = self.counts.get(client).into_iter().flatten();
            for ((request, sent), counts) in (0_u32..).zip(requests).zip(counts) {
                for (position, count) in (0_u16..).zip(counts) {
                    let id = ItemId { client: *client, request, position };
                    verdict.acknowledged += u64::from(sent.acknowledged);
                    match (sent.acknowledged, count) {
                        (true, 0) => verdict.note(Offence::Lost, 1, || format!("{:?} {id}", sent.signal)),
                        (true, _) => verdict.found += 1,
                        (false, 0) => {}
                        (false, _) => verdict.found_unacknowledged += 1,
                    }
                    if *count > 1 {
                        verdict.note(Offence::Duplicated, 1, || format!("{:?} {id}: {count} times", sent.signal));
                    }
                }
            }
        }
    }
}

/// Whose a row is, by the ids of resource and scope, each compared with what its owner sent.
#[derive(Debug, Default)]
struct Owners {
    resources: HashMap<i64, u16>,
    scopes: HashMap<i64, u16>,
}

impl Owners {
    async fn read(client: &Client, contents: Contents, verdict: &mut Verdict) -> Result<Self> {
        let mut owners = Self::default();
        let sql = "SELECT resource_id, schema_url, attributes::text FROM otel.otel_resources";
        for row in client.query(sql, &[]).await? {
            let json: Json = serde_json::from_str(row.try_get(2)?)?;
            let number = json.get(CLIENT_KEY).and_then(Json::as_u64).and_then(|number| u16::try_from(number).ok());
            let same = number.is_some_and(|number| {
                compare::is_attributes(Some(&json), &contents.resource(number).attributes)
                    && row.get::<_, &str>(1) == RESOURCE_URL
            });
            match number {
                Some(number) if same => drop(owners.resources.insert(row.try_get(0)?, number)),
                _ => verdict.note(Offence::Altered, 1, || format!("resource {}: {json}", row.get::<_, i64>(0))),
            }
        }
        let sql = "SELECT scope_id, schema_url, name, version, attributes::text FROM otel.otel_scopes";
        for row in client.query(sql, &[]).await? {
            let json: Json = serde_json::from_str(row.try_get(4)?)?;
            let number = row.try_get::<_, &str>(3)?.parse().ok();
            let same = number.is_some_and(|number| {
                compare::is_attributes(Some(&json), &contents.scope(number).attributes)
                    && row.get::<_, &str>(1) == SCOPE_URL
                    && row.get::<_, &str>(2) == "oracle"
            });
            match number {
                Some(number) if same => drop(owners.scopes.insert(row.try_get(0)?, number)),
                _ => verdict.note(Offence::Altered, 1, || format!("scope {}: {json}", row.get::<_, i64>(0))),
            }
        }
        Ok(owners)
    }

    fn compare(&self, row: &Row, id: ItemId) -> Result<(), Difference> {
        let resource_id: i64 = row.get("resource_id");
        let scope_id: i32 = row.get("scope_id");
        if self.resources.get(&resource_id) != Some(&id.client) {
            return Err(format!("resource_id {resource_id} is not that of client {}", id.client));
        }
        if self.scopes.get(&i64::from(scope_id)) != Some(&scope_of(id.client)) {
            return Err(format!("scope_id {scope_id} is not that of client {}", id.client));
        }
        Ok(())
    }
}

/// Looks at everything that is in the database at `url` and judges it. Nothing may be writing.
///
/// # Errors
/// If the database cannot be read.
pub async fn verify(url: &str, contents: Contents, ledger: &Ledger) -> Result<Verdict> {
    let mut client = postgres::connect(url).await?;
    let mut verdict = Verdict::default();
    let mut found = Found::of(ledger);
    let owners = Owners::read(&client, contents, &mut verdict).await?;
    let queries = [
        (Signal::Traces, format!("SELECT {SPAN_COLUMNS} FROM otel.otel_spans")),
        (Signal::Logs, format!("SELECT {LOG_COLUMNS} FROM otel.otel_logs")),
        (
            Signal::Metrics,
            format!("SELECT {POINT_COLUMNS} FROM otel.otel_metrics p JOIN otel.otel_metric_series s USING (series_id)"),
        ),
    ];
    for (signal, sql) in queries {
        each_row(&mut client, &sql, |row| {
            let Some(id) = number_of(signal, row).filter(|id| found.add(signal, *id)) else {
                let micros: i64 = row.get("micros");
                return verdict.note(Offence::Unknown, 1, || format!("{signal:?}: a row of {micros} us"));
            };
            let service = service_of(id.client);
            let compared = match signal {
                Signal::Traces => compare::span(row, &contents.span(id), &service),
                Signal::Logs => compare::log(row, &contents.log(id), &service),
                Signal::Metrics => compare::point(row, &contents.point(id), &service),
            };
            if let Err(difference) = compared.and_then(|()| owners.compare(row, id)) {
                verdict.note(Offence::Altered, 1, || format!("{signal:?} {id}: {difference}"));
            }
        })
        .await
        .with_context(|| format!("read {signal:?} back"))?;
    }
    found.judge(&mut verdict);
    judge_traces(&client, &mut verdict).await?;
    read_back(&client, url, contents, &mut verdict).await?;
    judge_rest(&client, ledger, &mut verdict).await?;
    Ok(verdict)
}

/// Runs `visit` on every row, a few thousand in memory at a time.
async fn each_row(client: &mut Client, sql: &str, mut visit: impl FnMut(&Row)) -> Result<()> {
    let transaction = client.transaction().await?;
    let portal = transaction.bind(sql, &[]).await?;
    loop {
        let mut rows = std::pin::pin!(transaction.query_portal_raw(&portal, ROWS_AT_ONCE).await?);
        let mut seen = 0;
        while let Some(row) = rows.try_next().await? {
            seen += 1;
            visit(&row);
        }
        if seen < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}

fn number_of(signal: Signal, row: &Row) -> Option<ItemId> {
    if signal == Signal::Metrics {
        let (micros, nanos): (i64, i16) = (row.get("micros"), row.get("nanos"));
        return ItemId::from_time(u64::try_from(micros).ok()? * 1000 + u64::try_from(nanos).ok()?);
    }
    let attributes: Json = serde_json::from_str(row.get("attributes")).ok()?;
    ItemId::from_number(attributes.get(ITEM_KEY)?.as_u64()?)
}

/// One row per trace that has spans, with their number and the number of failed ones.
async fn judge_traces(client: &Client, verdict: &mut Verdict) -> Result<()> {
    let sql = "WITH spans AS (
                 SELECT trace_id, count(*) AS spans, count(*) FILTER (WHERE status = 'error') AS errors
                 FROM otel.otel_spans GROUP BY trace_id),
               traces AS (
                 SELECT trace_id, count(*) AS rows, max(span_count)::bigint AS spans, max(error_count)::bigint AS errors
                 FROM otel.otel_traces GROUP BY trace_id)
               SELECT trace_id::text, spans.spans, spans.errors, traces.rows, traces.spans, traces.errors
               FROM spans FULL JOIN traces USING (trace_id)
               WHERE spans.spans IS DISTINCT FROM traces.spans OR spans.errors IS DISTINCT FROM traces.errors
                  OR traces.rows <> 1";
    let wrong = client.query(sql, &[]).await?;
    for row in &wrong {
        verdict.note(Offence::Trace, 1, || {
            let trace: &str = row.get(0);
            let number = |column: usize| row.get::<_, Option<i64>>(column).unwrap_or(0);
            format!(
                "{trace}: {} spans, {} of them errors; {} rows in otel_traces that say {} and {}",
                number(1),
                number(2),
                number(3),
                number(4),
                number(5)
            )
        });
    }
    let row = client.query_one("SELECT count(DISTINCT trace_id) FROM otel.otel_spans", &[]).await?;
    verdict.traces = (row.get::<_, i64>(0) as u64).saturating_sub(wrong.len() as u64);
    Ok(())
}

/// Reads some traces back whole: what jsonb cannot say must come back too.
async fn read_back(client: &Client, url: &str, contents: Contents, verdict: &mut Verdict) -> Result<()> {
    let database = Database::new(url)?;
    let sql = format!("SELECT trace_id FROM otel.otel_traces ORDER BY md5(trace_id::text) LIMIT {TRACES_READ_BACK}");
    for row in client.query(&sql, &[]).await? {
        let trace_id: uuid::Uuid = row.get(0);
        let trace_id = trace_id.into_bytes();
        for stored in database.trace_spans(trace_id).await? {
            let Some(id) = item_of(&stored.record.attributes) else { continue };
            let expected = contents.span(id);
            // As text, because NaN equals nothing; it tells -0.0 from 0.0 too.
            if format!("{:?}", stored.record) != format!("{expected:?}") {
                verdict.note(Offence::Altered, 1, || format!("span {id} read back whole: {:?}", stored.record));
            }
            if format!("{:?}", stored.resource.resource) != format!("{:?}", Some(contents.resource(id.client))) {
                verdict.note(Offence::Altered, 1, || format!("resource of span {id} read back whole"));
            }
        }
        for stored in database.trace_logs(trace_id).await? {
            let Some(id) = item_of(&stored.record.attributes) else { continue };
            if format!("{:?}", stored.record) != format!("{:?}", contents.log(id)) {
                verdict.note(Offence::Altered, 1, || format!("log {id} read back whole: {:?}", stored.record));
            }
        }
        verdict.traces_read_back += 1;
    }
    database.close();
    Ok(())
}

fn item_of(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> Option<ItemId> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let attribute = attributes.iter().find(|attribute| attribute.key == ITEM_KEY)?;
    match attribute.value.as_ref()?.value {
        Some(Value::IntValue(number)) => ItemId::from_number(u64::try_from(number).ok()?),
        _ => None,
    }
}

async fn judge_rest(client: &Client, ledger: &Ledger, verdict: &mut Verdict) -> Result<()> {
    let sql = "SELECT telemetry_type, error_class, error_message FROM otel.otel_telemetry_dlq";
    for row in client.query(sql, &[]).await? {
        verdict.note(Offence::DeadLetter, 1, || {
            format!("{}, {}: {}", row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(2))
        });
    }
    for refusal in ledger.tally().wrongly_refused {
        verdict.note(Offence::Refused, 1, || refusal);
    }
    Ok(())
}
