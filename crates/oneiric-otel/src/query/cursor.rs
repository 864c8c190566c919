//! Where the next page of a list begins, as a text that callers hand back and need not understand.
//!
//! Promise: a cursor fits the query that gave it and no other; anything else is refused. It names the last row that was
//! seen, not a number of rows: what is written meanwhile moves nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::QueryError;

/// First byte of a cursor: another number means another form.
const VERSION: u8 = 1;
const HASH_BYTES: usize = 8;
/// Characters of a cursor at most.
const MAX_CHARACTERS: usize = 8192;

/// The cursor of a `call` with this `query` (all that decides about rows and their order, and not how many are shown)
/// after the row at `position`.
pub(crate) fn seal<Q: Serialize, P: Serialize>(call: &str, query: &Q, position: &P) -> Result<String, QueryError> {
    let position = json(position)?;
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&fingerprint(call, query, &position)?);
    bytes.extend_from_slice(&position);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The position in a cursor that [`seal`] made for the same call and query.
///
/// # Errors
/// [`QueryError::InvalidArgument`] when it is of another query, or no cursor at all.
pub(crate) fn open<Q: Serialize, P: DeserializeOwned>(call: &str, query: &Q, cursor: &str) -> Result<P, QueryError> {
    let wrong = || QueryError::InvalidArgument {
        name: "cursor",
        accepted: "the next of a page of this same query, with the same filters and order".to_owned(),
    };
    if cursor.len() > MAX_CHARACTERS {
        return Err(wrong());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor.trim()).map_err(|_| wrong())?;
    let (VERSION, rest) = bytes.split_first().map(|(version, rest)| (*version, rest)).ok_or_else(wrong)? else {
        return Err(wrong());
    };
    let (hash, position) = rest.split_at_checked(HASH_BYTES).ok_or_else(wrong)?;
    if *hash != fingerprint(call, query, position)? {
        return Err(wrong());
    }
    serde_json::from_slice(position).map_err(|_| wrong())
}

fn fingerprint<Q: Serialize>(call: &str, query: &Q, position: &[u8]) -> Result<[u8; HASH_BYTES], QueryError> {
    let mut hasher = blake3::Hasher::new();
    for part in [call.as_bytes(), &json(query)?, position] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut hash = [0; HASH_BYTES];
    hasher.finalize_xof().fill(&mut hash);
    Ok(hash)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, QueryError> {
    serde_json::to_vec(value)
        .map_err(|error| QueryError::Unavailable { reason: format!("the cursor cannot be written: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_its_own_query_only() {
        let cursor = seal("traces", &"service=a", &(1u64, "id")).expect("sealed");
        assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{cursor}");
        let position: (u64, String) = open("traces", &"service=a", &cursor).expect("its own");
        assert_eq!(position, (1, "id".to_owned()));
        for (call, query) in [("logs", "service=a"), ("traces", "service=b")] {
            let error = open::<_, (u64, String)>(call, &query, &cursor).expect_err("another query");
            assert!(error.to_string().starts_with("cursor: expected the next of a page"), "{error}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        let cursor = seal("traces", &1, &(7u64, 8u64)).expect("sealed");
        let mut wrong: Vec<String> =
            ["", "x", "AQ", "!!!!", "AAAAAAAAAAAAAAAAAAAA", "\u{1F600}"].map(str::to_owned).to_vec();
        wrong.push(format!("{cursor}{cursor}"));
        wrong.push("A".repeat(100_000));
        for place in 0..cursor.len() {
            let mut bytes = cursor.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            wrong.push(String::from_utf8(bytes).expect("ascii"));
        }
        for wrong in wrong {
            assert!(open::<_, (u64, u64)>("traces", &1, &wrong).is_err(), "{wrong}");
        }
    }
}
