//! How a change goes on, for a client that wants to know.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use rpm_wire::api::Step;
use tokio::time::timeout;

/// Time for a client to take a notification; a step that it does not take is left out.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// Tells a client about the steps of a change.
#[derive(Debug)]
pub(super) struct Reporter {
    /// The client, if it wants to know.
    to: Option<(Peer<RoleServer>, ProgressToken)>,
    steps: u32,
}

impl Reporter {
    /// For the client that has sent a request.
    pub(super) fn new(context: &RequestContext<RoleServer>) -> Reporter {
        let token = context.meta.get_progress_token();
        Reporter {
            to: token.map(|token| (context.peer.clone(), token)),
            steps: 0,
        }
    }

    /// For a client that does not want to know.
    #[cfg(test)]
    pub(super) fn to_nobody() -> Reporter {
        Reporter { to: None, steps: 0 }
    }

    /// One more step.
    pub(super) async fn step(&mut self, step: &Step) {
        let Some((peer, token)) = &self.to else { return };
        self.steps += 1;
        let message = format!(
            "{} {}: {} (pid {})",
            step.app,
            step.id,
            step.to.as_str(),
            step.pid
        );
        let progress =
            ProgressNotificationParam::new(token.clone(), f64::from(self.steps)).with_message(message);
        // The outcome is told in any case.
        let _ = timeout(TAKEN_WITHIN, peer.notify_progress(progress)).await;
    }
}
