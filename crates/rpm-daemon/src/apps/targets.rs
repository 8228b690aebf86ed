//! Requests that need no more than the processes that a target means.

use rpm_core::InstanceId;
use rpm_core::protocol::{Command, Outcome};
use rpm_sys::pidfd::signal_by_name;
use rpm_sys::tree::Tree;
use rpm_wire::api::{ApiError, ChangeReply};
use tokio::sync::oneshot;

use crate::apps::commands::{Accepted, failure};
use crate::supervisor::Supervisor;

impl Supervisor {
    /// Counts restarts from 0.
    pub(crate) fn reset(&mut self, targets: &[String]) -> Result<ChangeReply, ApiError> {
        let instances = self.catalog().resolve(targets)?;
        let command = Command::Reset {
            instances: instances.clone(),
        };
        drop(self.command(command));
        Ok(self.change(&instances, Vec::new()))
    }

    /// Sends a signal to the programs themselves.
    pub(crate) fn signal(&mut self, targets: &[String], name: &str) -> Result<ChangeReply, ApiError> {
        let signal = signal_by_name(name).ok_or_else(|| {
            failure(
                format!("{name:?} is not a signal"),
                Some("give its name, as SIGUSR2 or usr2, or its number"),
            )
        })?;
        let instances = self.catalog().resolve(targets)?;
        let mut notes = Vec::new();
        for id in &instances {
            let worker = self.core.instance(*id).and_then(|view| view.worker());
            let held = worker.and_then(|worker| self.workers.get(&worker));
            let Some((held, process)) = held.and_then(|held| Some((held, held.process()?))) else {
                notes.push(format!("{id} does not run"));
                continue;
            };
            let program = held.program_pid().unwrap_or(process.pid);
            let sent = match program == process.pid {
                true => process.pidfd.send_signal(signal),
                false => Tree::snapshot(program).and_then(|tree| tree.signal(signal)),
            };
            if let Err(error) = sent {
                notes.push(format!("{id}: {error}"));
            }
        }
        Ok(self.change(&instances, notes))
    }

    /// An outcome that is known already.
    pub(crate) fn settled(&self, instances: Vec<InstanceId>, notes: Vec<String>) -> Accepted {
        let (sender, outcome) = oneshot::channel();
        let done = Outcome::Done {
            instances: instances.clone(),
            silent: Vec::new(),
        };
        // The other end is in the same hand.
        let _ = sender.send(done);
        Accepted {
            outcome,
            instances,
            notes,
        }
    }
}
