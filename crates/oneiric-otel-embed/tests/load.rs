//! Directories that hold no model, a damaged one, or another one: each is refused with the file and what is accepted.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

mod model;

use std::fs;
use std::path::Path;

use model::model_dir;
use oneiric_otel_embed::{LoadError, MiniLm, Precision};
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// The real model's files, linked into a folder where single ones can be replaced.
fn linked_model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        std::os::unix::fs::symlink(model_dir().join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) {
    fs::remove_file(dir.join(name)).unwrap();
    fs::write(dir.join(name), bytes).unwrap();
}

fn replace_in_config(dir: &Path, field: &str, value: serde_json::Value) {
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    config[field] = value;
    replace(dir, "config.json", config.to_string().as_bytes());
}

fn refusal(dir: &Path) -> LoadError {
    MiniLm::load(dir, Precision::F32).expect_err("the model is not usable")
}

#[test]
fn every_missing_file_is_named() {
    for name in FILES {
        let dir = linked_model();
        fs::remove_file(dir.path().join(name)).unwrap();
        let error = refusal(dir.path());
        assert!(matches!(&error, LoadError::Read { path, .. } if path.ends_with(name)), "{error}");
        assert!(error.to_string().contains("must hold model.safetensors, tokenizer.json and config.json"), "{error}");
    }
}

#[test]
fn every_damaged_file_is_named() {
    for name in FILES {
        for bytes in [&b""[..], b"{", b"not this format at all"] {
            let dir = linked_model();
            replace(dir.path(), name, bytes);
            let error = refusal(dir.path());
            assert!(matches!(&error, LoadError::Damaged { path, .. } if path.ends_with(name)), "{error}");
        }
    }
}

#[test]
fn weights_cut_short_are_refused_with_both_lengths() {
    let dir = linked_model();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    for length in [1_000_000, bytes.len() - 1] {
        replace(dir.path(), "model.safetensors", &bytes[..length]);
        let error = refusal(dir.path()).to_string();
        assert!(error.contains(&format!("{length} bytes long")) && error.contains(&bytes.len().to_string()), "{error}");
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    for (field, value, expected) in [
        ("model_type", "roberta".into(), "model_type is roberta, accepted is bert"),
        ("hidden_act", "gelu_new".into(), "hidden_act is gelu_new, accepted is gelu"),
        ("position_embedding_type", "relative_key".into(), "relative_key, accepted is absolute"),
        ("num_attention_heads", 7.into(), "not a multiple of num_attention_heads 7"),
        ("num_hidden_layers", 12.into(), "(12, 384, 12), all-MiniLM-L6-v2 has (6, 384, 12)"),
        ("vocab_size", 100.into(), "vocab_size 100"),
        ("intermediate_size", 1000.into(), "has shape [1536, 384], config.json says [1000, 384]"),
        ("hidden_size", 0.into(), "hidden_size is 0, accepted is 1 to 8192"),
    ] {
        let dir = linked_model();
        replace_in_config(dir.path(), field, value);
        let error = refusal(dir.path());
        assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A BERT of another size: 2 layers, hidden size 36 in 3 heads, with the names that larger models' files have.
fn write_small_model(dir: &Path, dtype: Dtype) {
    for (field, value) in
        [("num_hidden_layers", 2), ("hidden_size", 36), ("num_attention_heads", 3), ("intermediate_size", 100)]
    {
        replace_in_config(dir, field, value.into());
    }
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![30522, 36]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![512, 36]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, 36]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![36]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![36]),
    ];
    for layer in 0..2 {
        for (part, weight) in [
            ("attention.self.query", vec![36, 36]),
            ("attention.self.key", vec![36, 36]),
            ("attention.self.value", vec![36, 36]),
            ("attention.output.dense", vec![36, 36]),
            ("attention.output.LayerNorm", vec![36]),
            ("intermediate.dense", vec![100, 36]),
            ("output.dense", vec![36, 100]),
            ("output.LayerNorm", vec![36]),
        ] {
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), vec![weight[0]]));
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), weight));
        }
    }
    let size = if dtype == Dtype::F32 { 4 } else { 2 };
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, shape)| {
            let count = shape.iter().product::<usize>();
            (0..count)
                .flat_map(|i| (((i * 37 % 101) as f32 - 50.0) / 100.0).to_le_bytes()[4 - size..].to_vec())
                .collect()
        })
        .collect();
    let tensors: Vec<(String, TensorView<'_>)> = shapes
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| (format!("bert.{name}"), TensorView::new(dtype, shape.clone(), data).unwrap()))
        .collect();
    replace(dir, "model.safetensors", &safetensors::serialize(tensors, None).unwrap());
}

#[test]
fn another_size_of_bert_runs_under_its_own_name() {
    let dir = linked_model();
    write_small_model(dir.path(), Dtype::F32);
    assert!(matches!(refusal(dir.path()), LoadError::Unsupported { .. }));

    let model = MiniLm::load_as(dir.path(), "small", Precision::F32).unwrap();
    assert_eq!((model.name(), model.dimension()), ("small", 36));
    let vectors = model.embed(&["a text", "a longer text of several words"]).unwrap();
    assert_eq!(vectors[0], model.embed(&["a text"]).unwrap()[0]);
    for vector in &vectors {
        assert!((vector.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert_ne!(vectors[0], vectors[1]);
}

#[test]
fn weights_in_half_precision_are_refused() {
    let dir = linked_model();
    write_small_model(dir.path(), Dtype::F16);
    let error = MiniLm::load_as(dir.path(), "small", Precision::F32).expect_err("f16 is not accepted").to_string();
    assert!(error.contains("is F16, accepted is F32"), "{error}");
}

#[test]
fn weights_that_are_not_numbers_give_an_error_and_no_vector() {
    let dir = linked_model();
    write_small_model(dir.path(), Dtype::F32);
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    for value in bytes[end - 400_000..].as_chunks_mut::<4>().0 {
        *value = f32::NAN.to_le_bytes();
    }
    fs::write(&path, bytes).unwrap();
    let error = MiniLm::load_as(dir.path(), "small", Precision::F32)
        .unwrap()
        .embed(&["a text"])
        .expect_err("not finite")
        .to_string();
    assert!(error.starts_with("small cannot embed: ") && error.contains("not finite"), "{error}");
}

#[test]
fn weights_that_are_not_numbers_cannot_become_bytes() {
    let dir = linked_model();
    write_small_model(dir.path(), Dtype::F32);
    let path = dir.path().join("model.safetensors");
    let good = MiniLm::load_as(dir.path(), "small", Precision::Int8).unwrap();
    assert_eq!((good.precision(), good.embed(&["a text"]).unwrap()[0].len()), (Precision::Int8, 36));
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    for value in bytes[end - 100_000..].as_chunks_mut::<4>().0 {
        *value = f32::NAN.to_le_bytes();
    }
    fs::write(&path, bytes).unwrap();
    // Which tensors stand at the end is the file's affair: weights are refused when loaded, tables and biases when used.
    let error = match MiniLm::load_as(dir.path(), "small", Precision::Int8) {
        Err(error) => error.to_string(),
        Ok(model) => model.embed(&["a text"]).expect_err("not finite").to_string(),
    };
    assert!(error.contains("is not a finite number") || error.contains("not finite"), "{error}");
}
