//! `export`: what is stored as OTLP, piece by piece, to stdout or into a file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use oneiric_otel::otlp::{self, Encoding};
use oneiric_otel::query::{ExportPart, ExportRequest};
use serde::Serialize;

use super::Ending;
use crate::args::{Export, Format, Global};
use crate::finder::Finder;
use crate::progress::Progress;
use crate::screen;

/// What was written.
#[derive(Debug, Default, Serialize)]
struct Summary {
    requests: u64,
    bytes: u64,
    spans: u64,
    data_points: u64,
    log_records: u64,
    /// Records that a reader refuses or finds changed.
    not_carried: u64,
}

impl Summary {
    fn add(&mut self, part: &ExportPart) {
        self.requests += 1;
        self.bytes += part.body.len() as u64;
        self.not_carried += part.not_carried;
        *match part.signal {
            otlp::Signal::Traces => &mut self.spans,
            otlp::Signal::Metrics => &mut self.data_points,
            otlp::Signal::Logs => &mut self.log_records,
        } += part.records;
    }
}

pub(crate) async fn run(global: &Global, export: &Export) -> Result<Ending> {
    let finder = Finder::open(global, false).await?;
    let done = work(&finder, export).await;
    finder.release().await?;
    let summary = done?;
    if export.output.as_os_str() != "-" {
        if global.json {
            screen::print_json(&summary)?;
        } else {
            screen::print(&tell(&summary))?;
        }
    }
    if summary.not_carried == 0 {
        return Ok(Ending::Good);
    }
    tracing::error!(
        records = summary.not_carried,
        "OTLP/JSON does not carry all of these records (it has no payload of a NaN, and its readers bound nesting and \
         length); --format protobuf does, one --signal at a time"
    );
    Ok(Ending::Bad)
}

async fn work(finder: &Finder, export: &Export) -> Result<Summary> {
    let mut signals: Vec<otlp::Signal> = export.signals.iter().map(|signal| signal.otlp()).collect();
    signals.sort_unstable();
    signals.dedup();
    if signals.is_empty() {
        signals = otlp::Signal::ALL.to_vec();
    }
    let request = ExportRequest {
        since: export.since.map(|moment| moment.0),
        until: export.until.map(|moment| moment.0),
        service: export.service.clone(),
        signals,
        encoding: match export.format {
            Format::Json => Encoding::Json,
            Format::Protobuf => Encoding::Protobuf,
        },
    };
    let mut parts = finder.service.export(request).map_err(|error| finder.explain(error))?;
    let mut sink = Sink::open(&export.output)?;
    let mut summary = Summary::default();
    let progress = Arc::new(Progress::new());
    if sink.is_file() {
        progress.start("exporting", None);
    }
    while let Some(part) = parts.next().await.map_err(|error| finder.explain(error))? {
        sink.write(export.format, &part)?;
        summary.add(&part);
        progress.add(part.records);
    }
    progress.end();
    sink.finish()?;
    Ok(summary)
}

/// Where an export goes.
#[derive(Debug)]
enum Sink {
    Stdout(io::Stdout),
    File {
        file: BufWriter<File>,
        /// The name of a file that is not whole yet. None for a device or a pipe, in whose place no file may come.
        partial: Option<PathBuf>,
        path: PathBuf,
    },
}

impl Sink {
    fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout(io::stdout()));
        }
        let partial = fs::metadata(path).map_or(true, |found| found.is_file()).then(|| {
            let mut partial = OsString::from(path);
            partial.push(".partial");
            PathBuf::from(partial)
        });
        let target = partial.as_deref().unwrap_or(path);
        let opened = File::options().write(true).create(partial.is_some()).truncate(partial.is_some()).open(target);
        let file = opened.with_context(|| format!("cannot write {}", target.display()))?;
        Ok(Self::File { file: BufWriter::new(file), partial, path: path.to_owned() })
    }

    fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    fn write(&mut self, format: Format, part: &ExportPart) -> Result<()> {
        if format == Format::Json && matches!(self, Self::Stdout(stdout) if stdout.is_terminal()) {
            // A person looks: the same JSON, but nothing in it drives the terminal.
            return screen::print(&format!("{}\n", screen::escape(&String::from_utf8_lossy(&part.body))));
        }
        let out: &mut dyn Write = match self {
            Self::Stdout(stdout) => stdout,
            Self::File { file, .. } => file,
        };
        let written = match format {
            Format::Json => out.write_all(&part.body).and_then(|()| out.write_all(b"\n")),
            Format::Protobuf => {
                let length = u32::try_from(part.body.len()).context("a request is longer than its length can say")?;
                out.write_all(&length.to_be_bytes()).and_then(|()| out.write_all(&part.body))
            }
        };
        written.with_context(|| self.trouble())
    }

    fn finish(mut self) -> Result<()> {
        let finished = match &mut self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File { file, partial: Some(partial), path } => {
                file.flush().and_then(|()| file.get_ref().sync_all()).and_then(|()| fs::rename(partial, path))
            }
            Self::File { file, partial: None, .. } => file.flush(),
        };
        finished.with_context(|| self.trouble())
    }

    fn trouble(&self) -> String {
        match self {
            Self::Stdout(_) => "cannot write to stdout".to_owned(),
            Self::File { path, .. } => format!("cannot write {}", path.display()),
        }
    }
}

fn tell(summary: &Summary) -> String {
    let Summary { requests, bytes, spans, data_points, log_records, .. } = summary;
    let size = indicatif::BinaryBytes(*bytes);
    format!(
        "exported {spans} spans, {data_points} data points, {log_records} log records: {requests} requests, {size}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn no_file_comes_in_the_place_of_a_device() {
        let place = tempfile::tempdir().unwrap();
        let hole = place.path().join("hole");
        std::os::unix::fs::symlink("/dev/null", &hole).unwrap();
        Sink::open(&hole).unwrap().finish().unwrap();
        assert!(fs::symlink_metadata(&hole).unwrap().is_symlink());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);

        let file = place.path().join("file");
        Sink::open(&file).unwrap().finish().unwrap();
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
    }
}
