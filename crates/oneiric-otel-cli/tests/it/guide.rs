//! The guide: its pages are where its summary and their links say, and what they show works.
//!
//! Shell commands are run as those of the README. Rust is that of examples, which tests of the library run. Other pages have
//! tests of their own: `queries`, `api`, and that of the settings.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oneiric_otel_parts::{Parts, Silent};
use oneiric_otel_testkit::TestDatabase;

use crate::tour::{Tour, blocks};

const APPLICATIONS: &str = include_str!("../../../../docs/applications.md");
const MANAGER: &str = include_str!("../../../../docs/manager.md");
const OPERATING: &str = include_str!("../../../../docs/operating.md");
const SEARCH: &str = include_str!("../../../../docs/search.md");

/// Two spans, one of which will be refused.
const TELEMETRY: &str = r#"
cat > spans.json <<'END'
{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"till"}}]},"scopeSpans":[{"spans":[
 {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"print receipt",
  "startTimeUnixNano":"1767225600000000000","endTimeUnixNano":"1767225601000000000"}]}]}]}
END
oneiric-otel import spans.json
oneiric-otel psql -c "ALTER TABLE otel_spans ADD CONSTRAINT for_now CHECK (name <> 'refused')"
sed 's/print receipt/refused/; s/eee19b7ec3c1b174/eee19b7ec3c1b175/' spans.json | oneiric-otel import - --no-wait || true
oneiric-otel psql -c "ALTER TABLE otel_spans DROP CONSTRAINT for_now"
"#;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// The Markdown below `dir`.
fn pages(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The text without its blocks of code.
fn prose(page: &Path) -> String {
    let text = std::fs::read_to_string(page).unwrap();
    let mut is_code = false;
    let kept = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    });
    kept.fold(String::new(), |text, line| text + line + "\n")
}

/// Targets of links, without those of other places.
fn links(prose: &str) -> Vec<String> {
    let targets =
        prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned());
    targets.filter(|target| !target.contains("://")).collect()
}

/// What a heading is called in links, as GitHub and mdBook make it.
fn anchors(prose: &str) -> HashSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>()
            .replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let root = docs().join("..");
    let mut all = pages(&docs());
    all.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|page| root.join(page)));
    let mut count = 0;
    for page in &all {
        for link in links(&prose(page)) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: no file for {link}", page.display());
            if let Some(anchor) = anchor {
                let known = anchors(&prose(&target));
                assert!(known.contains(anchor), "{}: no heading for {link} among {known:?}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} links");
}

#[test]
fn every_page_is_a_chapter() {
    let summary = docs().join("SUMMARY.md");
    let chapters: HashSet<PathBuf> = links(&prose(&summary))
        .iter()
        .map(|chapter| docs().join(chapter).canonicalize().unwrap_or_else(|error| panic!("{chapter}: {error}")))
        .collect();
    let here: HashSet<PathBuf> = pages(&docs()).iter().map(|page| page.canonicalize().unwrap()).collect();
    let missing: Vec<_> = here.difference(&chapters).filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert!(missing.is_empty(), "not in SUMMARY.md: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_can_do_what_their_chapter_says() {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    let like = database.create_role("like").await;
    // Bash would take & for the end of a command.
    let place = like.url.split_once(&like.name).unwrap().1.replace('&', "\\&");
    // The page's names for roles, passwords, host and database stand for those of the test.
    let mine = |text: &str| {
        let text = text.replace(":...@db.example/otel", &place).replace("PASSWORD '...'", "PASSWORD 'of-a-test'");
        let text = text.replace("DATABASE otel ", &format!("DATABASE {} ", database.name()));
        ["owner", "writer", "reader"]
            .iter()
            .fold(text, |text, role| text.replace(&format!("otel_{role}"), &format!("{}_{role}", database.name())))
    };
    let bin = tokio::task::spawn_blocking(|| Parts::open_default().unwrap().postgres(&Silent).unwrap().join("bin"));
    let mut tour = Tour::new(Some(&bin.await.unwrap()));
    tour.run(TELEMETRY).await;
    let letters = tour.run("oneiric-otel dlq list --json").await;
    let letters: serde_json::Value = serde_json::from_str(&letters).unwrap();
    let letter = letters[0]["id"].as_str().unwrap().to_owned();
    let mut count = 0;
    for mut block in blocks(OPERATING) {
        block.text = mine(&block.text).replace(" ID\n", &format!(" {letter}\n"));
        match block.info {
            "sql" => client.batch_execute(&block.text).await.unwrap_or_else(|error| panic!("{}: {error}", block.text)),
            "text" => continue,
            _ => assert!(tour.play(&block).await, "nobody runs blocks of the language {:?}", block.info),
        }
        count += 1;
    }
    assert!(count > 10, "{count} blocks");
    tour.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn search_is_as_its_chapter_says() {
    let mut tour = Tour::new(None);
    let demo = "oneiric-otel demo --once --grpc-addr=127.0.0.1:0 --http-addr=127.0.0.1:0 --api-addr=127.0.0.1:0";
    tour.run(demo).await;
    let mut count = 0;
    for block in blocks(SEARCH) {
        if block.info == "text" {
            continue;
        }
        assert!(tour.play(&block).await, "nobody runs blocks of the language {:?}", block.info);
        count += 1;
    }
    assert!(count > 5, "{count} blocks");
    tour.end().await;
}

#[test]
fn the_rust_for_applications_is_in_the_examples_that_are_run() {
    let examples = concat!(
        include_str!("../../../oneiric-otel/examples/adapter.rs"),
        include_str!("../../../oneiric-otel/examples/tracing.rs"),
        include_str!("../../../oneiric-otel/examples/workflow.rs"),
    );
    let manifest = include_str!("../../../oneiric-otel/Cargo.toml");
    let mut count = 0;
    for block in [blocks(APPLICATIONS), blocks(MANAGER)].concat() {
        match block.info {
            "rust" => assert!(examples.contains(&block.text), "in no example:\n{}", block.text),
            "toml" => {
                let features =
                    block.text.split("oneiric-otel = ").nth(1).and_then(|line| line.split('[').nth(1)).unwrap();
                for feature in features.split(']').next().unwrap().split(", ") {
                    let defined = format!("\n{} = [", feature.trim_matches('"'));
                    assert!(manifest.contains(&defined), "no feature {feature}");
                }
            }
            "text" => continue,
            other => panic!("nobody checks blocks of the language {other:?}"),
        }
        count += 1;
    }
    assert!(count > 15, "{count} blocks");
}

/// The rows of the table of crates: the features, and how many.
fn counted_crates() -> Vec<(String, usize)> {
    let table = MANAGER.split("| features | crates |").nth(1).unwrap();
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix('|')?.strip_suffix('|')?.split_once('|'));
    let features = |cell: &str| cell.trim().trim_matches('`').replace("none", "");
    rows.map(|(cell, count)| (features(cell), count.trim().parse().unwrap())).collect()
}

#[test]
fn the_crates_that_the_guide_counts_are_those_of_the_library() {
    let rows = counted_crates();
    assert!(rows.len() >= 4, "{rows:?}");
    for (features, count) in rows {
        let tree = std::process::Command::new(env!("CARGO"))
            .args(["tree", "-p", "oneiric-otel", "-e", "normal", "--prefix", "none", "--no-dedupe", "--locked"])
            .args(["--target", "x86_64-unknown-linux-gnu", "--features", &features])
            .output()
            .unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let tree = String::from_utf8(tree.stdout).unwrap();
        let crates: HashSet<&str> = tree.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(crates.len(), count, "features {features:?}: docs/manager.md has another number");
        let families = ["actix", "axum", "h2", "hyper", "reqwest", "tonic", "tower", "ureq"];
        let speaks = |name: &&&str| {
            families.iter().any(|family| name.strip_prefix(family).is_some_and(|rest| rest.starts_with([' ', '-'])))
        };
        let found: Vec<_> = crates.iter().filter(speaks).collect();
        assert_eq!(found.is_empty(), !features.contains("forward"), "features {features:?}: {found:?}");
    }
}
