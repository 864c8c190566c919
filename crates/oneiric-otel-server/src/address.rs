//! From `HOST:PORT` to listening sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, lookup_host};

use crate::server::ServerError;

/// How often a free port that both loopback families can have is looked for.
const FREE_PORT_ATTEMPTS: usize = 16;

/// Listens on `address`, which `purpose` is for (such as `OTLP/gRPC`). A host name listens on every address it has.
pub(crate) async fn bind(purpose: &'static str, address: &str) -> Result<Vec<TcpListener>, ServerError> {
    let (host, port) = parse(purpose, address)?;
    let fail = |source: io::Error| ServerError::bind(purpose, address, source);
    if host.eq_ignore_ascii_case("localhost") {
        return bind_localhost(port).await.map_err(fail);
    }
    let mut listeners = Vec::new();
    let mut port = port;
    let mut bound: Vec<SocketAddr> = Vec::new();
    for mut target in lookup_host((host, port)).await.map_err(fail)? {
        target.set_port(port);
        if bound.contains(&target) {
            continue;
        }
        let listener = TcpListener::bind(target).await.map_err(fail)?;
        port = listener.local_addr().map_err(fail)?.port();
        bound.push(listener.local_addr().map_err(fail)?);
        listeners.push(listener);
    }
    if listeners.is_empty() {
        return Err(fail(io::Error::new(io::ErrorKind::NotFound, "the host has no address")));
    }
    Ok(listeners)
}

fn parse<'a>(purpose: &'static str, address: &'a str) -> Result<(&'a str, u16), ServerError> {
    let invalid = || {
        ServerError::Option(format!(
            "address for {purpose}: {address:?} is not HOST:PORT, such as 127.0.0.1:4317, localhost:0 or [::1]:4318"
        ))
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let port = port.parse().map_err(|_| invalid())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(host) if !host.is_empty() => Ok((host, port)),
        None if !host.is_empty() && !host.contains(':') => Ok((host, port)),
        _ => Err(invalid()),
    }
}

/// 127.0.0.1 and, where the machine has it, ::1, on one port.
async fn bind_localhost(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut attempt = 1;
    loop {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let chosen = v4.local_addr()?.port();
        match TcpListener::bind((Ipv6Addr::LOCALHOST, chosen)).await {
            Ok(v6) => return Ok(vec![v4, v6]),
            // A free port of one family may be taken in the other; only a port of our choosing can be another.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if port != 0 || attempt == FREE_PORT_ATTEMPTS {
                    return Err(error);
                }
                attempt += 1;
            }
            Err(error) => {
                tracing::debug!(%error, "no IPv6 loopback, listening on 127.0.0.1 only");
                return Ok(vec![v4]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port() {
        assert_eq!(parse("x", "127.0.0.1:4317").ok(), Some(("127.0.0.1", 4317)));
        assert_eq!(parse("x", "localhost:0").ok(), Some(("localhost", 0)));
        assert_eq!(parse("x", "[::1]:4318").ok(), Some(("::1", 4318)));
        for wrong in ["", "4317", ":4317", "localhost", "localhost:", "::1:4318", "[]:1", "h:65536", "h:-1", "[::1]"] {
            let text = parse("OTLP/gRPC", wrong).map_err(|error| error.to_string()).expect_err(wrong);
            assert!(text.contains("HOST:PORT") && text.contains("OTLP/gRPC"), "{wrong}: {text}");
        }
    }

    #[tokio::test]
    async fn localhost_is_both_families_on_one_port() {
        let listeners = bind("test", "localhost:0").await.expect("loopback can be bound");
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("bound sockets have an address").port())
            .collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0), "{ports:?}");
        let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
        assert_eq!(listeners.len(), if has_v6 { 2 } else { 1 });
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_to_do() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback can be bound");
        let address = taken.local_addr().expect("bound sockets have an address").to_string();
        let text = bind("OTLP/HTTP", &address).await.expect_err("the port is taken").to_string();
        assert!(text.contains(&address) && text.contains("OTLP/HTTP") && text.contains("already in use"), "{text}");
        assert!(text.contains("port 0"), "{text}");
    }
}
