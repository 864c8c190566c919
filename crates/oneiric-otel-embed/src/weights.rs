//! Reads tensors out of `model.safetensors`, one at a time, so that the file is never in memory as a whole.
//!
//! Knows the file format, not the model: callers name a tensor and the shape it must have.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};

use crate::LoadError;

/// Bytes of the length field that opens the file.
const LENGTH_FIELD: u64 = 8;
/// More than any header of a model has; keeps a damaged length field from asking for the whole memory.
const LONGEST_HEADER: u64 = 16 << 20;

/// An open safetensors file.
pub(crate) struct WeightFile {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    /// Where the tensors' data begins.
    data_start: u64,
    /// What stands before the names of the encoder's tensors: nothing, or `bert.` in files of larger models.
    prefix: &'static str,
}

impl WeightFile {
    /// Opens the file and checks that its header fits its length.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |source: io::Error| LoadError::Read { path: path.to_owned(), source };
        let damaged = |reason: String| LoadError::Damaged { path: path.to_owned(), reason };

        let mut file = File::open(path).map_err(unreadable)?;
        let actual = file.metadata().map_err(unreadable)?.len();
        let mut length = [0; 8];
        if actual < LENGTH_FIELD {
            return Err(damaged(format!("{actual} bytes long, too short for a safetensors file")));
        }
        file.read_exact(&mut length).map_err(unreadable)?;
        let header_length = u64::from_le_bytes(length);
        if header_length > LONGEST_HEADER.min(actual - LENGTH_FIELD) {
            return Err(damaged(format!(
                "not a safetensors file, or cut short: it announces a header of {header_length} bytes"
            )));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(unreadable)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| damaged(format!("safetensors header: {e}")))?;
        let data_start = LENGTH_FIELD + header_length;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if actual != expected {
            return Err(damaged(format!("{actual} bytes long, but its header describes {expected} bytes")));
        }
        let prefix = if metadata.info("bert.embeddings.word_embeddings.weight").is_some() { "bert." } else { "" };
        Ok(Self { path: path.to_owned(), file, metadata, data_start, prefix })
    }

    /// The first `rows` rows of the tensor `name`, which must have exactly `shape` and be f32.
    pub(crate) fn read_rows(&mut self, name: &str, shape: &[usize], rows: usize) -> Result<Vec<f32>, LoadError> {
        let name = format!("{}{name}", self.prefix);
        let unsupported = |reason: String| LoadError::Unsupported { path: self.path.clone(), reason };
        let Some(info) = self.metadata.info(&name) else {
            return Err(unsupported(format!("no tensor {name}, expected one of shape {shape:?}")));
        };
        if info.dtype != Dtype::F32 {
            return Err(unsupported(format!("tensor {name} is {:?}, accepted is F32", info.dtype)));
        }
        if info.shape != shape {
            return Err(unsupported(format!("tensor {name} has shape {:?}, config.json says {shape:?}", info.shape)));
        }
        let count = rows * shape.iter().skip(1).product::<usize>();
        let start = self.data_start + info.data_offsets.0 as u64;
        self.read_floats(start, count).map_err(|source| LoadError::Read { path: self.path.clone(), source })
    }

    /// The whole tensor `name`, which must have exactly `shape` and be f32.
    pub(crate) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.read_rows(name, shape, shape[0])
    }

    /// The error that says what is wrong with the values of tensor `name`.
    pub(crate) fn damaged(&self, name: &str, reason: &str) -> LoadError {
        LoadError::Damaged { path: self.path.clone(), reason: format!("tensor {}{name}: {reason}", self.prefix) }
    }

    fn read_floats(&mut self, start: u64, count: usize) -> io::Result<Vec<f32>> {
        self.file.seek(SeekFrom::Start(start))?;
        let mut floats = vec![0.0_f32; count];
        self.file.read_exact(bytemuck::cast_slice_mut(&mut floats))?;
        if cfg!(target_endian = "big") {
            for value in &mut floats {
                *value = f32::from_bits(value.to_bits().swap_bytes());
            }
        }
        Ok(floats)
    }
}
