//! Terminating: a worker gets the signal to end, and is killed if it takes too long.

use core::time::Duration;

use crate::apps::State;
use crate::core::{Core, Timer};
use crate::protocol::Output;
use crate::restart::AfterExit;
use crate::workers::{Candidate, Kill, Place, WorkerState};
use crate::{InstanceId, Tick, WorkerId};

/// Shortest and longest time between two SIGKILLs. A tree that survives one is stuck in the kernel.
const KILL_AGAIN_MIN: Duration = Duration::from_millis(100);
const KILL_AGAIN_MAX: Duration = Duration::from_secs(30);

impl Core {
    /// Terminates all workers of an instance, of every generation; `then` is `Stopped` or `Forgotten`.
    pub(crate) fn terminate_all(&mut self, id: InstanceId, then: AfterExit) {
        self.finish_drains(id);
        self.steering.close_slots(id);
        self.terminate_own(id, then);
    }

    /// As [`Core::terminate_all`], except for workers that are leaving already.
    pub(crate) fn terminate_own(&mut self, id: InstanceId, then: AfterExit) {
        let Some(state) = self.instances.state(id) else {
            return;
        };
        match state {
            State::Running { worker } => self.terminate_running(id, worker, then),
            State::Stopping { worker, .. } => {
                self.enter_instance(id, State::Stopping { worker, then });
                self.steering.close_own_slots(id);
            }
            State::Waiting { .. } | State::Awaiting { .. } | State::Stopped | State::Errored => {
                self.stop_instance(id, then);
            }
        }
    }

    /// Terminates the running worker of an instance; `then` decides what becomes of its slots.
    pub(crate) fn terminate_running(&mut self, id: InstanceId, worker: WorkerId, then: AfterExit) {
        self.enter_instance(id, State::Stopping { worker, then });
        if then.will_run() {
            self.steering.keep_slots_of(id, worker);
        } else {
            self.steering.close_own_slots(id);
        }
        self.timers.clear(Timer::Unclaimed(worker));
        self.terminate(worker, Place::Own);
    }

    /// Terminates a worker, as soon as it has a process that can get the signal.
    pub(crate) fn terminate(&mut self, id: WorkerId, place: Place) {
        match self.workers.state(id) {
            Some(WorkerState::Spawning { give_up, .. } | WorkerState::CandidateSpawning { give_up }) => {
                let kill = Kill {
                    at: give_up.max(self.now + KILL_AGAIN_MIN),
                    again: KILL_AGAIN_MIN,
                };
                self.enter(id, WorkerState::Cancelled { place, kill });
            }
            Some(
                WorkerState::Starting { spawned, .. }
                | WorkerState::Ready { spawned, .. }
                | WorkerState::Candidate(Candidate { spawned, .. })
                | WorkerState::Draining { spawned, .. },
            ) => self.send_terminate(id, spawned, place),
            Some(WorkerState::Cancelled { kill, .. }) => {
                self.enter(id, WorkerState::Cancelled { place, kill });
            }
            Some(WorkerState::Terminating { spawned, kill, .. }) => {
                let terminating = WorkerState::Terminating { spawned, place, kill };
                self.enter(id, terminating);
            }
            None => {}
        }
    }

    /// Sends the signal to end to a worker's process.
    pub(crate) fn send_terminate(&mut self, id: WorkerId, spawned: Tick, place: Place) {
        let Some(worker) = self.workers.get(id) else {
            return;
        };
        let timeout = worker.config.policy.kill_timeout;
        let kill = Kill {
            at: self.now + timeout,
            again: timeout.clamp(KILL_AGAIN_MIN, KILL_AGAIN_MAX),
        };
        self.staged.push(Output::Terminate { worker: id });
        let terminating = WorkerState::Terminating { spawned, place, kill };
        self.enter(id, terminating);
    }

    /// Kills a worker's process tree. Returns when to repeat that, in case it is not enough.
    pub(crate) fn kill(&mut self, id: WorkerId, kill: Kill) -> Kill {
        self.staged.push(Output::Kill { worker: id });
        Kill {
            at: self.now + kill.again,
            again: (kill.again * 2).min(KILL_AGAIN_MAX),
        }
    }
}
