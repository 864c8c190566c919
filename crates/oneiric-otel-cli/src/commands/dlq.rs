//! `dlq`: records that the database refused, and requests that the spool could not make sense of.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;
use oneiric_otel::otlp::record::Record;
use oneiric_otel::otlp::{self, Encoding, Signal, json};
use oneiric_otel::pipeline::Replayer;
use oneiric_otel::store::{Database, DeadLetterEntry, DeadLetterFilter, Replayed, StoreError};
use oneiric_otel_spool::quarantine::{self, Content, Quarantined};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Ending;
use crate::args::Global;
use crate::args::dlq::{Dlq, Kind, List, Purge, Replay, Show};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{data_dir, failure, moment, screen};

/// What the ids of quarantined requests begin with.
const SPOOL: &str = "spool:";
/// Their class.
const QUARANTINE: &str = "quarantine";

/// Letters that are looked up at a time.
const PAGE: u32 = 1000;

/// Bytes of something unreadable that are shown.
const SHOWN_BYTES: usize = 256;

/// Characters of an id that a list shows: enough to tell thousands apart.
const SHORT_ID: usize = 8;

pub(crate) async fn run(global: &Global, command: &Dlq) -> Result<Ending> {
    let backend = Backend::open_for_reading(global, &Arc::new(Progress::new())).await?;
    let letters = Letters {
        json: global.json,
        database: backend.database().clone(),
        spool: oneiric_otel::system::spool_dir(&data_dir::of(global)?, backend.system()),
    };
    let done = match command {
        Dlq::List(list) => letters.list(list).await,
        Dlq::Show(show) => letters.show(show).await,
        Dlq::Replay(replay) => letters.replay(replay).await,
        Dlq::Purge(purge) => letters.purge(purge).await,
    };
    backend.release().await?;
    done
}

/// All there is of a database and of the spool before it.
struct Letters {
    json: bool,
    database: Database,
    spool: PathBuf,
}

/// One of them.
enum Letter {
    Dead(DeadLetterEntry),
    Quarantined(Quarantined),
}

impl Letter {
    fn id(&self) -> String {
        match self {
            Self::Dead(entry) => entry.id.to_string(),
            Self::Quarantined(about) => format!("{SPOOL}{}", about.name),
        }
    }

    fn time(&self) -> Timestamp {
        match self {
            Self::Dead(entry) => entry.created_at,
            Self::Quarantined(about) => set_aside_at(about),
        }
    }

    fn is_processed(&self) -> bool {
        matches!(self, Self::Dead(entry) if entry.processed_at.is_some())
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Dead(entry) => json!(entry),
            Self::Quarantined(about) => {
                json!({ "id": self.id(), "telemetry_type": telemetry_type(about), "error_class": QUARANTINE,
                        "error_message": about.reason, "created_at": self.time().to_string(), "bytes": about.length,
                        "quarantined": about })
            }
        }
    }
}

impl Letters {
    async fn list(&self, list: &List) -> Result<Ending> {
        let letters = self.listed(list).await?;
        if self.json {
            screen::print_json(&letters.iter().map(Letter::to_json).collect::<Vec<_>>())?;
            return Ok(Ending::Good);
        }
        if letters.is_empty() {
            screen::print("no dead letters\n")?;
            return Ok(Ending::Good);
        }
        let mut table = screen::table(&["id", "time", "type", "class", "records", "retries", "next retry", "message"]);
        for letter in &letters {
            table.add_row(row(letter));
        }
        screen::print(&format!("{table}\n"))?;
        Ok(Ending::Good)
    }

    async fn listed(&self, list: &List) -> Result<Vec<Letter>> {
        let filter = DeadLetterFilter {
            since: list.since.map(|moment| moment.0),
            until: list.until.map(|moment| moment.0),
            class: list.class.clone(),
            signal: list.kind.map(signal_of),
            processed: (!list.all).then_some(false),
        };
        let dead = self.database.dead_letters(&filter, list.limit).await.map_err(|error| self.explain(&error))?;
        let mut letters: Vec<Letter> = dead.into_iter().map(Letter::Dead).collect();
        if list.class.as_deref().is_none_or(|class| class == QUARANTINE) {
            let passes = |about: &Quarantined| {
                let time = set_aside_at(about);
                filter.since.is_none_or(|since| time >= since)
                    && filter.until.is_none_or(|until| time < until)
                    && filter.signal.is_none_or(|signal| about.lane == signal.as_str())
            };
            letters.extend(self.quarantined()?.into_iter().filter(passes).map(Letter::Quarantined));
        }
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.time()));
        letters.truncate(list.limit as usize);
        Ok(letters)
    }

    async fn show(&self, show: &Show) -> Result<Ending> {
        let letter = self.find(&show.id).await?;
        let bytes: Bytes = match &letter {
            Letter::Dead(entry) => {
                let found = self.database.dead_letter(entry.id).await.map_err(|error| self.explain(&error))?;
                found.with_context(|| format!("dead letter {} is gone", entry.id))?.1.into()
            }
            Letter::Quarantined(about) => quarantine::read(&self.spool, &about.name)?.1.into(),
        };
        if show.raw {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("cannot write to stdout")?;
            return Ok(Ending::Good);
        }
        let mut shown = letter.to_json();
        match &letter {
            Letter::Dead(entry) => match as_json(entry.signal(), &bytes) {
                Ok(otlp) => shown["otlp"] = otlp,
                Err(reason) => {
                    shown["unreadable"] = json!(reason);
                    shown["first_bytes"] = json!(hex(&bytes));
                }
            },
            Letter::Quarantined(_) => shown["first_bytes"] = json!(hex(&bytes)),
        }
        if self.json {
            screen::print_json(&shown)?;
        } else {
            screen::print(&screen::pretty_json(&shown)?)?;
        }
        Ok(Ending::Good)
    }

    async fn replay(&self, replay: &Replay) -> Result<Ending> {
        let replayer = Replayer::new(self.database.clone(), Replayer::EVERY);
        let mut report = Report { json: self.json, lines: Vec::new(), failed: false };
        if !replay.all {
            // All are found before any is touched.
            let mut letters = Vec::with_capacity(replay.ids.len());
            for id in &replay.ids {
                letters.push(self.find(id).await?);
            }
            for letter in letters {
                self.replay_one(&replayer, &letter, &mut report).await?;
            }
            return report.end();
        }
        let mut after = None;
        loop {
            let ids = self.database.unprocessed_dead_letter_ids(after, PAGE).await;
            let ids = ids.map_err(|error| self.explain(&error))?;
            let Some(last) = ids.last().copied() else { break };
            after = Some(last);
            for id in ids {
                self.replay_dead(&replayer, id, &mut report).await?;
            }
        }
        for about in self.quarantined()?.into_iter().filter(|about| about.content == Content::Body) {
            self.replay_one(&replayer, &Letter::Quarantined(about), &mut report).await?;
        }
        report.end()
    }

    async fn replay_one(&self, replayer: &Replayer, letter: &Letter, report: &mut Report) -> Result<()> {
        let about = match letter {
            Letter::Dead(entry) => return self.replay_dead(replayer, entry.id, report).await,
            Letter::Quarantined(about) => about,
        };
        if about.content != Content::Body {
            let reason = "its bytes are damaged: there is nothing to store".to_owned();
            return report.add(&letter.id(), &Replayed::Refused { reason });
        }
        let (_, body) = quarantine::read(&self.spool, &about.name)?;
        match replayer.store_set_aside(&about.lane, about.tag, body.into()).await {
            Ok(replayed) => {
                report.add(&letter.id(), &replayed)?;
                // Stored again, after a crash just here, it adds nothing.
                Ok(quarantine::remove(&self.spool, &about.name)?)
            }
            Err(reason) => report.add(&letter.id(), &Replayed::Refused { reason }),
        }
    }

    async fn replay_dead(&self, replayer: &Replayer, id: Uuid, report: &mut Report) -> Result<()> {
        let replayed = replayer.replay(id).await.map_err(|error| self.explain(&error))?;
        report.add(&id.to_string(), &replayed)
    }

    async fn purge(&self, purge: &Purge) -> Result<Ending> {
        let purged = if purge.ids.is_empty() { self.purge_many(purge).await? } else { self.purge_named(purge).await? };
        let Some(purged) = purged else { return Ok(Ending::Bad) };
        if self.json {
            screen::print_json(&json!({ "purged": purged }))?;
        } else {
            screen::print(&format!("purged {purged} dead letters\n"))?;
        }
        Ok(Ending::Good)
    }

    async fn purge_named(&self, purge: &Purge) -> Result<Option<u64>> {
        let mut letters = Vec::with_capacity(purge.ids.len());
        for id in &purge.ids {
            letters.push(self.find(id).await?);
        }
        let unprocessed = letters.iter().filter(|letter| !letter.is_processed()).count();
        if unprocessed > 0 && !is_wanted(purge, unprocessed)? {
            return Ok(None);
        }
        let mut ids = Vec::new();
        let mut purged = 0;
        for letter in letters {
            match letter {
                Letter::Dead(entry) => ids.push(entry.id),
                Letter::Quarantined(about) => {
                    quarantine::remove(&self.spool, &about.name)?;
                    purged += 1;
                }
            }
        }
        purged += self.database.purge_dead_letters(&ids).await.map_err(|error| self.explain(&error))?;
        Ok(Some(purged))
    }

    async fn purge_many(&self, purge: &Purge) -> Result<Option<u64>> {
        let until = purge.older_than.map(|moment| moment.0);
        let processed = match (purge.processed, purge.unprocessed) {
            (true, true) => None,
            (false, true) => Some(false),
            (_, false) => Some(true),
        };
        let filter = DeadLetterFilter { until, processed, ..DeadLetterFilter::default() };
        let mut set_aside = Vec::new();
        if purge.unprocessed {
            set_aside = self.quarantined()?;
            set_aside.retain(|about| until.is_none_or(|until| set_aside_at(about) < until));
            let lost = DeadLetterFilter { processed: Some(false), ..filter.clone() };
            let lost = self.database.count_dead_letters(&lost).await.map_err(|error| self.explain(&error))?;
            let lost = usize::try_from(lost).unwrap_or_default() + set_aside.len();
            if lost > 0 && !is_wanted(purge, lost)? {
                return Ok(None);
            }
        }
        let purged = self.database.purge_matching_dead_letters(&filter).await;
        let mut purged = purged.map_err(|error| self.explain(&error))?;
        for about in set_aside {
            quarantine::remove(&self.spool, &about.name)?;
            purged += 1;
        }
        Ok(Some(purged))
    }

    /// The one whose id begins so.
    async fn find(&self, id: &str) -> Result<Letter> {
        let mut found: Vec<Letter> = if let Some(name) = id.strip_prefix(SPOOL) {
            let mut all = self.quarantined()?;
            // A whole name may be the beginning of another.
            let is_whole = all.iter().any(|about| about.name == name);
            all.retain(|about| if is_whole { about.name == name } else { about.name.starts_with(name) });
            all.into_iter().map(Letter::Quarantined).collect()
        } else {
            let found = self.database.dead_letters_by_prefix(id).await.map_err(|error| self.explain(&error))?;
            found.into_iter().map(Letter::Dead).collect()
        };
        let shown = screen::clean(id);
        match (found.pop(), found.is_empty()) {
            (Some(letter), true) => Ok(letter),
            (Some(_), false) => Err(failure::advised(
                format!("several dead letters have ids that begin with {shown}"),
                "give more of the id; `oneiric-otel dlq list --json` has whole ones",
            )),
            (None, _) => Err(failure::advised(
                format!("there is no dead letter {shown}"),
                "`oneiric-otel dlq list --all` lists them",
            )),
        }
    }

    fn quarantined(&self) -> Result<Vec<Quarantined>> {
        Ok(quarantine::list(&self.spool)?)
    }

    fn explain(&self, error: &StoreError) -> anyhow::Error {
        failure::of_database(error, self.database.target())
    }
}

/// What became of each.
struct Report {
    json: bool,
    lines: Vec<Value>,
    failed: bool,
}

impl Report {
    fn add(&mut self, id: &str, replayed: &Replayed) -> Result<()> {
        self.failed |= match replayed {
            Replayed::Stored { refused, .. } => *refused > 0,
            Replayed::Refused { .. } => true,
            Replayed::Elsewhere => false,
        };
        if !self.json {
            return screen::print(&format!("{} {}\n", screen::clean(id), screen::clean(&replayed.to_string())));
        }
        let mut line = json!(replayed);
        line["id"] = json!(id);
        self.lines.push(line);
        Ok(())
    }

    fn end(self) -> Result<Ending> {
        if self.json {
            screen::print_json(&self.lines)?;
        }
        Ok(if self.failed { Ending::Bad } else { Ending::Good })
    }
}

/// Asks before records go that are nowhere else.
fn is_wanted(purge: &Purge, unprocessed: usize) -> Result<bool> {
    if purge.yes {
        return Ok(true);
    }
    let what = format!("{unprocessed} dead letters are not processed: their records are nowhere else");
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(failure::advised(what, "say --yes to delete them for good"));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{what}. Delete them for good? [y/N] ").and_then(|()| stderr.flush())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn row(letter: &Letter) -> Vec<String> {
    const MESSAGE_CHARACTERS: usize = 120;
    let time = |time: Timestamp| moment::show_short(u64::try_from(time.as_nanosecond()).unwrap_or_default());
    let message = |text: &str| screen::clean_short(text, MESSAGE_CHARACTERS);
    match letter {
        Letter::Dead(entry) => vec![
            entry.id.to_string().chars().take(SHORT_ID).collect(),
            time(entry.created_at),
            entry.telemetry_type.clone(),
            screen::clean(&entry.error_class),
            entry.records.to_string(),
            entry.retry_count.to_string(),
            if entry.processed_at.is_some() { "processed".to_owned() } else { time(entry.next_retry_at) },
            message(entry.last_error.as_ref().unwrap_or(&entry.error_message)),
        ],
        Letter::Quarantined(about) => vec![
            screen::clean(&letter.id()),
            time(letter.time()),
            screen::clean(telemetry_type(about)),
            QUARANTINE.to_owned(),
            String::new(),
            String::new(),
            String::new(),
            message(&about.reason),
        ],
    }
}

fn signal_of(kind: Kind) -> Signal {
    match kind {
        Kind::Trace => Signal::Traces,
        Kind::Metric => Signal::Metrics,
        Kind::Log => Signal::Logs,
    }
}

/// The word for what a lane carries.
fn telemetry_type(about: &Quarantined) -> &str {
    about.lane.strip_suffix('s').unwrap_or(&about.lane)
}

fn set_aside_at(about: &Quarantined) -> Timestamp {
    i64::try_from(about.set_aside_at).ok().and_then(|at| Timestamp::from_microsecond(at).ok()).unwrap_or_default()
}

/// A request in protobuf as OTLP JSON.
fn as_json(signal: Signal, body: &Bytes) -> Result<Value, String> {
    fn convert<R: Record>(body: &Bytes) -> Result<Value, String> {
        let decoded = otlp::decode::<R>(Encoding::Protobuf, body).map_err(|error| error.to_string())?;
        if let Some(lost) = decoded.undecodable.first() {
            return Err(format!("{}: {}", lost.path, lost.reason));
        }
        serde_json::from_slice(&json::encode(&decoded.groups)).map_err(|error| error.to_string())
    }
    match signal {
        Signal::Traces => convert::<Span>(body),
        Signal::Logs => convert::<LogRecord>(body),
        Signal::Metrics => convert::<Metric>(body),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(SHOWN_BYTES * 2);
    for byte in bytes.iter().take(SHOWN_BYTES) {
        write!(text, "{byte:02x}").unwrap_or_default(); // Writing to a string cannot fail.
    }
    text
}
