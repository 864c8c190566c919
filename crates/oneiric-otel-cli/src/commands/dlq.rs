//! `dlq`: records that the database refused, and requests that the spool could not make sense of.

mod letter;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use oneiric_otel::otlp::Signal;
use oneiric_otel::pipeline::Replayer;
use oneiric_otel::store::{Database, DeadLetterFilter, Replayed, StoreError};
use oneiric_otel_spool::quarantine::{self, Content, Quarantined};
use serde_json::{Value, json};
use uuid::Uuid;

use self::letter::{Letter, QUARANTINE, SPOOL, SetAside, as_json, hex, row, set_aside_at};
use super::Ending;
use crate::args::Global;
use crate::args::dlq::{Dlq, Kind, List, Purge, Replay, Show};
use crate::backend::Backend;
use crate::progress::Progress;
use crate::{data_dir, failure, screen};

/// Letters that are looked up at a time.
const PAGE: u32 = 1000;

pub(crate) async fn run(global: &Global, command: &Dlq) -> Result<Ending> {
    let (target, is_embedded) = match global.database_url() {
        Some(url) => {
            let database = Database::new(url.expose());
            let database = database.map_err(|error| failure::of_database(&error, "given by --database-url"))?;
            (database.target().to_owned(), false)
        }
        None => (String::new(), true),
    };
    let spools = oneiric_otel::system::spools_of(&data_dir::of(global)?, &target, is_embedded);
    let max_metric_series = global.settings().limits.max_metric_series;
    let mut letters = Letters { json: global.json, database: None, spools, max_metric_series };
    if !needs_database(command) {
        return letters.run(command).await;
    }
    let backend = match Backend::open_for_reading(global, &Arc::new(Progress::new())).await {
        Ok(backend) => backend,
        Err(error) => {
            // What the spools have set aside can be told all the same, and somebody may be looking for just that.
            if let Dlq::List(list) = command
                && !letters.listed(list).await?.is_empty()
            {
                letters.list(list).await?;
            }
            return Err(error);
        }
    };
    letters.database = Some(backend.database().clone());
    let done = letters.run(command).await;
    backend.release().await?;
    done
}

/// What spools have set aside can be shown and deleted without.
fn needs_database(command: &Dlq) -> bool {
    let is_in_spool = |id: &String| id.starts_with(SPOOL);
    match command {
        Dlq::List(_) | Dlq::Replay(_) => true,
        Dlq::Show(show) => !is_in_spool(&show.id),
        Dlq::Purge(purge) => purge.ids.is_empty() || !purge.ids.iter().all(is_in_spool),
    }
}

/// All there is of a database and of the spools before it.
struct Letters {
    json: bool,
    /// None where it is not needed, or away.
    database: Option<Database>,
    spools: Vec<PathBuf>,
    /// See the setting.
    max_metric_series: u64,
}

impl Letters {
    async fn run(&self, command: &Dlq) -> Result<Ending> {
        match command {
            Dlq::List(list) => self.list(list).await,
            Dlq::Show(show) => self.show(show).await,
            Dlq::Replay(replay) => self.replay(replay).await,
            Dlq::Purge(purge) => self.purge(purge).await,
        }
    }

    fn database(&self) -> Result<&Database> {
        self.database.as_ref().context("the database is needed for this")
    }

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
        let mut letters = Vec::new();
        if let Some(database) = &self.database {
            let dead = database.dead_letters(&filter, list.limit).await;
            letters.extend(dead.map_err(|error| explain(&error, database))?.into_iter().map(Letter::Dead));
        }
        if list.class.as_deref().is_none_or(|class| class == QUARANTINE) {
            let passes = |SetAside { about, .. }: &SetAside| {
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
                let database = self.database()?;
                let found = database.dead_letter(entry.id).await.map_err(|error| explain(&error, database))?;
                found.with_context(|| format!("dead letter {} is gone", entry.id))?.1.into()
            }
            Letter::Quarantined(found) => quarantine::read(&found.spool, &found.about.name)?.1.into(),
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
        let database = self.database()?;
        let replayer = Replayer::new(database.clone(), Replayer::EVERY).with_max_metric_series(self.max_metric_series);
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
            let ids = database.unprocessed_dead_letter_ids(after, PAGE).await;
            let ids = ids.map_err(|error| explain(&error, database))?;
            let Some(last) = ids.last().copied() else { break };
            after = Some(last);
            for id in ids {
                self.replay_dead(&replayer, id, &mut report).await?;
            }
        }
        for found in self.quarantined()?.into_iter().filter(|found| found.about.content == Content::Body) {
            self.replay_one(&replayer, &Letter::Quarantined(found), &mut report).await?;
        }
        report.end()
    }

    async fn replay_one(&self, replayer: &Replayer, letter: &Letter, report: &mut Report) -> Result<()> {
        let SetAside { spool, about } = match letter {
            Letter::Dead(entry) => return self.replay_dead(replayer, entry.id, report).await,
            Letter::Quarantined(found) => found,
        };
        if about.content != Content::Body {
            let reason = "its bytes are damaged: there is nothing to store".to_owned();
            return report.add(&letter.id(), &Replayed::Refused { reason });
        }
        let (_, body) = quarantine::read(spool, &about.name)?;
        match replayer.store_set_aside(&about.lane, about.tag, body.into()).await {
            Ok(replayed) => {
                report.add(&letter.id(), &replayed)?;
                // Stored again, after a crash just here, it adds nothing.
                Ok(quarantine::remove(spool, &about.name)?)
            }
            Err(reason) => report.add(&letter.id(), &Replayed::Refused { reason }),
        }
    }

    async fn replay_dead(&self, replayer: &Replayer, id: Uuid, report: &mut Report) -> Result<()> {
        let database = self.database()?;
        let replayed = replayer.replay(id).await.map_err(|error| explain(&error, database))?;
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
                Letter::Quarantined(found) => {
                    quarantine::remove(&found.spool, &found.about.name)?;
                    purged += 1;
                }
            }
        }
        if !ids.is_empty() {
            let database = self.database()?;
            purged += database.purge_dead_letters(&ids).await.map_err(|error| explain(&error, database))?;
        }
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
        let database = self.database()?;
        let mut set_aside = Vec::new();
        if purge.unprocessed {
            set_aside = self.quarantined()?;
            set_aside.retain(|found| until.is_none_or(|until| set_aside_at(&found.about) < until));
            let lost = DeadLetterFilter { processed: Some(false), ..filter.clone() };
            let lost = database.count_dead_letters(&lost).await.map_err(|error| explain(&error, database))?;
            let lost = usize::try_from(lost).unwrap_or_default() + set_aside.len();
            if lost > 0 && !is_wanted(purge, lost)? {
                return Ok(None);
            }
        }
        let purged = database.purge_matching_dead_letters(&filter).await;
        let mut purged = purged.map_err(|error| explain(&error, database))?;
        for SetAside { spool, about } in set_aside {
            quarantine::remove(&spool, &about.name)?;
            purged += 1;
        }
        Ok(Some(purged))
    }

    /// The one whose id begins so.
    async fn find(&self, id: &str) -> Result<Letter> {
        let mut found: Vec<Letter> = if let Some(name) = id.strip_prefix(SPOOL) {
            let mut all = self.quarantined()?;
            // A whole name may be the beginning of another.
            let is_whole = all.iter().any(|found| found.about.name == name);
            let is_meant =
                |about: &Quarantined| if is_whole { about.name == name } else { about.name.starts_with(name) };
            all.retain(|found| is_meant(&found.about));
            all.into_iter().map(Letter::Quarantined).collect()
        } else {
            let database = self.database()?;
            let found = database.dead_letters_by_prefix(id).await.map_err(|error| explain(&error, database))?;
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

    fn quarantined(&self) -> Result<Vec<SetAside>> {
        let mut all = Vec::new();
        for spool in &self.spools {
            let found = quarantine::list(spool)?;
            all.extend(found.into_iter().map(|about| SetAside { spool: spool.clone(), about }));
        }
        Ok(all)
    }
}

fn explain(error: &StoreError, database: &Database) -> anyhow::Error {
    failure::of_database(error, database.target())
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

fn signal_of(kind: Kind) -> Signal {
    match kind {
        Kind::Trace => Signal::Traces,
        Kind::Metric => Signal::Metrics,
        Kind::Log => Signal::Logs,
    }
}
