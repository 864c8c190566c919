//! The check before everything else: whoever shows no token gets an answer and nothing of theirs is read.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio_util::task::TaskTracker;

use super::{Credentials, Security};
use crate::connection::Respond;
use crate::receivers::{self, Reply};

/// A responder that answers only those who may ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guarded<R> {
    /// Answers those who may ask.
    pub(crate) responder: R,
    /// Knows who may.
    pub(crate) security: Arc<Security>,
    /// Bytes of a refused body that are thrown away for the sake of the answer.
    pub(crate) max_refused_bytes: usize,
    /// For work that outlives its request.
    pub(crate) tasks: TaskTracker,
}

impl<R> Respond for Guarded<R>
where
    R: Respond<Body: From<Reply>>,
{
    type Body = R::Body;

    async fn respond(&self, request: Request<Incoming>) -> Response<R::Body> {
        if self.responder.is_open(&request) {
            return self.responder.respond(request).await;
        }
        match self.security.check(request.headers()) {
            Credentials::Good => self.responder.respond(request).await,
            refused => {
                let known = refused == Credentials::Wrong;
                let path = request.uri().path().to_owned();
                let response = receivers::refuse_stranger(request, known, self.max_refused_bytes, &self.tasks);
                let reason = if known { "the bearer token is not known" } else { "a bearer token is missing" };
                match self.responder.refuse(&path, reason) {
                    Some(mut own) => {
                        let asks_for = response.headers().get(WWW_AUTHENTICATE).cloned();
                        own.headers_mut().extend(asks_for.map(|scheme| (WWW_AUTHENTICATE, scheme)));
                        own
                    }
                    None => response.map(Into::into),
                }
            }
        }
    }
}
