//! Who may talk to the server, and what is encrypted: TLS and bearer tokens for every listener.
//!
//! Both come from files that are read at the start and again on [`Reload::reload`]. A reload counts as a whole or not at
//! all. New connections meet the new certificate, and the next request on any connection the new tokens. Knows nothing
//! of protocols but their `authorization` header.

mod file;
mod guard;
mod tls;
mod tokens;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use rustls::ServerConfig;

pub(crate) use guard::Guarded;
pub use tls::TlsFiles;
pub(crate) use tls::{Handshake, shake_hands};
pub(crate) use tokens::Credentials;
pub use tokens::{TokenSource, Tokens};

use crate::{ServerError, ServerOptions};

/// What has been turned away since the start.
#[derive(Debug, Default)]
pub struct Refusals {
    unauthenticated: AtomicU64,
    handshakes: AtomicU64,
}

impl Refusals {
    /// Requests without a token, or with a wrong one.
    pub fn unauthenticated_requests(&self) -> u64 {
        self.unauthenticated.load(Ordering::Relaxed)
    }

    /// Connections that ended before TLS was agreed on, those of clients without TLS among them.
    pub fn failed_handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }

    pub(crate) fn count_handshake(&self) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is in force.
#[derive(Clone, Default)]
struct Current {
    tls: Option<Arc<ServerConfig>>,
    tokens: Option<Arc<Tokens>>,
}

/// What guards the listeners of a server.
pub(crate) struct Security {
    tls: Option<TlsFiles>,
    tokens: Option<TokenSource>,
    current: RwLock<Current>,
    refusals: Arc<Refusals>,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").field("tls", &self.tls).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl Security {
    /// Reads what `options` name.
    pub(crate) fn load(options: &ServerOptions) -> Result<Arc<Self>, ServerError> {
        let security = Self {
            tls: options.tls.clone(),
            tokens: options.tokens.clone(),
            current: RwLock::default(),
            refusals: Arc::default(),
        };
        security.reload()?;
        Ok(Arc::new(security))
    }

    fn reload(&self) -> Result<(), ServerError> {
        let tls = self.tls.as_ref().map(TlsFiles::load).transpose()?;
        let tokens = self.tokens.as_ref().map(TokenSource::load).transpose()?.map(Arc::new);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { tls, tokens };
        Ok(())
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a new connection is encrypted with, if it is.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.current().tls
    }

    /// What the headers of a request prove. Refusals are counted.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Credentials {
        let credentials = match self.current().tokens {
            None => Credentials::Good,
            Some(tokens) => tokens.check(headers),
        };
        if credentials != Credentials::Good {
            self.refusals.unauthenticated.fetch_add(1, Ordering::Relaxed);
        }
        credentials
    }

    pub(crate) fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }
}

/// Reads certificates and tokens again while a server runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reload(pub(crate) Arc<Security>);

impl Reload {
    /// Puts what the files say now in force. Blocks while it reads them.
    ///
    /// # Errors
    /// As at the start. What was in force stays so.
    pub fn reload(&self) -> Result<(), ServerError> {
        self.0.reload()
    }

    /// Whether there is anything to read again.
    pub fn is_useful(&self) -> bool {
        self.0.tls.is_some() || matches!(self.0.tokens, Some(TokenSource::File(_)))
    }
}
