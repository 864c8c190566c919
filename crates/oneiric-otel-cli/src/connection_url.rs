//! A connection URL without its secret.

/// Takes the password out of a `postgresql://` URL: the URL without it, and the password in plain.
pub(crate) fn split_password(url: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let (location, query) = rest.split_once('?').map_or((rest, None), |(location, query)| (location, Some(query)));
    let mut password = None;
    let authority_end = location.find('/').unwrap_or(location.len());
    let (authority, path) = location.split_at(authority_end);
    let authority = match authority.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split_once(':').map_or(login, |(user, secret)| {
                password = Some(decode(secret));
                user
            });
            format!("{user}@{host}")
        }
        None => authority.to_owned(),
    };
    let mut parameters = Vec::new();
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.strip_prefix("password=") {
            Some(secret) => password = Some(decode(secret)),
            None => parameters.push(parameter),
        }
    }
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
    (format!("{scheme}://{authority}{path}{query}"), password)
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let rest = bytes.clone();
        let digits: String = rest.take(2).map(char::from).collect();
        match u8::from_str_radix(&digits, 16) {
            Ok(value) if byte == b'%' && digits.len() == 2 => {
                decoded.push(value);
                bytes.nth(1);
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
        let split = |url: &str| {
            let (url, password) = split_password(url);
            (url, password.unwrap_or_default())
        };
        let expect = |url: &str, password: &str| (url.to_owned(), password.to_owned());
        assert_eq!(split("postgresql://u:p%40ss%25@h:5/d?a=b"), expect("postgresql://u@h:5/d?a=b", "p@ss%"));
        assert_eq!(split("postgresql://u@h/d"), expect("postgresql://u@h/d", ""));
        assert_eq!(split("postgres://h/d?password=s&host=%2Ftmp"), expect("postgres://h/d?host=%2Ftmp", "s"));
        assert_eq!(split("postgresql://u:p@/d"), expect("postgresql://u@/d", "p"));
        assert_eq!(split("100%"), expect("100%", ""));
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%41"), "%zzA");
    }
}
