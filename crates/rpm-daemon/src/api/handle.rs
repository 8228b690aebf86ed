//! The way into the supervisor from other tasks.

use tokio::sync::{mpsc, oneshot};

use crate::logs::LogSink;
use crate::supervisor::{Event, Supervisor};

/// A way into the supervisor from other tasks.
#[derive(Clone)]
pub struct Handle {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) logs: LogSink,
}

/// The daemon is about to exit.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the daemon is shutting down")]
pub struct ShuttingDown;

impl Handle {
    /// Runs `question` between two steps of the supervisor.
    ///
    /// # Errors
    /// The daemon is shutting down.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Supervisor) -> T + Send + 'static,
    ) -> Result<T, ShuttingDown> {
        let (reply, answer) = oneshot::channel();
        let call = Box::new(move |supervisor: &mut Supervisor| drop(reply.send(question(supervisor))));
        self.events
            .send(Event::Call(call))
            .await
            .map_err(|_| ShuttingDown)?;
        answer.await.map_err(|_| ShuttingDown)
    }
}
