//! The check before everything else: whoever shows no token gets an answer and nothing of theirs is read.

use std::sync::Arc;

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
    /// Paths that everybody may ask for.
    pub(crate) open: &'static [&'static str],
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
        if self.open.contains(&request.uri().path()) {
            return self.responder.respond(request).await;
        }
        match self.security.check(request.headers()) {
            Credentials::Good => self.responder.respond(request).await,
            refused => {
                let known = refused == Credentials::Wrong;
                receivers::refuse_stranger(request, known, self.max_refused_bytes, &self.tasks).map(Into::into)
            }
        }
    }
}
