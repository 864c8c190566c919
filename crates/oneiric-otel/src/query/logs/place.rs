//! The id of a log record: where it lies, as text that callers hand back and need not understand.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::query::QueryError;
use crate::store::Micros;
use crate::store::logs::LogKey;

/// Version, time, nanoseconds, block, place in it.
const BYTES: usize = 1 + 8 + 2 + 4 + 2;
const VERSION: u8 = 1;

pub(super) fn write(key: LogKey) -> String {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.push(VERSION);
    bytes.extend(key.time.0.to_be_bytes());
    bytes.extend(key.time_ns.to_be_bytes());
    bytes.extend(key.row.0.to_be_bytes());
    bytes.extend(key.row.1.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`write()`] wrote.
pub(super) fn read(text: &str) -> Result<LogKey, QueryError> {
    parse(text).ok_or_else(|| QueryError::InvalidArgument {
        name: "id",
        accepted: "the id of a log record from a list, unchanged".to_owned(),
    })
}

fn parse(text: &str) -> Option<LogKey> {
    let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let rest = bytes.strip_prefix(&[VERSION])?;
    let (time, rest) = rest.split_first_chunk()?;
    let (nanos, rest) = rest.split_first_chunk()?;
    let (block, rest) = rest.split_first_chunk()?;
    let (place, _) = rest.split_first_chunk()?;
    let time_ns = i16::from_be_bytes(*nanos);
    let time = Micros(i64::from_be_bytes(*time));
    if !(-1..1000).contains(&time_ns)
        || time < Micros::from_unix_nanos(0).0
        || time > Micros::from_unix_nanos(u64::MAX).0
    {
        return None;
    }
    Some(LogKey { time, time_ns, row: (u32::from_be_bytes(*block), u16::from_be_bytes(*place)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_and_other_texts_are_refused() {
        let time = Micros::from_unix_nanos(1_795_176_000_000_000_000).0;
        let key = LogKey { time, time_ns: 999, row: (7, 3) };
        assert_eq!(read(&write(key)).ok(), Some(key));
        assert_eq!(read(&write(LogKey::before(time))).ok(), Some(LogKey::before(time)));
        let far = write(LogKey { time: Micros(i64::MAX), ..key });
        for wrong in ["", "x", "!!!!", &"A".repeat(23), &far, write(key).trim_start_matches('A')] {
            let error = read(wrong).expect_err("no cursor").to_string();
            assert_eq!(error, "id: expected the id of a log record from a list, unchanged");
        }
    }
}
