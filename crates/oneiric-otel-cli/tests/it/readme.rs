//! Every command of the README is run, in its order, as it stands there.

use crate::tour::{Tour, blocks};

const README: &str = include_str!("../../../../README.md");

#[tokio::test]
async fn every_command_of_the_readme_works_in_its_order() {
    let mut tour = Tour::new(None);
    let mut count = 0;
    for block in blocks(README) {
        count += usize::from(tour.play(&block).await);
    }
    assert!(count >= 5, "the README has {count} blocks of commands");
    tour.end().await;
}

#[test]
fn the_rust_of_the_readme_is_the_example_that_is_compiled() {
    let example = include_str!("../../examples/send_spans.rs");
    let code = example.split_once("\n\n").unwrap().1;
    let mut shown = blocks(README).into_iter().filter(|block| block.info == "rust").map(|block| block.text);
    assert_eq!(shown.next().unwrap(), code);
    let example = include_str!("../../../oneiric-otel/examples/manager.rs");
    let lines = example.replace("\n    ", "\n");
    let last = shown.next().unwrap();
    assert!(lines.contains(&last), "in no example:\n{last}");
    assert_eq!(shown.next(), None, "nobody checks it");
}

#[test]
fn the_readme_names_no_command_outside_of_what_is_run() {
    for block in blocks(README) {
        let known = ["sh", "sh keeps-running", "text", "rust", "python", "toml"];
        assert!(known.contains(&block.info), "a block of the README has the language {:?}", block.info);
    }
}
