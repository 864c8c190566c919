//! The real model against the vectors that sentence-transformers gives for the same texts.
//!
//! The expected vectors are committed; `scripts/embedding-fixture.py` makes them anew.

#![expect(clippy::print_stderr, reason = "a test leaves the measured distance in its record")]

mod model;

use model::{fixture_texts, fixture_vectors, minilm, minilm_int8, model_dir};
use oneiric_otel_embed::{Instructions, MiniLm};

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum()
}

#[test]
fn vectors_agree_with_sentence_transformers() {
    let texts = fixture_texts();
    let expected = fixture_vectors();
    assert_eq!((texts.len(), expected.len()), (200, 200));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();

    let vectors = minilm().with_threads(2).embed(&texts).unwrap();

    let mut worst = (1.0, 0.0_f32);
    for ((text, vector), expected) in texts.iter().zip(&vectors).zip(&expected) {
        assert_eq!(vector.len(), 384);
        let cosine = cosine(vector, expected);
        let difference = vector.iter().zip(expected).map(|(v, e)| (v - e).abs()).fold(0.0, f32::max);
        assert!(cosine >= 0.999_99, "cosine {cosine} for {text:?}");
        assert!(difference <= 1e-6, "largest difference {difference:e} for {text:?}");
        worst = (cosine.min(worst.0), difference.max(worst.1));
    }
    // Shown when the test fails or runs with --nocapture, for the record of how much room is left.
    eprintln!("least cosine {:.9}, largest difference {:e}", worst.0, worst.1);
}

/// Cosines with sentence-transformers: the least and the mean.
fn cosines(vectors: &[Vec<f32>]) -> (f64, f64) {
    let cosines: Vec<f64> = vectors.iter().zip(&fixture_vectors()).map(|(v, e)| cosine(v, e)).collect();
    (cosines.iter().copied().fold(1.0, f64::min), cosines.iter().sum::<f64>() / cosines.len() as f64)
}

#[test]
fn vectors_in_bytes_are_near_and_the_same_with_all_instructions() {
    let texts = fixture_texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let vectors = minilm_int8().with_threads(2).embed(&texts).unwrap();
    let (least, mean) = cosines(&vectors);
    eprintln!("int8: least cosine {least:.6}, mean {mean:.6}");
    // The texts of the fixture are chosen to be odd; those that telemetry gives come nearer.
    assert!(least >= 0.995 && mean >= 0.999, "least cosine {least}, mean {mean}");

    // A processor without fused multiply-adds computes them in software, so it gets fewer texts.
    let few = 20;
    for instructions in Instructions::ALL.into_iter().filter(|instructions| instructions.is_available()) {
        let some = if instructions == Instructions::Portable { few } else { texts.len() };
        let model = MiniLm::load_with(&model_dir(), instructions).unwrap();
        let others = model.with_threads(2).embed(&texts[..some]).unwrap();
        for ((text, vector), other) in texts.iter().zip(&vectors).zip(&others) {
            let same = vector.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: other bits for {text:?}", instructions.as_str());
        }
    }
}

#[test]
fn a_text_has_the_same_bits_in_every_company() {
    same_bits_in_every_company(minilm);
    same_bits_in_every_company(minilm_int8);
}

#[expect(clippy::unwrap_used, reason = "a test reports by panicking")]
fn same_bits_in_every_company(load: fn() -> MiniLm) {
    let texts = fixture_texts();
    // Some of the texts: all lengths and scripts, in a fraction of the time.
    let texts: Vec<&str> = texts.iter().step_by(4).map(String::as_str).collect();
    let one = load();
    let alone: Vec<Vec<f32>> = texts.iter().map(|text| one.embed(&[text]).unwrap().remove(0)).collect();

    let together = one.embed(&texts).unwrap();
    let in_sevens: Vec<Vec<f32>> = texts.chunks(7).flat_map(|some| one.embed(some).unwrap()).collect();
    let three = load().with_threads(3);
    let reversed: Vec<&str> = texts.iter().rev().copied().collect();
    let mut by_three = three.embed(&reversed).unwrap();
    by_three.reverse();

    for (name, vectors) in [("together", together), ("in sevens", in_sevens), ("backwards, by three threads", by_three)]
    {
        for ((text, alone), vector) in texts.iter().zip(&alone).zip(&vectors) {
            let same = alone.iter().zip(vector).all(|(a, v)| a.to_bits() == v.to_bits());
            assert!(same, "{}, {name}: other bits for {text:?}", one.precision());
        }
    }
}

#[test]
fn every_vector_has_length_one() {
    let model = minilm();
    for text in ["", " ", "\u{0}", "error", &"many words ".repeat(2000)] {
        let vectors = model.embed(&[text]).unwrap();
        let length = cosine(&vectors[0], &vectors[0]).sqrt();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
}

#[test]
fn no_text_gives_no_vector() {
    assert!(minilm().embed(&[]).unwrap().is_empty());
}

#[test]
fn many_callers_at_once_get_the_same_answer() {
    let model = minilm();
    let alone = model.embed(&["a shared model"]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(model.embed(&["a shared model"]).unwrap(), alone);
                }
            });
        }
    });
}

#[test]
fn tokens_are_counted_up_to_the_longest_input() {
    let model = minilm();
    assert_eq!(model.token_count(""), 2);
    assert_eq!(model.token_count("hello world"), 4);
    assert_eq!(model.token_count(&"word ".repeat(253)), 255);
    assert_eq!(model.token_count(&"word ".repeat(254)), 256);
    assert_eq!(model.token_count(&"word ".repeat(100_000)), 256);
    assert_eq!(model.token_count(&"数据".repeat(1000)), 256);
}

#[test]
fn what_lies_beyond_the_longest_input_does_not_change_the_vector() {
    let model = minilm();
    for start in ["word ".repeat(300), "a,b-".repeat(200), "[MASK] é ".repeat(260)] {
        let longer = format!("{start}{}", "other words [SEP] entirely ".repeat(500));
        assert_eq!(model.embed(&[&start]).unwrap(), model.embed(&[&longer]).unwrap());
    }
}

#[test]
fn the_model_says_what_it_is() {
    let model = minilm();
    assert_eq!((model.name(), model.dimension(), model.precision().as_str()), ("all-MiniLM-L6-v2", 384, "f32"));
    assert_eq!(minilm_int8().precision().to_string(), "int8");
}
