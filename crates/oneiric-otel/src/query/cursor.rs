//! Where the next page of a list begins, as a text that callers hand back and need not understand.
//!
//! Promise: a cursor fits the query that gave it and no other; anything else is refused. It names the last row that was
//! seen, not a number of rows: what is written meanwhile moves nothing, where the order is by what does not change. A list
//! in order of counts may lose or repeat rows between two pages when counts change meanwhile.
//!
//! A cursor carries the times of the first page, which later pages are about: "until now" and "two hours ago" are other
//! times whenever they are said, and a page that is asked for later must be of the same list. Hence times are not compared.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::QueryError;

/// First byte of a cursor: another number means another form.
const VERSION: u8 = 2;
const HASH_BYTES: usize = 8;
/// Characters of a cursor at most.
const MAX_CHARACTERS: usize = 8192;

/// The cursor of a `call` with this `query` (all that decides about rows and their order but times, and not how many are
/// shown) about these `times`, after the row at `position`.
pub(crate) fn seal<Q: Serialize, T: Serialize, P: Serialize>(
    call: &str,
    query: &Q,
    times: &T,
    position: &P,
) -> Result<String, QueryError> {
    let content = json(&(times, position))?;
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&fingerprint(call, query, &content)?);
    bytes.extend_from_slice(&content);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The times of the page that is asked for, and the position it begins behind: those of the cursor that [`seal`] made for
/// the same call and query, or, without one, the times that are asked about and the beginning.
///
/// # Errors
/// [`QueryError::InvalidArgument`] when it is of another query, or no cursor at all.
pub(crate) fn open<Q: Serialize, T: DeserializeOwned, P: DeserializeOwned>(
    call: &str,
    query: &Q,
    times: T,
    cursor: Option<&str>,
) -> Result<(T, Option<P>), QueryError> {
    let Some(cursor) = cursor else { return Ok((times, None)) };
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
    let (hash, content) = rest.split_at_checked(HASH_BYTES).ok_or_else(wrong)?;
    if *hash != fingerprint(call, query, content)? {
        return Err(wrong());
    }
    let (times, position) = serde_json::from_slice(content).map_err(|_| wrong())?;
    Ok((times, Some(position)))
}

fn fingerprint<Q: Serialize>(call: &str, query: &Q, content: &[u8]) -> Result<[u8; HASH_BYTES], QueryError> {
    let mut hasher = blake3::Hasher::new();
    for part in [call.as_bytes(), &json(query)?, content] {
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

    fn open<P: DeserializeOwned>(call: &str, query: &str, cursor: &str) -> Result<P, QueryError> {
        let ((), position) = super::open(call, &query, (), Some(cursor))?;
        Ok(position.expect("a cursor has a position"))
    }

    #[test]
    fn later_pages_are_about_the_times_of_the_first() {
        let (times, position) = super::open::<_, _, u64>("traces", &"a", 10, None).expect("a first page");
        assert_eq!((times, position), (10, None));
        let cursor = seal("traces", &"a", &times, &7).expect("sealed");
        assert_eq!(super::open("traces", &"a", 11, Some(&cursor)).expect("its own"), (10, Some(7)));
    }

    #[test]
    fn a_cursor_fits_its_own_query_only() {
        let cursor = seal("traces", &"service=a", &(), &(1u64, "id")).expect("sealed");
        assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{cursor}");
        let position: (u64, String) = open("traces", "service=a", &cursor).expect("its own");
        assert_eq!(position, (1, "id".to_owned()));
        for (call, query) in [("logs", "service=a"), ("traces", "service=b")] {
            let error = open::<(u64, String)>(call, query, &cursor).expect_err("another query");
            assert!(error.to_string().starts_with("cursor: expected the next of a page"), "{error}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        let cursor = seal("traces", &"a", &(), &(7u64, 8u64)).expect("sealed");
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
            assert!(open::<(u64, u64)>("traces", "a", &wrong).is_err(), "{wrong}");
        }
    }
}
