//! The model and the expected vectors, as the tests of this crate find them.

#![allow(dead_code, reason = "each test program uses its part")]
#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::path::{Path, PathBuf};

use oneiric_otel_embed::{MiniLm, Precision};
use oneiric_otel_parts::{Parts, Silent};

/// The directory of the real model.
pub(crate) fn model_dir() -> PathBuf {
    Parts::open_default().unwrap().minilm(&Silent).unwrap()
}

/// The real model.
pub(crate) fn minilm() -> MiniLm {
    MiniLm::load(&model_dir(), Precision::F32).unwrap()
}

/// The real model in bytes.
pub(crate) fn minilm_int8() -> MiniLm {
    MiniLm::load(&model_dir(), Precision::Int8).unwrap()
}

/// The texts of the fixture.
pub(crate) fn fixture_texts() -> Vec<String> {
    let lines = std::fs::read_to_string(fixture("texts.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The vector that sentence-transformers gives for each text of the fixture.
pub(crate) fn fixture_vectors() -> Vec<Vec<f32>> {
    let bytes = std::fs::read(fixture("vectors.f32")).unwrap();
    let (quads, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    let values: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
    values.chunks(384).map(<[f32]>::to_vec).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
