//! A connection URL without its secret.
//!
//! URLs are taken apart as the driver takes them apart: credentials end at the first `@`, whatever stands before it.

/// A URL that can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// The URL without its password.
    pub url: String,
    /// The password in plain, if there is one.
    pub password: Option<String>,
}

/// Takes the password out of a `postgresql://` URL. None if an `@` leaves open what is password and what is not; then
/// nothing of the URL may be shown.
pub(crate) fn split_password(url: &str) -> Option<Public> {
    let Some((scheme, rest)) = url.split_once("://") else { return none_with_at(url) };
    let mut password = None;
    let (login, location) = match rest.split_once('@') {
        Some((login, location)) => {
            let (user, secret) = login.split_once(':').map_or((login, None), |(user, secret)| (user, Some(secret)));
            // Nobody's name: the `@` stands in a parameter or in a password that other rules would find.
            if location.contains('@') || user.contains(['/', '?']) {
                return None;
            }
            password = secret.map(decode);
            (format!("{user}@"), location)
        }
        None => (String::new(), rest),
    };
    let (location, query) = location.split_once('?').unwrap_or((location, ""));
    let mut parameters = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some((key, secret)) if decode(key) == "password" => password = Some(decode(secret)),
            _ => parameters.push(parameter),
        }
    }
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
    Some(Public { url: format!("{scheme}://{login}{location}{query}"), password })
}

/// What to show for a URL.
pub(crate) fn show(url: &str) -> String {
    split_password(url).map_or_else(|| "(hidden)".to_owned(), |public| public.url)
}

fn none_with_at(text: &str) -> Option<Public> {
    (!text.contains('@')).then(|| Public { url: text.to_owned(), password: None })
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        match (byte, rest.next().and_then(digit), rest.next().and_then(digit)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                bytes = rest;
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_taken_out() {
        for (url, shown, password) in [
            ("postgresql://u:p%40ss%25@h:5/d?a=b", "postgresql://u@h:5/d?a=b", "p@ss%"),
            ("postgresql://u@h/d", "postgresql://u@h/d", ""),
            ("postgres://h/d?password=s&host=%2Ftmp", "postgres://h/d?host=%2Ftmp", "s"),
            ("postgres://h/d?host=%2Ftmp&p%61ssword=s", "postgres://h/d?host=%2Ftmp", "s"),
            ("postgresql://u:p@/d", "postgresql://u@/d", "p"),
            ("postgresql://u:p/w@h/d", "postgresql://u@h/d", "p/w"),
            ("postgresql://u:p?w@h/d?a=b", "postgresql://u@h/d?a=b", "p?w"),
            ("postgresql://u:a:b@h", "postgresql://u@h", "a:b"),
            ("100%", "100%", ""),
        ] {
            let public = split_password(url).expect(url);
            assert_eq!((public.url.as_str(), public.password.unwrap_or_default().as_str()), (shown, password), "{url}");
            assert_eq!(show(url), shown);
        }
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%41"), "%zzA");
        assert_eq!(decode("%+1%-1% 1"), "%+1%-1% 1", "a sign is no digit");
    }

    #[test]
    fn what_cannot_be_told_apart_is_hidden() {
        for url in [
            "postgresql://u:p@ss@h/d",
            "postgresql://u:p@s/s@h/d",
            "postgresql://h/d?password=p@ss",
            "postgresql:///d?user=u&password=p@ss",
            "u:p@h/d",
        ] {
            assert_eq!(split_password(url), None, "{url}");
            assert_eq!(show(url), "(hidden)");
        }
    }
}
