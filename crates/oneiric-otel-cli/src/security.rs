//! Who may talk to the listeners: from settings to the server's options, reloading on SIGHUP, and a warning
//! where others can reach what nothing guards.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use oneiric_otel::settings::Resolved;
use oneiric_otel_server::{BoundServer, Reload, ServerOptions, TlsFiles, TokenSource, Tokens};
use tokio::signal::unix::{SignalKind, signal};

/// What the settings say about a server.
///
/// # Errors
/// If the tokens cannot be such.
pub(crate) fn options(resolved: &Resolved) -> Result<ServerOptions> {
    let settings = &resolved.settings;
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: settings.tls_client_ca.clone(),
        }),
        _ => None,
    };
    let tokens = match (&settings.token_file, &settings.tokens) {
        (Some(file), _) => Some(TokenSource::File(file.clone())),
        (None, Some(list)) => Some(TokenSource::Fixed(
            Tokens::from_list(list.expose()).with_context(|| format!("{}: tokens", resolved.origin("tokens")))?,
        )),
        (None, None) => None,
    };
    Ok(ServerOptions {
        grpc_addr: settings.listen.grpc_addr.clone(),
        http_addr: settings.listen.http_addr.clone(),
        api_addr: Some(settings.listen.api_addr.clone()),
        tls,
        tokens,
        max_request_bytes: settings.limits.max_request_bytes,
        max_in_flight_bytes: settings.limits.max_in_flight_bytes,
        max_connections: settings.limits.max_connections,
        ..ServerOptions::default()
    })
}

/// Reads the files of `bound` again on every SIGHUP from now on, and warns of what is open to others. A server without
/// such files is ended by SIGHUP, as by the end of its terminal.
///
/// # Errors
/// If the system does not let us watch.
pub(crate) fn watch(bound: &BoundServer, options: &ServerOptions) -> Result<()> {
    if let Some(warning) = exposure(bound.addresses(), options) {
        tracing::warn!("{warning}");
    }
    let reload = bound.reload();
    if !reload.is_useful() {
        return Ok(());
    }
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    // Lives as long as the process.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let reload = reload.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || read_again(&reload)).await {
                tracing::error!(%error, "certificates and tokens were not read again");
            }
        }
    });
    Ok(())
}

fn read_again(reload: &Reload) {
    match reload.reload() {
        Ok(()) => tracing::info!("certificates and tokens were read again"),
        Err(error) => tracing::error!(%error, "certificates and tokens stay as they were"),
    }
}

/// What others can do at `addresses`, if they can reach them.
fn exposure(mut addresses: impl Iterator<Item = SocketAddr>, options: &ServerOptions) -> Option<String> {
    let open = addresses.find(|address| !address.ip().to_canonical().is_loopback())?;
    let tokens = "without bearer tokens (--token-file): whoever reaches it can send and ask";
    let tls = "without TLS (--tls-cert, --tls-key): whoever is on the way can read along";
    let missing = match (options.tokens.is_some(), options.tls.is_some()) {
        (true, true) => return None,
        (false, true) => tokens.to_owned(),
        (true, false) => tls.to_owned(),
        (false, false) => format!("{tokens}; and {tls}"),
    };
    Some(format!("listening on {open}, which is not this machine alone, {missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_to_others_is_said() {
        let tls = TlsFiles { certificate: "c".into(), key: "k".into(), client_ca: None };
        let tokens = TokenSource::File("t".into());
        let warning = |addresses: &[&str], tokens: bool, tls: bool, of: &ServerOptions| {
            let options = ServerOptions {
                tokens: of.tokens.clone().filter(|_| tokens),
                tls: of.tls.clone().filter(|_| tls),
                ..of.clone()
            };
            exposure(addresses.iter().map(|address| address.parse().expect("an address")), &options)
        };
        let both = ServerOptions { tls: Some(tls), tokens: Some(tokens), ..ServerOptions::default() };
        let local = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "127.1.2.3:1"];
        assert_eq!(warning(&local, false, false, &both), None);
        for open in ["0.0.0.0:4317", "[::]:4317", "192.0.2.1:4317", "[::ffff:192.0.2.1]:4317"] {
            let addresses = ["127.0.0.1:1", open];
            let text = warning(&addresses, false, false, &both).expect(open);
            assert!(text.contains(open) && text.contains("--token-file") && text.contains("--tls-cert"), "{text}");
            let text = warning(&addresses, true, false, &both).expect(open);
            assert!(!text.contains("--token-file") && text.contains("--tls-cert"), "{text}");
            let text = warning(&addresses, false, true, &both).expect(open);
            assert!(text.contains("--token-file") && !text.contains("--tls-cert"), "{text}");
            assert_eq!(warning(&addresses, true, true, &both), None);
        }
    }
}
