//! How fast the model is on this machine, against the limit that its matrix products set.
//!
//!     cargo run --release -p oneiric-otel-embed --example throughput [MODEL_DIR]
//!
//! Without a directory the model comes from the runtime parts. The limit is the speed of the same matrix library on this
//! model's largest product, measured before and after in the same run: compare the ratios, since absolute figures move
//! with whatever else the machine does. On a busy machine only the figures per second of processor time mean something.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oneiric_otel_embed::MiniLm;
use oneiric_otel_parts::{Parts, Silent};

/// Multiplications and additions per word piece in the linear layers: 6 layers of 384 x 1152, 384 x 384, 384 x 1536 twice.
const OPERATIONS_PER_PIECE: f64 = 2.0 * 6.0 * (384.0 * 1152.0 + 384.0 * 384.0 + 2.0 * 384.0 * 1536.0);
const TEXTS: usize = 1000;
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = model_dir()?;

    let begin = Instant::now();
    let model = match std::env::args().nth(2).as_deref() {
        Some("int8") => MiniLm::load(&dir, oneiric_otel_embed::Precision::Int8)?,
        Some("avx2") => MiniLm::load_with(&dir, oneiric_otel_embed::Instructions::Avx2)?,
        Some("avxvnni") => MiniLm::load_with(&dir, oneiric_otel_embed::Instructions::AvxVnni)?,
        Some("portable") => MiniLm::load_with(&dir, oneiric_otel_embed::Instructions::Portable)?,
        _ => MiniLm::load(&dir, oneiric_otel_embed::Precision::F32)?,
    };
    println!("load                 {:8.1} ms", millis(begin.elapsed()));
    println!("resident after load  {:8.1} MB", resident("VmRSS")?);

    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let lengths: Vec<usize> = texts.iter().map(|text| model.token_count(text)).collect();
    let pieces = lengths.iter().sum::<usize>();
    println!("texts                {:8} of {:.1} pieces", texts.len(), pieces as f64 / texts.len() as f64);

    let begin = Instant::now();
    model.embed(&texts[..1])?;
    println!("first text           {:8.2} ms", millis(begin.elapsed()));

    let mut model = model;
    let mut rates = Vec::new();
    for threads in [1, 2] {
        model = model.with_threads(threads);
        let before = product_rate(threads)?;
        let mut best = f64::INFINITY;
        let mut best_processor = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (begin, begin_processor) = (Instant::now(), processor_seconds()?);
            model.embed(&texts)?;
            best = best.min(begin.elapsed().as_secs_f64());
            best_processor = best_processor.min(processor_seconds()? - begin_processor);
        }
        let after = product_rate(threads)?;
        let work = OPERATIONS_PER_PIECE * pieces as f64;
        for (what, time, limit) in
            [("second", best, before.0.max(after.0)), ("processor second", best_processor, before.1.max(after.1))]
        {
            println!(
                "{threads} thread(s)          {:8.1} texts per {what}, {:.1} % of the limit of {:.1} GFLOP/s",
                texts.len() as f64 / time,
                work / time / limit * 100.0,
                limit / 1e9
            );
        }
        rates.push(texts.len() as f64 / best);
    }
    println!("2 threads / 1        {:8.2}", rates[1] / rates[0]);

    let model = model.with_threads(1);
    let mut single = Vec::new();
    for text in &texts[..300] {
        let begin = Instant::now();
        model.embed(&[text])?;
        single.push(begin.elapsed());
    }
    single.sort_unstable();
    let middle = single[single.len() / 2];
    let mut ordered = lengths[..300].to_vec();
    ordered.sort_unstable();
    let ideal = OPERATIONS_PER_PIECE * ordered[150] as f64 / product_rate(1)?.0;
    println!(
        "one text, p50        {:8.2} ms, p95 {:.2} ms; the limit alone is {:.2} ms",
        millis(middle),
        millis(single[single.len() * 95 / 100]),
        ideal * 1000.0
    );
    println!("resident, highest    {:8.1} MB", resident("VmHWM")?);
    Ok(())
}

fn model_dir() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(dir) = std::env::args_os().nth(1) {
        return Ok(dir.into());
    }
    Ok(Parts::open_default()?.minilm(&Silent)?)
}

/// Sentences like those made of traces, 20 to 120 pieces long.
fn texts() -> Vec<String> {
    let services = ["checkout", "payment-service", "mahavishnu", "inventory_db", "api.gateway", "frontend"];
    let causes = [
        "timed out waiting for a database connection",
        "403 forbidden, access denied by policy",
        "connection refused by the message broker",
        "deadlock detected while waiting for a lock",
        "retries exhausted after 3 attempts",
    ];
    let operations = ["process_repository", "POST /api/v1/orders", "SELECT orders", "PlaceOrder", "publish orders"];
    let text = |index: usize| {
        let mut text = format!(
            "The service {} failed in {} because {}.",
            services[index % 6],
            operations[index / 6 % 5],
            causes[index / 30 % 5]
        );
        for service in services.iter().take(1 + index * 7 % 5) {
            let step = format!(" Then {service} ran {} with error {}.", operations[index % 5], index * 31 % 997);
            text.push_str(&step);
        }
        text
    };
    (0..TEXTS).map(text).collect()
}

/// Operations per second, and per second of processor time, of the matrix library alone, on `threads` threads, each with
/// a 400 x 384 x 1536 product of its own.
fn product_rate(threads: usize) -> Result<(f64, f64), Box<dyn Error>> {
    const ROWS: usize = 400;
    const DEPTH: usize = 384;
    const COLUMNS: usize = 1536;
    let worker = || {
        let (left, right) = (vec![0.5_f32; ROWS * DEPTH], vec![0.25_f32; DEPTH * COLUMNS]);
        let mut out = vec![0.0_f32; ROWS * COLUMNS];
        let begin = Instant::now();
        let mut done = 0;
        while begin.elapsed() < Duration::from_secs(1) {
            product(&left, &right, &mut out, ROWS, DEPTH, COLUMNS);
            done += 1;
        }
        f64::from(done) * 2.0 * (ROWS * DEPTH * COLUMNS) as f64
    };
    let (begin, begin_processor) = (Instant::now(), processor_seconds()?);
    let work: f64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(f64::NAN)).sum()
    });
    Ok((work / begin.elapsed().as_secs_f64(), work / (processor_seconds()? - begin_processor)))
}

/// Processor time that this process has taken, all threads together.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    /// Linux counts in hundredths wherever a program can see it.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th fields after it.
    let (_, fields) = stat.rsplit_once(')').ok_or("no process statistics")?;
    let ticks = |index: usize| -> Result<f64, Box<dyn Error>> {
        Ok(fields.split_whitespace().nth(index).ok_or("no such field")?.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

#[allow(unsafe_code, reason = "the limit is the library itself, without what this crate adds")]
fn product(left: &[f32], right: &[f32], out: &mut [f32], rows: usize, depth: usize, columns: usize) {
    assert!(left.len() == rows * depth && right.len() == depth * columns && out.len() == rows * columns);
    let (across, down_left) = (columns as isize, depth as isize);
    // SAFETY: the three slices have exactly the elements that the sizes and steps describe, row by row, and `out` is
    // borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            across,
            false,
            left.as_ptr(),
            1,
            down_left,
            right.as_ptr(),
            1,
            across,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A line of this process's status, in MB.
fn resident(name: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).ok_or("no such line")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kilobytes / 1024.0)
}
