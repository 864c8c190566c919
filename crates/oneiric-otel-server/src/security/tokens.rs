//! Bearer tokens. Only hashes of them are kept, so that none can be shown by mistake.

use std::fmt;
use std::path::PathBuf;

use http::{HeaderMap, HeaderValue, header};
use subtle::{Choice, ConstantTimeEq as _};

use super::file;
use crate::ServerError;

/// Fewer characters can be guessed.
const MIN_CHARACTERS: usize = 16;

const FILE: &str = "token file";
const SCHEME: &[u8] = b"bearer";

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file with one token per line. Blank lines and those that begin with `#` are left out. Nobody but the owner may
    /// change it, and nobody but the owner and the group read it.
    File(PathBuf),
    /// These, for as long as the server runs.
    Fixed(Tokens),
}

impl TokenSource {
    pub(super) fn load(&self) -> Result<Tokens, ServerError> {
        let path = match self {
            Self::Fixed(tokens) => return Ok(tokens.clone()),
            Self::File(path) => path,
        };
        let text = file::read_secret(FILE, path)?;
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let tokens = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
        Tokens::hash(tokens.map(|(index, token)| (format!("line {}", index + 1), token)))
            .map_err(|reason| file::fail(FILE, path, reason))
    }
}

/// Tokens, any of which lets a request in.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    hashes: Vec<[u8; 32]>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("count", &self.hashes.len()).finish_non_exhaustive()
    }
}

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credentials {
    Good,
    Missing,
    Wrong,
}

impl Tokens {
    /// From tokens with commas between them.
    ///
    /// # Errors
    /// When there is none, or one of them cannot be a token. The message does not repeat it.
    pub fn from_list(list: &str) -> Result<Self, ServerError> {
        let tokens = list.split(',').map(|token| token.trim().as_bytes()).enumerate();
        let tokens = tokens.filter(|(_, token)| !token.is_empty());
        Self::hash(tokens.map(|(index, token)| (format!("number {}", index + 1), token)))
            .map_err(|reason| ServerError::Security(format!("list of tokens: {reason}")))
    }

    /// Of tokens and what each is called in messages.
    fn hash<'a>(tokens: impl Iterator<Item = (String, &'a [u8])>) -> Result<Self, String> {
        let mut hashes = Vec::new();
        for (name, token) in tokens {
            if token.len() < MIN_CHARACTERS {
                return Err(format!(
                    "{name}: a token of {} characters can be guessed; expected at least {MIN_CHARACTERS}, such as those \
                     of `openssl rand -hex 32`",
                    token.len()
                ));
            }
            if !token.iter().all(u8::is_ascii_graphic) {
                return Err(format!("{name}: expected a token of visible ASCII characters without spaces"));
            }
            hashes.push(*blake3::hash(token).as_bytes());
        }
        if hashes.is_empty() {
            return Err("there is no token in it".to_owned());
        }
        Ok(Self { hashes })
    }

    /// Looks for `authorization: Bearer TOKEN`.
    pub(super) fn check(&self, headers: &HeaderMap) -> Credentials {
        let mut given = headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let Some(value) = given.next() else { return Credentials::Missing };
        let token = bearer(value).filter(|_| given.next().is_none());
        match token {
            Some(token) if self.knows(token) => Credentials::Good,
            _ => Credentials::Wrong,
        }
    }

    /// Takes the same time for every token of a length, whether known or not and however much of it is right.
    fn knows(&self, token: &[u8]) -> bool {
        let hash = *blake3::hash(token).as_bytes();
        self.hashes.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&hash)).into()
    }
}

/// The token in the value of an `authorization` header.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME) && token.starts_with(b" ");
    is_bearer.then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn any_of_the_tokens_lets_in_and_nothing_else() {
        let tokens = Tokens::from_list("0123456789abcdef, fedcba9876543210,").expect("two tokens");
        for good in ["Bearer 0123456789abcdef", "bearer  fedcba9876543210", "BEARER 0123456789abcdef "] {
            assert_eq!(tokens.check(&headers(&[good])), Credentials::Good, "{good}");
        }
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789abcdeF",
            "Bearer0123456789abcdef",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer 0123456789abcdef,fedcba9876543210",
        ] {
            assert_eq!(tokens.check(&headers(&[wrong])), Credentials::Wrong, "{wrong}");
        }
        let good = "Bearer 0123456789abcdef";
        assert_eq!(tokens.check(&headers(&[good, good])), Credentials::Wrong, "one of two proves nothing");
        assert_eq!(tokens.check(&HeaderMap::new()), Credentials::Missing);
    }

    #[test]
    fn tokens_are_shown_nowhere() {
        let tokens = Tokens::from_list(TOKEN).expect("a token");
        let shown = format!("{tokens:?} {:?}", TokenSource::Fixed(tokens.clone()));
        assert!(!shown.contains(TOKEN) && shown.contains("count: 1"), "{shown}");
        for list in ["short-secret", "0123456789 abcdef-secret", "0123456789abcdef-secr\u{e9}t"] {
            let text = Tokens::from_list(&format!("{TOKEN},{list}")).expect_err(list).to_string();
            assert!(text.contains("number 2") && !text.contains("secr"), "{text}");
        }
        for empty in ["", " , "] {
            assert!(Tokens::from_list(empty).expect_err("none").to_string().contains("no token"));
        }
    }

    #[test]
    fn a_file_has_a_token_per_line_and_is_for_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens");
        let load = |text: &str, mode: u32| {
            std::fs::write(&path, text).expect("our own file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("our own file");
            TokenSource::File(path.clone()).load().map(|tokens| tokens.hashes.len()).map_err(|error| error.to_string())
        };
        let text = "# of the shop\n0123456789abcdef\r\n\n  fedcba9876543210  \n#0123456789abcdeg";
        for mode in [0o400, 0o600, 0o640, 0o440] {
            assert_eq!(load(text, mode), Ok(2), "{mode:o}");
        }
        for mode in [0o644, 0o604, 0o602, 0o660, 0o620, 0o601] {
            let reason = load(text, mode).expect_err("open to others");
            assert!(reason.contains(&format!("mode is {mode:o}")) && reason.contains("chmod 600"), "{reason}");
        }
        let reason = load("# none\n\n", 0o600).expect_err("empty");
        assert!(reason.contains("no token") && reason.contains(&*path.to_string_lossy()), "{reason}");
        let reason = load("0123456789abcdef\nshort-secret\n", 0o600).expect_err("short");
        assert!(reason.contains("line 2") && !reason.contains("secret"), "{reason}");
        let missing = TokenSource::File(dir.path().join("missing")).load().expect_err("missing").to_string();
        assert!(missing.contains("token file") && missing.contains("cannot be opened"), "{missing}");
    }
}
