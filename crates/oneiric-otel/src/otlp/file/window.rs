//! The part of a file that is being looked at.
//!
//! It grows at its end as the file is read and shrinks at its beginning as what was found is done with. What was cut
//! out of it stays valid.

use std::io::{self, Read};

use bytes::Bytes;

/// Read at a time. What is found shares the memory of what was read with it. Fuzz targets read little, to meet the ends
/// of windows in short inputs.
const CHUNK: usize = if cfg!(fuzzing) { 64 } else { 256 * 1024 };

/// A view that moves over a file.
#[derive(Debug)]
pub(super) struct Window<R> {
    source: R,
    bytes: Bytes,
    ended: bool,
}

impl<R: Read> Window<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, bytes: Bytes::new(), ended: false }
    }

    /// What is in view.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether nothing comes after what is in view.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Moves the beginning, at most to the end.
    pub(super) fn pass(&mut self, count: usize) {
        self.bytes = self.bytes.slice(count.min(self.bytes.len())..);
    }

    /// Looks at nothing any more.
    pub(super) fn close(&mut self) {
        self.bytes = Bytes::new();
        self.ended = true;
    }

    /// Twice as much as is in view, if there is as much; of an empty view whatever comes next. Doubling keeps the sum
    /// of what is looked at again and again in proportion to the file, and a pipe that is slow is not waited for.
    pub(super) fn grow(&mut self) -> io::Result<()> {
        let wanted = self.bytes.len() * 2;
        let mut grown = Vec::with_capacity(wanted.max(self.bytes.len() + CHUNK));
        grown.extend_from_slice(&self.bytes);
        while !self.ended {
            let filled = grown.len();
            grown.resize(filled + CHUNK, 0);
            let read = match self.source.read(grown.get_mut(filled..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                read => Some(read?),
            };
            grown.truncate(filled + read.unwrap_or(0));
            self.ended = read == Some(0);
            if read.is_some() && grown.len() >= wanted {
                break;
            }
        }
        self.bytes = grown.into();
        Ok(())
    }

    /// At least so many bytes in view, if there are as many.
    pub(super) fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.bytes.len() < count && !self.ended {
            self.grow()?;
        }
        Ok(())
    }
}
