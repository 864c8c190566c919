//! The end of something that runs on threads of its own: begun once, told to everybody who asks, and not cut off by a caller
//! who does not wait for it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

use super::StorageError;
use super::life::OwnRuntime;
use crate::self_trace;

/// An end that was begun.
#[derive(Debug, Clone)]
pub(super) struct Closing(watch::Receiver<Option<Arc<Result<(), StorageError>>>>);

impl Closing {
    /// Begins the end. `runtime` ends with it.
    pub(super) fn begin(
        runtime: OwnRuntime,
        work: impl Future<Output = Result<(), StorageError>> + Send + 'static,
    ) -> Self {
        let (told, outcome) = watch::channel(None);
        if let Some(handle) = runtime.handle() {
            let task = async move {
                told.send_replace(Some(Arc::new(work.await)));
                drop(runtime);
            };
            self_trace::without_telemetry(|| drop(handle.spawn(self_trace::inherit(task))));
        }
        Self(outcome)
    }

    /// One that is over, and went well.
    pub(super) fn over() -> Self {
        let (_, outcome) = watch::channel(Some(Arc::new(Ok(()))));
        Self(outcome)
    }

    /// Waits for it. Everybody is told the same.
    pub(super) async fn outcome(mut self) -> Result<(), StorageError> {
        let Ok(outcome) = self.0.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) else {
            return Err(StorageError::Interrupted);
        };
        match outcome.as_deref() {
            None => Err(StorageError::Interrupted),
            Some(Ok(())) => Ok(()),
            Some(Err(StorageError::NotStored { records, reason })) => {
                Err(StorageError::NotStored { records: *records, reason: reason.clone() })
            }
            Some(Err(StorageError::TimedOut { within })) => Err(StorageError::TimedOut { within: *within }),
            Some(Err(error)) => Err(StorageError::NotClosed { reason: error.to_string() }),
        }
    }
}
