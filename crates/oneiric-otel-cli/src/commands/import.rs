//! `import`: telemetry from files into the database, past any server.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use oneiric_otel::derive::{DeriveOptions, Deriver};
use oneiric_otel::otlp;
use oneiric_otel::otlp::file::{self, FileRequest};
use oneiric_otel::pipeline::{self, Ack, Ingest, Refused, Request};
use oneiric_otel::rollup::{RollupOptions, RollupWorker};
use oneiric_otel::settings::Settings;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Ending;
use crate::args::{Global, Import, Signal};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{embedding, failure, screen};

/// Requests under way at the same time.
const AT_ONCE: usize = 8;
/// How long a request that cannot be stored now is tried again, from its first refusal.
const PATIENCE: Duration = Duration::from_mins(1);
/// What asks for a longer pause waits for a person, and an import cannot.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Reasons that the summary spells out.
const REASONS: usize = 20;
/// So many bytes tell that a file is compressed.
const MAGIC_BYTES: u64 = 4;
/// Files of a directory that are looked at. A file that is named is, whatever its name.
const EXTENSIONS: [&str; 8] = ["json", "jsonl", "ndjson", "pb", "bin", "binpb", "otlp", "protobuf"];

/// What became of the input.
#[derive(Debug, Default, Serialize)]
struct Summary {
    files: u64,
    /// Files of directories that have no name of telemetry.
    skipped_files: u64,
    requests: u64,
    /// Requests that had been stored before.
    repeated_requests: u64,
    /// Enum names, which OTLP/JSON forbids, that were read as their numbers.
    enum_names: u64,
    /// Records that are stored, now or since an earlier import.
    accepted: Accepted,
    /// Records that can never be kept.
    rejected: u64,
    /// Files, parts of files and whole requests that could not be read. How many records they hold nobody knows.
    unreadable: u64,
    /// Why, and where.
    reasons: Vec<String>,
    /// Reasons beyond those.
    more_reasons: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    derived: Option<Searchable>,
}

/// Records by kind.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Accepted {
    spans: u64,
    data_points: u64,
    log_records: u64,
}

impl Accepted {
    fn add(&mut self, signal: otlp::Signal, records: u64) {
        let kind = match signal {
            otlp::Signal::Traces => &mut self.spans,
            otlp::Signal::Metrics => &mut self.data_points,
            otlp::Signal::Logs => &mut self.log_records,
        };
        *kind += records;
    }
}

/// What was done so that the records can be searched.
#[derive(Debug, Serialize)]
struct Searchable {
    traces: u64,
    texts_embedded: u64,
    /// Why there are no vectors yet, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_embedded: Option<String>,
}

impl Summary {
    fn reject(&mut self, records: u64, reason: String) {
        self.rejected += records;
        self.give(reason);
    }

    fn miss(&mut self, reason: String) {
        self.unreadable += 1;
        self.give(reason);
    }

    fn give(&mut self, reason: String) {
        if self.reasons.len() < REASONS {
            self.reasons.push(reason);
        } else {
            self.more_reasons += 1;
        }
    }

    fn kept_any(&self) -> bool {
        let Accepted { spans, data_points, log_records } = self.accepted;
        spans + data_points + log_records > 0
    }
}

pub(crate) async fn run(global: &Global, import: &Import) -> Result<Ending> {
    let mut summary = Summary::default();
    let sources = sources(&import.paths, &mut summary)?;
    if sources.is_empty() && summary.unreadable == 0 {
        let names = EXTENSIONS.map(|extension| format!(".{extension}")).join(", ");
        let hint = format!("files in directories are known by their names ({names}); one that is named is always read");
        return Err(failure::advised("there is no telemetry in what was given", hint));
    }
    let progress = Arc::new(Progress::new());
    let backend = Backend::open_for_writing(global, &progress).await?;
    let done = work(global.settings(), &backend, import, sources, &mut summary, &progress).await;
    backend.release().await?;
    done?;
    if global.json {
        screen::print_json(&summary)?;
    } else {
        screen::print(&tell(&summary))?;
    }
    Ok(if summary.rejected + summary.unreadable > 0 && !summary.kept_any() { Ending::Bad } else { Ending::Good })
}

/// Something to read.
#[derive(Debug)]
pub(super) enum Source {
    Stdin,
    File(PathBuf),
}

/// The files that the paths name. One that is not there is a mistake of the caller, found before anything is stored.
fn sources(paths: &[PathBuf], summary: &mut Summary) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            sources.push(Source::Stdin);
            continue;
        }
        let meta = std::fs::metadata(path).map_err(|error| {
            let hint = "give files or directories with OTLP telemetry, or - for stdin; nothing was imported";
            failure::advised(format!("cannot read {}: {error}", path.display()), hint)
        })?;
        if meta.is_dir() {
            add_directory(path, &mut sources, summary);
        } else {
            sources.push(Source::File(path.clone()));
        }
    }
    Ok(sources)
}

/// Adds what looks like telemetry, in order of name. Hidden files and directories are left alone.
fn add_directory(dir: &Path, sources: &mut Vec<Source>, summary: &mut Summary) {
    let mut entries: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) => {
            summary.miss(format!("{}: {error}", dir.display()));
            return;
        }
    };
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // A link to a directory could lead back up.
        let kind = std::fs::symlink_metadata(&path).map(|meta| meta.file_type());
        if hidden {
            continue;
        }
        match kind {
            Ok(kind) if kind.is_dir() => add_directory(&path, sources, summary),
            _ if path.is_file() && has_known_extension(&path) => sources.push(Source::File(path)),
            _ => match packer(&path) {
                Some(tool) => summary.miss(format!("{}: {}", path.display(), unpack(tool))),
                None => summary.skipped_files += 1,
            },
        }
    }
}

/// What packed a file whose name says that it holds telemetry, as `spans.json.gz`.
fn packer(path: &Path) -> Option<&'static str> {
    let tool = match path.extension()?.to_str()? {
        "gz" => "gzip",
        "zst" => "zstd",
        _ => return None,
    };
    has_known_extension(Path::new(path.file_stem()?)).then_some(tool)
}

fn unpack(tool: &str) -> String {
    format!("it is compressed; use `{tool} -dc FILE | oneiric-otel import -`")
}

fn has_known_extension(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

async fn work(
    settings: &Settings,
    backend: &Backend,
    import: &Import,
    sources: Vec<Source>,
    summary: &mut Summary,
    progress: &Arc<Progress>,
) -> Result<()> {
    let ingest = Ingest::start(backend.database().clone(), settings.ingest_options(Ack::Stored));
    progress.start("storing", Some(sources.len() as u64));
    let mut stored = Ok(());
    for source in sources {
        stored = store(&ingest, source, import.signal, summary).await;
        if stored.is_err() {
            break;
        }
        progress.add(1);
    }
    progress.end();
    summary.repeated_requests = ingest.counts().duplicate_requests;
    ingest.drain().await;
    stored?;
    if !import.no_wait {
        summary.derived = Some(make_searchable(settings, backend, progress).await?);
    }
    Ok(())
}

/// What is met on the way through a source.
pub(super) enum Met {
    /// There is something to read.
    Beginning,
    Request(FileRequest),
    /// A part that is no request, and why.
    Unreadable(String),
}

/// Stores what a source has. What is wrong with the source goes into the summary.
///
/// # Errors
/// If the database cannot take it now: what follows would be refused as well.
async fn store(ingest: &Ingest, source: Source, signal: Option<Signal>, summary: &mut Summary) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel(AT_ONCE);
    // A thread of its own: the end of the program does not wait for one that waits for stdin.
    let reader = std::thread::Builder::new().name("read".to_owned());
    reader.spawn(move || read(&source, signal.map(Signal::otlp), &sender)).context("cannot start a thread")?;
    let met = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    let answers = met.map(|met| async {
        let FileRequest { signal, encoding, body, enum_names, at } = match met {
            Met::Request(found) => found,
            Met::Beginning => return Answer::Beginning,
            Met::Unreadable(reason) => return Answer::Unreadable(reason),
        };
        let request = Request { signal, encoding, body };
        let outcome = persist(PATIENCE, || ingest.submit(request.clone())).await;
        Answer::Outcome { at, signal, enum_names, outcome }
    });
    let mut answers = std::pin::pin!(answers.buffered(AT_ONCE));
    while let Some(answer) = answers.next().await {
        let (at, signal, enum_names, outcome) = match answer {
            Answer::Outcome { at, signal, enum_names, outcome } => (at, signal, enum_names, outcome),
            Answer::Beginning => {
                summary.files += 1;
                continue;
            }
            Answer::Unreadable(reason) => {
                summary.miss(reason);
                continue;
            }
        };
        match outcome {
            Ok(accepted) => {
                summary.requests += 1;
                summary.enum_names += enum_names;
                summary.accepted.add(signal, accepted.records);
                if accepted.rejected > 0 {
                    summary.reject(accepted.rejected, format!("{at}: {}", accepted.message));
                }
            }
            Err(Refused::Malformed { reason }) => summary.miss(format!("{at}: {reason}")),
            Err(Refused::Unavailable { reason, .. }) => {
                let hint = "when this is solved, run it again: what is stored already is not doubled";
                return Err(failure::advised(format!("{at}: {reason}; the import is not complete"), hint));
            }
        }
    }
    Ok(())
}

/// What became of something that was [`Met`].
enum Answer {
    Beginning,
    Unreadable(String),
    Outcome {
        /// The source, and where in it.
        at: String,
        signal: otlp::Signal,
        enum_names: u64,
        outcome: Result<pipeline::Accepted, Refused>,
    },
}

/// Reads a source to its end, or until nobody listens any more.
pub(super) fn read(source: &Source, signal: Option<otlp::Signal>, sender: &mpsc::Sender<Met>) {
    let (name, opened) = match source {
        Source::Stdin => ("stdin".to_owned(), Ok(Box::new(io::stdin().lock()) as Box<dyn Read>)),
        Source::File(path) => {
            (path.display().to_string(), File::open(path).map(|file| Box::new(file) as Box<dyn Read>))
        }
    };
    let opened = opened.and_then(|mut opened| {
        let mut magic = Vec::new();
        opened.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
        Ok((magic, opened))
    });
    let (magic, rest) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            drop(sender.blocking_send(Met::Unreadable(format!("cannot read {name}: {error}"))));
            return;
        }
    };
    if sender.blocking_send(Met::Beginning).is_err() {
        return;
    }
    if let Some(tool) = compressed_by(&magic) {
        let reason = format!("{name}: {}", unpack(tool));
        drop(sender.blocking_send(Met::Unreadable(reason)));
        return;
    }
    for found in file::read(&name, io::Cursor::new(magic).chain(rest), signal) {
        let met = match found {
            Ok(mut found) => {
                found.at = format!("{name}: {}", found.at);
                Met::Request(found)
            }
            Err(error) => Met::Unreadable(format!("{name}: {error}")),
        };
        if sender.blocking_send(met).is_err() {
            return;
        }
    }
}

/// Makes attempts until one is no matter of "not now", for at most as long as `patience`.
async fn persist<F>(patience: Duration, attempt: impl Fn() -> F) -> Result<pipeline::Accepted, Refused>
where
    F: Future<Output = Result<pipeline::Accepted, Refused>>,
{
    let mut give_up = None;
    loop {
        let (reason, retry_after) = match attempt().await {
            Err(Refused::Unavailable { reason, retry_after }) => (reason, retry_after),
            answer => return answer,
        };
        let give_up = *give_up.get_or_insert_with(|| Instant::now() + patience);
        if retry_after > LONGEST_PAUSE || Instant::now() + retry_after > give_up {
            return Err(Refused::Unavailable { reason, retry_after });
        }
        tokio::time::sleep(retry_after).await;
    }
}

fn compressed_by(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        _ => None,
    }
}

/// Derives and embeds what was stored. The records are safe already, so a model that is missing is told, not an error.
async fn make_searchable(settings: &Settings, backend: &Backend, progress: &Arc<Progress>) -> Result<Searchable> {
    let deriver = Deriver::new(backend.database().clone(), DeriveOptions::default());
    progress.start("deriving traces", None);
    let derived = deriver.derive_all_now().await;
    progress.end();
    let derived = derived.map_err(|error| failure::of_database(&error, backend.target()))?;
    progress.start("rolling metrics up", None);
    let rolled = RollupWorker::new(backend.database().clone(), RollupOptions::default()).roll_up_all_now().await;
    progress.end();
    rolled.map_err(|error| failure::of_database(&error, backend.target()))?;
    let embedded = embedding::embed_all_now(settings, backend.database(), progress).await;
    let (texts_embedded, not_embedded) = match embedded {
        Ok(embedded) if embedded.no_pgvector => (0, Some("the database has no pgvector".to_owned())),
        Ok(embedded) if embedded.failed > 0 => {
            (embedded.vectors, Some(format!("{} texts wait for another try", embedded.failed)))
        }
        Ok(embedded) => (embedded.vectors, None),
        Err(error) => (0, Some(format!("{error:#}"))),
    };
    Ok(Searchable { traces: derived.traces, texts_embedded, not_embedded })
}

fn tell(summary: &Summary) -> String {
    let mut table = screen::table(&["what", "count"]);
    let mut row = |what: &str, count: u64| {
        table.add_row([what.to_owned(), count.to_string()]);
    };
    row("files", summary.files);
    if summary.skipped_files > 0 {
        row("files skipped (not telemetry by their names)", summary.skipped_files);
    }
    row("requests", summary.requests);
    if summary.repeated_requests > 0 {
        row("requests that had been stored before", summary.repeated_requests);
    }
    let Accepted { spans, data_points, log_records } = summary.accepted;
    row("spans accepted", spans);
    row("data points accepted", data_points);
    row("log records accepted", log_records);
    if summary.enum_names > 0 {
        row("enum names that were read as their numbers", summary.enum_names);
    }
    row("records rejected", summary.rejected);
    if summary.unreadable > 0 {
        row("parts that could not be read", summary.unreadable);
    }
    if let Some(searchable) = &summary.derived {
        row("traces derived", searchable.traces);
        row("texts embedded", searchable.texts_embedded);
    }
    let mut lines = vec![table.to_string()];
    lines.extend(summary.reasons.iter().map(|reason| format!("rejected: {}", screen::clean(reason))));
    if summary.more_reasons > 0 {
        lines.push(format!("and {} more", summary.more_reasons));
    }
    if let Some(reason) = summary.derived.as_ref().and_then(|searchable| searchable.not_embedded.as_ref()) {
        lines.push(format!("not searchable by meaning yet: {}", screen::clean(reason)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_stored_now_is_tried_again_for_a_while() {
        let attempts = Cell::new(0);
        let refuse_until = |last: u32, retry_after: Duration| {
            let attempts = &attempts;
            attempts.set(0);
            move || {
                attempts.set(attempts.get() + 1);
                let refused = Refused::Unavailable { reason: "busy".to_owned(), retry_after };
                let answer = if attempts.get() < last { Err(refused) } else { Ok(pipeline::Accepted::default()) };
                async { answer }
            }
        };
        let soon = Duration::from_millis(1);
        assert_eq!(persist(PATIENCE, refuse_until(3, soon)).await, Ok(pipeline::Accepted::default()));
        assert_eq!(attempts.get(), 3);
        let refused = persist(Duration::from_millis(20), refuse_until(u32::MAX, soon)).await;
        assert!(matches!(refused, Err(Refused::Unavailable { .. })), "{refused:?}");
        assert!(attempts.get() > 1);
        let refused = persist(PATIENCE, refuse_until(3, Duration::from_secs(30))).await;
        assert!(matches!(refused, Err(Refused::Unavailable { .. })), "{refused:?}");
        assert_eq!(attempts.get(), 1, "a person has to act");
        let malformed = Refused::Malformed { reason: "no".to_owned() };
        assert_eq!(persist(PATIENCE, || async { Err(malformed.clone()) }).await, Err(malformed.clone()));
    }
}
