//! Named background tasks with one owner that awaits each of them.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::self_trace;

/// Tasks that run until they are stopped, in the order in which they were started.
#[derive(Debug, Default)]
pub struct Tasks {
    running: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

impl Tasks {
    /// Starts a task. It is to end soon after its token is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let handle = tokio::spawn(self_trace::inherit(run(stop.clone())));
        self.running.push(Task { name, stop, handle });
    }

    /// Starts a task as soon as `ready` says true.
    pub fn spawn_after<F>(
        &mut self,
        name: &'static str,
        ready: &watch::Receiver<bool>,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ready = ready.clone();
        self.spawn(name, |stop| async move {
            let is_ready = async { ready.wait_for(|ready| *ready).await.is_ok() };
            if stop.run_until_cancelled(is_ready).await == Some(true) {
                run(stop).await;
            }
        });
    }

    /// Stops the tasks, the last one first, each within what is left of `patience`.
    pub async fn stop(mut self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        for task in std::mem::take(&mut self.running).into_iter().rev() {
            task.stop.cancel();
            let abort = task.handle.abort_handle();
            match tokio::time::timeout_at(deadline, task.handle).await {
                Ok(Ok(())) => tracing::debug!(task = task.name, "ended"),
                Ok(Err(error)) => tracing::error!(task = task.name, %error, "ended badly"),
                Err(_) => {
                    tracing::warn!(task = task.name, "did not end in time and is cut off");
                    abort.abort();
                }
            }
        }
    }
}

impl Drop for Tasks {
    /// Whoever did not wait for the tasks does not want them to go on either.
    fn drop(&mut self) {
        self.running.iter().for_each(|task| task.stop.cancel());
    }
}
