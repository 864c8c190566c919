//! How to connect to the server: parameters, a URL, and a psql that is set up for it.

use std::fmt;
use std::path::PathBuf;

/// Everything a client needs. Contains the password: `Debug` hides it, [`ConnectionInfo::url`] shows it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The directory of the Unix socket, absolute.
    pub socket_dir: PathBuf,
    /// The port; over a Unix socket it is only part of the socket's name.
    pub port: u16,
    /// A superuser of this private server, or a role with fewer rights.
    pub user: String,
    /// Random, made when the role was first needed.
    pub password: String,
    /// The database.
    pub database: String,
}

impl ConnectionInfo {
    /// A libpq URL, `postgresql://USER:PASSWORD@/DATABASE?host=SOCKET_DIR&port=PORT`, percent-encoded. It contains the
    /// password.
    pub fn url(&self) -> String {
        format!(
            "postgresql://{}:{}@/{}?host={}&port={}",
            encode(&self.user),
            encode(&self.password),
            encode(&self.database),
            encode(&self.socket_dir.to_string_lossy()),
            self.port
        )
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConnectionInfo")
            .field("socket_dir", &self.socket_dir)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &"(hidden)")
            .field("database", &self.database)
            .finish()
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_understood_by_the_client_and_debug_hides_the_password() {
        let info = ConnectionInfo {
            socket_dir: "/tmp/a dir/with ?&%".into(),
            port: 5432,
            user: "one iric".to_owned(),
            password: "se:cr@t/ü".to_owned(),
            database: "o#tel".to_owned(),
        };
        let config: tokio_postgres::Config = info.url().parse().unwrap();
        assert_eq!(config.get_hosts(), [tokio_postgres::config::Host::Unix(info.socket_dir.clone())]);
        assert_eq!(config.get_ports(), [5432]);
        assert_eq!(config.get_user(), Some("one iric"));
        assert_eq!(config.get_password(), Some("se:cr@t/ü".as_bytes()));
        assert_eq!(config.get_dbname(), Some("o#tel"));
        let debug = format!("{info:?}");
        assert!(!debug.contains("se:cr") && debug.contains("hidden"), "{debug}");
    }
}
