//! Runs the commands of a page in their order, as they stand there, by bash in a home directory of their own.
//!
//! In a block marked `sh keeps-running` the last command goes on while the following blocks run, as in a second terminal,
//! until the next such block; it must end well when it is told to stop. `TRACE_ID` stands for the first id that was printed.
//! Two programs are replaced: `cargo run` runs the binary under test, `cargo test`, `cargo install` and examples do nothing (a
//! test that runs all tests would never end), and `oneiric-otel serve` takes free ports, which take the place of the standard ones
//! in later blocks.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cli::{PATIENCE, data_dir, isolate, terminate};

const BINARY: &str = env!("CARGO_BIN_EXE_oneiric-otel");

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    pub(crate) info: &'a str,
    pub(crate) text: String,
}

/// The blocks of code of a page.
pub(crate) fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(info), None) => open = Some(Block { info, text: String::new() }),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "a block does not end");
    blocks
}

/// A user who does what pages say.
#[derive(Debug)]
pub(crate) struct Tour {
    home: TempDir,
    _programs: TempDir,
    path: String,
    data_dir: PathBuf,
    /// Each terminal of the tour is in the place that the tour chose last.
    chosen: PathBuf,
    running: Option<Child>,
    ports: Vec<(&'static str, String)>,
    printed: String,
}

impl Tour {
    /// `first` comes before all else in the search path for programs.
    pub(crate) fn new(first: Option<&Path>) -> Self {
        let home = data_dir();
        let programs = tempfile::tempdir().unwrap();
        write_programs(programs.path());
        let mut path = vec![programs.path().to_owned()];
        path.extend(first.map(Path::to_owned));
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let data_dir = home.path().join("data");
        Self {
            home,
            _programs: programs,
            path: std::env::join_paths(path).unwrap().into_string().unwrap(),
            chosen: data_dir.clone(),
            data_dir,
            running: None,
            ports: Vec::new(),
            printed: String::new(),
        }
    }

    fn script(&self, text: &str) -> Command {
        let mut command = Command::new("bash");
        isolate(&mut command);
        command
            .args(["-e", "-c", text])
            .current_dir(self.home.path())
            .env("OTEL_STORAGE_DATA_DIR", &self.chosen)
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The text with what was printed and chosen until now in it.
    fn filled_in(&self, text: &str) -> String {
        let text = match first_id(&self.printed) {
            Some(id) => text.replace("TRACE_ID", id),
            None => text.to_owned(),
        };
        self.ports.iter().fold(text, |text, (standard, chosen)| text.replace(standard, chosen))
    }

    /// Runs the block if it is one of commands; whether it is.
    pub(crate) async fn play(&mut self, block: &Block<'_>) -> bool {
        let text = self.filled_in(&block.text);
        match block.info {
            "sh" => drop(self.run(&text).await),
            "sh keeps-running" => self.keep_running(&text).await,
            _ => return false,
        }
        true
    }

    /// Runs commands to their end, which must be good; what they print.
    pub(crate) async fn run(&mut self, text: &str) -> String {
        let ended = timeout(PATIENCE, self.script(text).output()).await.unwrap().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "{text}\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self.printed.push_str(&stdout);
        if text.contains("export OTEL_STORAGE_DATA_DIR=") {
            self.chosen = self.data_dir.join("demo");
        } else if text.contains("unset OTEL_STORAGE_DATA_DIR") {
            self.chosen.clone_from(&self.data_dir);
        }
        stdout.into_owned()
    }

    async fn keep_running(&mut self, text: &str) {
        self.end().await;
        self.ports.clear();
        let mut child = self.script(&format!("exec {text}")).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
            let line = line.unwrap_or_else(|| panic!("{text}: ended before it was ready"));
            self.ports.extend(chosen_port(&line));
            self.printed.push_str(&line);
            self.printed.push('\n');
            if line.contains("Ctrl-C ends") || line.starts_with("database ") {
                break;
            }
        }
        // Keeps the pipe open, so that the program can write on.
        tokio::spawn(async move { lines.into_inner().read_to_end(&mut Vec::new()).await });
        self.running = Some(child);
    }

    /// Ends what keeps running, which must end well.
    pub(crate) async fn end(&mut self) {
        let Some(mut child) = self.running.take() else { return };
        terminate(&child).await;
        let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

/// Programs that stand in for those of the pages.
fn write_programs(dir: &Path) {
    let cargo = format!(
        "#!/bin/sh\ncase \"$*\" in\n  'run --release -- '*) shift 3; exec '{BINARY}' \"$@\" ;;\n  'test --workspace'|'install --path \
         crates/oneiric-otel-cli'|'run -p oneiric-otel --features embedded --example manager') exit 0 ;;\nesac\necho \"the test of the pages does not know: cargo $*\" >&2\nexit 1\n"
    );
    let free = "--grpc-addr=127.0.0.1:0 --http-addr=127.0.0.1:0 --api-addr=127.0.0.1:0";
    let own =
        format!("#!/bin/sh\ncase \"$1\" in serve) exec '{BINARY}' \"$@\" {free} ;; esac\nexec '{BINARY}' \"$@\"\n");
    for (name, script) in [("cargo", cargo), ("oneiric-otel", own)] {
        let path = dir.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// The first 32 hex digits in a row.
fn first_id(output: &str) -> Option<&str> {
    output.split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() == 32)
}

/// From what `serve` prints: a standard port and the one that stands for it.
fn chosen_port(line: &str) -> Option<(&'static str, String)> {
    let (what, url) = line.split_once("  ")?;
    let standard = match what {
        "OTLP/gRPC" => ":4317",
        "OTLP/HTTP" => ":4318",
        "health" => ":16686",
        _ => return None,
    };
    let port = url.rsplit_once(':')?.1;
    Some((standard, format!(":{}", port.trim_end_matches("/readyz"))))
}
