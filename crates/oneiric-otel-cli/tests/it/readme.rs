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
