//! Who may talk to the listeners: from flags and variables to the server's options, reloading on SIGHUP, and a warning
//! where others can reach what nothing guards.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use oneiric_otel_server::{BoundServer, Reload, ServerOptions, TlsFiles, TokenSource, Tokens};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Guard;
use crate::failure;

/// Tokens with commas between them. Read here and not with the flags, which show what they read.
const TOKENS: &str = "OTEL_STORAGE_TOKENS";

/// What the flags and the environment say about a server. The addresses are left as they are by default.
pub(crate) fn options(guard: Guard) -> Result<ServerOptions> {
    let defaults = ServerOptions::default();
    let tls = match (guard.tls_cert, guard.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, client_ca: guard.tls_client_ca }),
        _ => None,
    };
    Ok(ServerOptions {
        tls,
        tokens: tokens(guard.token_file)?,
        max_request_bytes: guard.max_request_bytes.unwrap_or(defaults.max_request_bytes),
        max_in_flight_bytes: guard.max_in_flight_bytes.unwrap_or(defaults.max_in_flight_bytes),
        max_connections: guard.max_connections.unwrap_or(defaults.max_connections),
        ..defaults
    })
}

fn tokens(file: Option<PathBuf>) -> Result<Option<TokenSource>> {
    let list = match env::var(TOKENS) {
        // Set to nothing is a secret that did not arrive, and not the wish to be open.
        Ok(list) => Some(list),
        Err(env::VarError::NotPresent) => None,
        // The error would repeat it.
        Err(env::VarError::NotUnicode(_)) => anyhow::bail!("{TOKENS}: the tokens are not UTF-8"),
    };
    match (file, list) {
        (None, None) => Ok(None),
        (Some(file), None) => Ok(Some(TokenSource::File(file))),
        (None, Some(list)) => {
            let tokens = Tokens::from_list(&list).with_context(|| TOKENS)?;
            Ok(Some(TokenSource::Fixed(tokens)))
        }
        (Some(_), Some(_)) => Err(failure::advised(
            format!("tokens are given twice: by {TOKENS} and by a file"),
            format!("unset {TOKENS}, or leave --token-file and OTEL_STORAGE_TOKEN_FILE out"),
        )),
    }
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
