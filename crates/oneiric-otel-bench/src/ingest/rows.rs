//! Rows in PostgreSQL's binary COPY format, in a file: taken out of one table, to be put into others.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::pin;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio_postgres::Client;

/// Signature, flags and the length of the header's extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a row's number of columns.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// Rows in a file, in pieces.
#[derive(Debug)]
pub(super) struct RowFile {
    file: File,
    /// Where each piece begins and how many rows it has, and where the last one ends.
    pieces: Vec<(u64, u64)>,
    end: u64,
}

impl RowFile {
    /// Copies the first rows of the spans into a file.
    pub(super) async fn write(client: &Client, path: &Path, rows: u64, rows_of_a_piece: u64) -> Result<Self> {
        let sql = format!("COPY (SELECT * FROM otel.otel_spans LIMIT {rows}) TO STDOUT (FORMAT binary)");
        let mut stream = pin!(client.copy_out(&sql).await?);
        let file = File::create_new(path).with_context(|| format!("make {}", path.display()))?;
        let mut out = BufWriter::new(file);
        while let Some(bytes) = stream.try_next().await? {
            out.write_all(&bytes)?;
        }
        out.into_inner()?.sync_all()?;
        Self::index(File::open(path)?, rows_of_a_piece)
    }

    fn index(file: File, rows_of_a_piece: u64) -> Result<Self> {
        let mut reader = std::io::BufReader::with_capacity(1 << 20, &file);
        let mut header = vec![0; HEADER.len()];
        reader.read_exact(&mut header)?;
        if header != HEADER {
            bail!("PostgreSQL's binary COPY begins in another way than it is known to");
        }
        let mut at = HEADER.len() as u64;
        let (mut pieces, mut rows) = (Vec::new(), 0);
        let mut value = Vec::new();
        loop {
            let mut word = [0; 2];
            reader.read_exact(&mut word)?;
            let Ok(columns) = u16::try_from(i16::from_be_bytes(word)) else { break };
            match pieces.last_mut() {
                Some((_, count)) if *count < rows_of_a_piece => *count += 1,
                _ => pieces.push((at, 1)),
            }
            rows += 1;
            at += 2;
            for _ in 0..columns {
                let mut word = [0; 4];
                reader.read_exact(&mut word)?;
                at += 4;
                if let Ok(length) = usize::try_from(i32::from_be_bytes(word)) {
                    value.resize(length, 0);
                    reader.read_exact(&mut value)?;
                    at += length as u64;
                }
            }
        }
        if rows == 0 {
            bail!("there are no rows to compare with");
        }
        drop(reader);
        Ok(Self { file, pieces, end: at })
    }

    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn rows(&self) -> u64 {
        self.pieces.iter().map(|(_, rows)| rows).sum()
    }

    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        self.end - HEADER.len() as u64
    }

    /// The rows of a piece, without header and trailer, and how many they are.
    pub(super) fn piece(&self, number: usize) -> Result<(Bytes, u64)> {
        let (start, rows) = *self.pieces.get(number).context("there is such a piece")?;
        let end = self.pieces.get(number + 1).map_or(self.end, |(start, _)| *start);
        let mut bytes = vec![0; usize::try_from(end - start)?];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok((bytes.into(), rows))
    }
}

/// The values of rows: none is NULL.
pub(super) fn values(rows: &[u8]) -> Result<Vec<Vec<Option<&[u8]>>>> {
    let mut left = rows;
    let mut take = |length: usize| {
        let (taken, rest) = left.split_at_checked(length).context("a row is cut off")?;
        left = rest;
        Ok::<_, anyhow::Error>((taken, rest.is_empty()))
    };
    let mut all = Vec::new();
    loop {
        let (columns, _) = take(2)?;
        let columns = i16::from_be_bytes(columns.try_into()?);
        let mut row = Vec::new();
        let mut is_last = false;
        for _ in 0..columns {
            let (length, ends) = take(4)?;
            is_last = ends;
            row.push(match usize::try_from(i32::from_be_bytes(length.try_into()?)) {
                Ok(length) => {
                    let (value, ends) = take(length)?;
                    is_last = ends;
                    Some(value)
                }
                Err(_) => None,
            });
        }
        all.push(row);
        if is_last {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_again_in_pieces_and_with_their_values() {
        let row = |value: Option<&[u8]>| {
            let mut bytes = vec![0, 2];
            bytes.extend_from_slice(&[0, 0, 0, 1, 7]);
            match value {
                Some(value) => {
                    bytes.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                    bytes.extend_from_slice(value);
                }
                None => bytes.extend_from_slice(&(-1i32).to_be_bytes()),
            }
            bytes
        };
        let rows = [row(Some(b"first")), row(None), row(Some(b""))];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        std::fs::write(&path, [HEADER, &rows.concat(), TRAILER].concat()).unwrap();
        let file = RowFile::index(File::open(&path).unwrap(), 2).unwrap();
        assert_eq!((file.rows(), file.pieces(), file.bytes()), (3, 2, rows.concat().len() as u64));
        assert_eq!(file.piece(0).unwrap(), (rows[..2].concat().into(), 2));
        assert_eq!(file.piece(1).unwrap(), (rows[2].clone().into(), 1));
        let expected: Vec<Vec<Option<&[u8]>>> =
            vec![vec![Some(&[7]), Some(b"first")], vec![Some(&[7]), None], vec![Some(&[7]), Some(b"")]];
        assert_eq!(values(&rows.concat()).unwrap(), expected);
        assert!(values(&rows[0][..8]).is_err());
    }
}
