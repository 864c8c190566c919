//! How much the spool takes, each append awaited until it is durable, beside what the disk does with a bare file.
//!
//!     cargo run --release -p oneiric-otel-spool --example throughput [DIR]
//!
//! Without a directory it is the current one: a temporary directory is often in memory, where syncing costs nothing. It is
//! made below the directory and removed afterwards. Compare within one run.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use bytes::Bytes;
use oneiric_otel_spool::{Spool, SpoolOptions};
use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_secs(3);
const SIZES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let below = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(below)?;
    let runtime = Runtime::new()?;

    println!(
        "{:>10} {:>9} {:>11} {:>8} {:>9} {:>9} {:>10}",
        "bytes", "appenders", "appends/s", "MB/s", "p50 ms", "p99 ms", "syncs/s"
    );
    for size in SIZES.into_iter().chain([8 << 20]) {
        let latencies = bare(&dir.path().join("bare"), size)?;
        report(size, "bare file", latencies, None);
    }
    for size in SIZES {
        for appenders in [1, 16, 256] {
            let (latencies, syncs) = runtime.block_on(spooled(&dir.path().join("spool"), size, appenders))?;
            report(size, &appenders.to_string(), latencies, Some(syncs));
        }
    }
    Ok(())
}

/// One thread writes and syncs.
fn bare(path: &Path, size: usize) -> Result<Vec<Duration>, Failure> {
    let body = body(size);
    let mut file = File::create(path)?;
    let mut latencies = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < LONG {
        let start = Instant::now();
        file.write_all(&body)?;
        file.sync_data()?;
        latencies.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(latencies)
}

/// Each appender waits for its answer, releases, and appends again.
async fn spooled(dir: &Path, size: usize, appenders: usize) -> Result<(Vec<Duration>, u64), Failure> {
    let (spool, _) = Spool::open(SpoolOptions::new(dir, ["traces", "metrics", "logs"]))?;
    let body = body(size);
    let begin = Instant::now();
    let tasks: Vec<_> = (0..appenders)
        .map(|_| {
            let (spool, body) = (spool.clone(), body.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begin.elapsed() < LONG {
                    let start = Instant::now();
                    let (sender, answer) = oneshot::channel();
                    // The receiver waits below.
                    spool.append(0, 0, body.clone(), move |result| drop(sender.send(result))).await?;
                    let id = answer.await??;
                    latencies.push(start.elapsed());
                    spool.release(id);
                }
                Ok::<_, Failure>(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let syncs = spool.status().counters.fsyncs;
    tokio::task::spawn_blocking(move || spool.close()).await?;
    Ok((latencies, syncs))
}

/// Bytes that do not compress, should the file system try.
fn body(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..size / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn report(size: usize, appenders: &str, mut latencies: Vec<Duration>, syncs: Option<u64>) {
    latencies.sort_unstable();
    let seconds = LONG.as_secs_f64();
    let per_second = latencies.len() as f64 / seconds;
    let millis =
        |percent: usize| latencies.get(latencies.len() * percent / 100).map_or(0.0, |one| one.as_secs_f64() * 1e3);
    let syncs = syncs.map_or_else(|| per_second, |syncs| syncs as f64 / seconds);
    println!(
        "{size:>10} {appenders:>9} {per_second:>11.0} {:>8.1} {:>9.2} {:>9.2} {syncs:>10.0}",
        per_second * size as f64 / 1e6,
        millis(50),
        millis(99)
    );
}
