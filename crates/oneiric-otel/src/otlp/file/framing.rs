//! Protobuf messages that are preceded by their lengths.

use bytes::{Buf, Bytes};

/// Messages each preceded by its length in four bytes, big-endian; None unless they fill the file exactly.
pub(super) fn fixed(bytes: &Bytes) -> Option<Vec<Bytes>> {
    split(bytes, |rest| rest.try_get_u32().ok().map(u64::from))
}

/// Messages each preceded by its length as a varint; None unless they fill the file exactly.
pub(super) fn varint(bytes: &Bytes) -> Option<Vec<Bytes>> {
    split(bytes, |rest| prost::decode_length_delimiter(rest).ok().map(|length| length as u64))
}

fn split(bytes: &Bytes, take_length: impl Fn(&mut Bytes) -> Option<u64>) -> Option<Vec<Bytes>> {
    let mut rest = bytes.clone();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(take_length(&mut rest)?).ok()?;
        if length > rest.len() {
            return None;
        }
        messages.push(rest.split_to(length));
    }
    Some(messages)
}
