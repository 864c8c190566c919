//! Every command of the README is run, in its order, as it stands there.
//!
//! Blocks of language `sh` are run by bash in a home directory of their own. In a block marked `sh keeps-running` the last
//! command goes on while the following blocks run, as in a second terminal, until the next such block; it must end well when
//! it is told to stop. `TRACE_ID` stands for the first id that was printed. Two programs are replaced: `cargo run` runs the binary under test,
//! `cargo test` and `cargo install` do nothing (a test that runs all tests would never end), and `oneiric-otel serve` takes
//! free ports, which take the place of the standard ones in later blocks.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cli::{PATIENCE, data_dir, isolate, terminate};

const README: &str = include_str!("../../../../README.md");
const BINARY: &str = env!("CARGO_BIN_EXE_oneiric-otel");

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    pub(crate) info: &'a str,
    pub(crate) text: String,
}

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
    assert_eq!(open, None, "a block of the README does not end");
    blocks
}

/// Programs that stand in for those of the README.
fn write_programs(dir: &Path) {
    let cargo = format!(
        "#!/bin/sh\ncase \"$*\" in\n  'run --release -- '*) shift 3; exec '{BINARY}' \"$@\" ;;\n  'test --workspace'|'install --path \
         crates/oneiric-otel-cli') exit 0 ;;\nesac\necho \"the README test does not know: cargo $*\" >&2\nexit 1\n"
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

#[tokio::test]
async fn every_command_of_the_readme_works_in_its_order() {
    let home = data_dir();
    let programs = tempfile::tempdir().unwrap();
    write_programs(programs.path());
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    // Each terminal of the tour is in the place that the tour chose last.
    let data_dir = home.path().join("data");
    let mut chosen = data_dir.clone();
    let script = |text: &str, chosen: &Path| {
        let mut command = Command::new("bash");
        isolate(&mut command);
        command
            .args(["-e", "-c", text])
            .current_dir(home.path())
            .env("OTEL_STORAGE_DATA_DIR", chosen)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let mut running: Option<Child> = None;
    let mut ports: Vec<(&str, String)> = Vec::new();
    let mut printed = String::new();
    let mut count = 0;
    for block in blocks(README) {
        let text = match first_id(&printed) {
            Some(id) => block.text.replace("TRACE_ID", id),
            None => block.text.clone(),
        };
        let text = ports.iter().fold(text, |text, (standard, chosen)| text.replace(standard, chosen));
        match block.info {
            "sh" => {
                count += 1;
                let ended = timeout(PATIENCE, script(&text, &chosen).output()).await.unwrap().unwrap();
                let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
                assert!(ended.status.success(), "{text}\nstdout:\n{stdout}\nstderr:\n{stderr}");
                printed.push_str(&stdout);
                if text.contains("export OTEL_STORAGE_DATA_DIR=") {
                    chosen = data_dir.join("demo");
                } else if text.contains("unset OTEL_STORAGE_DATA_DIR") {
                    chosen.clone_from(&data_dir);
                }
            }
            "sh keeps-running" => {
                count += 1;
                end(running.take()).await;
                ports.clear();
                let mut child = script(&format!("exec {text}"), &chosen).stderr(Stdio::inherit()).spawn().unwrap();
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                loop {
                    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
                    let line = line.unwrap_or_else(|| panic!("{text}: ended before it was ready"));
                    ports.extend(chosen_port(&line));
                    printed.push_str(&line);
                    printed.push('\n');
                    if line.contains("Ctrl-C ends") || line.starts_with("database ") {
                        break;
                    }
                }
                // Keeps the pipe open, so that the program can write on.
                tokio::spawn(async move { lines.into_inner().read_to_end(&mut Vec::new()).await });
                running = Some(child);
            }
            _ => {}
        }
    }
    assert!(count >= 5, "the README has {count} blocks of commands");
    end(running).await;
}

async fn end(child: Option<Child>) {
    let Some(mut child) = child else { return };
    terminate(&child).await;
    let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
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

#[test]
fn the_rust_of_the_readme_is_the_example_that_is_compiled() {
    let example = include_str!("../../examples/send_spans.rs");
    let code = example.split_once("\n\n").unwrap().1;
    let shown = blocks(README).into_iter().find(|block| block.info == "rust").unwrap().text;
    assert_eq!(shown, code);
}

#[test]
fn the_readme_names_no_command_outside_of_what_is_run() {
    for block in blocks(README) {
        let known = ["sh", "sh keeps-running", "text", "rust", "python", "toml"];
        assert!(known.contains(&block.info), "a block of the README has the language {:?}", block.info);
    }
}
