//! Where acknowledged requests go besides the database.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tracing::Instrument as _;

use super::prepare::Prepared;
use super::queue::Outcome;
use super::{Core, Refused, Request, stopping};

/// Somewhere else that acknowledged requests go to.
///
/// The write path waits for [`Outlet::take`] before it acknowledges, so that "acknowledged" can mean "on its way there, too".
/// Requests that are refused whole are not handed over; of others the bytes are, as they came, with the records that were
/// rejected.
pub trait Outlet: fmt::Debug + Send + Sync {
    /// Takes a request over. Ready when it is as safe as the outlet makes it, or when the outlet has given it up, which is
    /// the outlet's to count: storing goes on either way. It must not wait for anybody far away. `own`: it carries
    /// telemetry of this process.
    fn take(&self, request: Request, own: bool) -> BoxFuture<'static, ()>;
}

impl Core {
    /// Hands a copy of the request to the outlet, if there is one. The outlet has it at once, also when nobody waits for
    /// what is returned; ready when it needs no more care.
    pub(super) fn pass_on(&self, request: &Request, own: bool) -> impl Future<Output = ()> + use<> {
        let taken = self.options.outlet.as_ref().map(|outlet| tokio::spawn(outlet.take(request.clone(), own)));
        async move {
            if let Some(taken) = taken
                && let Err(error) = taken.await
            {
                tracing::error!(%error, "a request was not passed on");
            }
        }
    }

    /// Waits until the request is committed, and passes it on then and not before: one that is refused now comes again, and
    /// would be passed on each time.
    pub(super) async fn store_and_pass_on(
        self: &Arc<Self>,
        request: Request,
        prepared: Prepared,
        own: bool,
    ) -> Result<Outcome, Refused> {
        if self.options.outlet.is_none() {
            return self.store(request, prepared, own).await;
        }
        let (core, copy) = (Arc::clone(self), request.clone());
        // A task, so that a client that hangs up in between leaves nothing stored that is not passed on.
        let work = async move {
            let outcome = core.store(request, prepared, own).await?;
            core.pass_on(&copy, own).await;
            Ok(outcome)
        };
        tokio::spawn(work.in_current_span()).await.map_err(|_| stopping())?
    }
}
