//! What metric series cost: new ones, known ones, and those for which there is no room, as their table grows.
//!
//! The table is filled with copies of a row that a server has stored, under hashes of their own, by SQL. Then servers are sent
//! points, a series each, and answer after the commit: first of series that are new; then, by a server that remembers nothing, of
//! the same series; of these once more; and at last, by a server whose limit is what there is, of series that are new again.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use crate::database::{self, Description};
use crate::latency::Quantiles;
use crate::load::{self, Signal};
use crate::machine::Machine;
use crate::meter::{Cpu, Meter};
use crate::process;
use crate::server::Server;

const CONNECTIONS: usize = 8;
/// Rows that are copied at a time.
const COPIED_AT_ONCE: u64 = 500_000;
/// How often the rows are counted.
const COUNTS: u32 = 3;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// The product's program: the server.
    pub program: PathBuf,
    /// An empty directory for the server's data.
    pub dir: PathBuf,
    /// How many series there are when it is measured: rising, each at least `points` more than the one before.
    pub at: Vec<u64>,
    /// Points that are sent each time, of as many series: a multiple of `points_per_request`.
    pub points: u64,
    /// Points of a request.
    pub points_per_request: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// On which database.
    pub database: Description,
    /// At each size.
    pub sizes: Vec<Size>,
}

/// At a size.
#[derive(Debug, Clone, Serialize)]
pub struct Size {
    /// Rows before anything was sent.
    pub series: u64,
    /// Bytes of a row in the table.
    pub table_bytes: f64,
    /// Bytes of a row in all its indexes.
    pub index_bytes: f64,
    /// How long counting all rows takes.
    pub count: Quantiles,
    /// Points of new series.
    pub new: Rate,
    /// Points of the same series, of which the server remembers nothing.
    pub known: Rate,
    /// Points of the same series, which the server has seen before.
    pub remembered: Rate,
    /// Points of new series for which there is no room: all of them are in dead letters.
    pub refused: Rate,
    /// Bytes of a point in these.
    pub letter_bytes: f64,
}

/// Points that were sent.
#[derive(Debug, Clone, Serialize)]
pub struct Rate {
    /// How many.
    pub points: u64,
    /// Acknowledged per second, which they are after the commit.
    pub per_second: f64,
    /// Of a request.
    pub latency: Quantiles,
    /// Processor seconds per million points.
    pub cpu: Cpu,
    /// Resident memory of the server at its highest, in bytes.
    pub server_memory: Option<u64>,
}

impl Options {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Says which does not, and what is accepted.
    pub fn check(&self) -> Result<()> {
        let Self { points, points_per_request, .. } = *self;
        if points == 0 || points_per_request == 0 || !points.is_multiple_of(points_per_request) {
            bail!("points: expected a multiple of the points of a request ({points_per_request}), found {points}");
        }
        let Some(first) = self.at.first() else { bail!("sizes: expected at least one, found none") };
        if *first == 0 {
            bail!("sizes: expected at least 1, found 0");
        }
        for pair in self.at.windows(2) {
            if pair[1] < pair[0].saturating_add(points) {
                bail!(
                    "sizes: expected each at least {points} above the one before, found {} after {}",
                    pair[1],
                    pair[0]
                );
            }
        }
        Ok(())
    }
}

/// Runs the measurement on an embedded database. `tell` hears what goes on.
///
/// # Errors
/// If a server fails, or what is sent is not found.
pub async fn run(options: &Options, tell: &impl Fn(&str)) -> Result<Report> {
    options.check()?;
    let bench = Bench { options, data: options.dir.join("data"), log: options.dir.join("serve.log") };
    let server = bench.start(None).await?;
    let made = async {
        // A row to copy.
        bench.send(&server, 0, 1).await?;
        database::with_embedded(&bench.data, async |url| database::describe(&database::connect(&url).await?).await)
            .await
    }
    .await;
    server.stop().await?;
    let (mut sizes, mut next) = (Vec::new(), 1);
    let database = made?;
    for series in &options.at {
        sizes.push(bench.at(*series, &mut next, tell).await?);
    }
    Ok(Report { machine: Machine::here(), database, sizes })
}

struct Bench<'a> {
    options: &'a Options,
    data: PathBuf,
    log: PathBuf,
}

impl Bench<'_> {
    async fn start(&self, limit: Option<u64>) -> Result<Server> {
        let mut arguments = vec!["--ack=stored".to_owned()];
        let limit = limit.unwrap_or(u64::MAX >> 1);
        arguments.extend(["--set".to_owned(), format!("limits.max_metric_series={limit}")]);
        Server::start(&self.options.program, &self.data, None, &arguments, &self.log).await
    }

    /// Measures all with so many series; `next` is the number of the next new one.
    async fn at(&self, series: u64, next: &mut u64, tell: &impl Fn(&str)) -> Result<Size> {
        let points = self.options.points;
        tell(&format!("filling up to {series} series"));
        let ((table_bytes, index_bytes, count), new) = self
            .with_server(None, async |server, client| {
                fill(client, series).await?;
                let size = measure_table(client, series).await?;
                tell(&format!("{series} series: points of new ones"));
                Ok((size, self.rate(server, client, *next).await?))
            })
            .await?;
        let (known, remembered) = self
            .with_server(None, async |server, client| {
                tell(&format!("{series} series: points of known ones"));
                expect(client, "otel.otel_metric_series", series + points).await?;
                let known = self.rate(server, client, *next).await?;
                let remembered = self.rate(server, client, *next).await?;
                expect(client, "otel.otel_metric_series", series + points).await?;
                Ok((known, remembered))
            })
            .await?;
        *next += points;
        let (refused, letter_bytes) = self
            .with_server(Some(series + points), async |server, client| {
                tell(&format!("{series} series: points for which there is no room"));
                let refused = self.rate(server, client, *next).await?;
                expect(client, "otel.otel_metric_series", series + points).await?;
                Ok((refused, take_letters(client, points).await?))
            })
            .await?;
        *next += points;
        Ok(Size { series, table_bytes, index_bytes, count, new, known, remembered, refused, letter_bytes })
    }

    /// Works with a server of its own and the database, and stops it.
    async fn with_server<T>(
        &self,
        limit: Option<u64>,
        work: impl AsyncFnOnce(&Server, &Client) -> Result<T>,
    ) -> Result<T> {
        let server = self.start(limit).await?;
        let done = database::with_embedded(&self.data, async |url| {
            let client = database::connect(&url).await?;
            work(&server, &client).await
        })
        .await;
        server.stop().await?;
        done
    }

    /// Sends a point of each series from this number on.
    async fn rate(&self, server: &Server, client: &Client, first: u64) -> Result<Rate> {
        let points = self.options.points;
        let postgres = database::postmaster(client).await?;
        database::checkpoint(client).await;
        let before = Meter::read(client, Some(server.pid), postgres).await?;
        let sent = self.send(server, first, points).await?;
        let after = Meter::read(client, Some(server.pid), postgres).await?;
        Ok(Rate {
            points,
            per_second: points as f64 / sent.seconds,
            latency: sent.latency,
            cpu: after.since(&before).cpu(points),
            server_memory: process::resident(server.pid).map(|(_, highest)| highest),
        })
    }

    async fn send(&self, server: &Server, first: u64, points: u64) -> Result<load::Sent> {
        let time = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        let each = self.options.points_per_request.min(points);
        let (sender, queued) = mpsc::channel(usize::try_from(points / each)?);
        for number in 0..points / each {
            let from = first + number * each;
            sender.send(request(from..from + each, time)).await?;
        }
        drop(sender);
        load::send(server.addresses.grpc, Signal::Metrics, queued, CONNECTIONS).await
    }
}

/// Points of a gauge, each of the series of its number.
fn request(series: std::ops::Range<u64>, time_unix_nano: u64) -> Bytes {
    let attribute = |key: &str, value: String| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    let point = |number: u64| NumberDataPoint {
        attributes: vec![
            attribute("http.request.method", "GET".to_owned()),
            attribute("http.response.status_code", "200".to_owned()),
            attribute("http.route", format!("/orders/{}", number % 50)),
            attribute("k8s.pod.name", format!("checkout-7d9c5b6f4-{:05}", number / 50)),
        ],
        time_unix_nano,
        value: Some(number_data_point::Value::AsDouble(number as f64)),
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: "http.server.active_requests".to_owned(),
        unit: "{request}".to_owned(),
        data: Some(Data::Gauge(Gauge { data_points: series.map(point).collect() })),
        ..Metric::default()
    };
    let resource =
        Resource { attributes: vec![attribute("service.name", "checkout".to_owned())], ..Resource::default() };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into()
}

async fn rows(client: &Client, table: &str) -> Result<u64> {
    let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
    Ok(u64::try_from(row.get::<_, i64>(0))?)
}

async fn expect(client: &Client, table: &str, expected: u64) -> Result<()> {
    let found = rows(client, table).await?;
    if found != expected {
        bail!("{table} has {found} rows; expected {expected}");
    }
    Ok(())
}

/// Copies the first row until there are so many.
async fn fill(client: &Client, series: u64) -> Result<()> {
    client.batch_execute("SET oneiric_otel.owners_are_checked = on; SET synchronous_commit = off").await?;
    let mut there = rows(client, "otel.otel_metric_series").await?;
    while there < series {
        let more = i64::try_from((series - there).min(COPIED_AT_ONCE))?;
        let copy = "INSERT INTO otel.otel_metric_series (content_hash, resource_id, scope_id, monotonic, service_name, metric_name,
                       metric_type, temporality, unit, description, attributes)
                     SELECT gen_random_uuid(), resource_id, scope_id, monotonic, service_name, metric_name, metric_type, temporality,
                       unit, description, attributes || jsonb_build_object('k8s.pod.name', 'copied-7d9c5b6f4-' || lpad(n::text, 9, '0'))
                     FROM (SELECT * FROM otel.otel_metric_series ORDER BY series_id LIMIT 1) s,
                       generate_series($1::bigint + 1, $1::bigint + $2::bigint) n";
        there += client.execute(copy, &[&i64::try_from(there)?, &more]).await?;
    }
    client.batch_execute("VACUUM ANALYZE otel.otel_metric_series").await?;
    expect(client, "otel.otel_metric_series", series).await
}

/// Bytes of a row in the table and in its indexes, and how long counting takes.
async fn measure_table(client: &Client, series: u64) -> Result<(f64, f64, Quantiles)> {
    let sql =
        "SELECT pg_table_size('otel.otel_metric_series')::float8, pg_indexes_size('otel.otel_metric_series')::float8";
    let row = client.query_one(sql, &[]).await?;
    let per_row = |bytes: f64| bytes / series as f64;
    let mut latencies = crate::latency::Latencies::default();
    for _ in 0..COUNTS {
        let began = Instant::now();
        rows(client, "otel.otel_metric_series").await?;
        latencies.add(began.elapsed());
    }
    Ok((per_row(row.get(0)), per_row(row.get(1)), latencies.quantiles()))
}

/// Makes sure that so many points are in dead letters, and deletes these. Returns the bytes of a point.
async fn take_letters(client: &Client, points: u64) -> Result<f64> {
    let sql = "SELECT coalesce(sum(records), 0)::bigint, coalesce(sum(octet_length(raw_data)), 0)::float8 FROM otel.otel_telemetry_dlq";
    let row = client.query_one(sql, &[]).await?;
    if u64::try_from(row.get::<_, i64>(0))? != points {
        bail!("{} points are in dead letters; expected {points}", row.get::<_, i64>(0));
    }
    client.batch_execute("DELETE FROM otel.otel_telemetry_dlq").await?;
    Ok(row.get::<_, f64>(1) / points as f64)
}
