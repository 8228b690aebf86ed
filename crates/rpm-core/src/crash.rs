//! Crashes: workers that end without being asked to, and what follows for their instances.

use core::time::Duration;

use crate::core::Core;
use crate::protocol::{CrashVerdict, Exit, Failure, Notice, Readiness};
use crate::restart::{AfterExit, Verdict};
use crate::tickets::Reached;
use crate::workers::Worker;
use crate::{InstanceId, WorkerId};

impl Core {
    /// A worker ended without being asked to.
    pub(crate) fn crashed(&mut self, id: WorkerId, worker: &Worker, exit: Option<Exit>) {
        let Some(instance) = self.instances.get_mut(worker.instance) else {
            return;
        };
        let record = instance.record_mut();
        let life = worker.lifetime(self.now);
        let then = match record.judge_exit(exit, life, &worker.config.policy, &mut self.rng) {
            Verdict::Now => {
                record.count_restart();
                AfterExit::Restart
            }
            Verdict::After(delay) => AfterExit::Retry { delay },
            Verdict::Errored => AfterExit::Errored,
            Verdict::Stopped => AfterExit::Stopped,
        };
        if !worker.state().is_ready() {
            match is_accomplished(worker, exit, then) {
                true => self
                    .tickets
                    .reached(worker.instance, Reached::Online { silent: false }),
                false => {
                    let (instance, is_last) = (worker.instance, !then.will_run());
                    self.tickets.failed(instance, id, failure(exit), is_last);
                }
            }
        }
        let verdict = match then {
            AfterExit::Restart | AfterExit::Retry { .. } => CrashVerdict::Retry,
            AfterExit::Errored => CrashVerdict::Errored { not_ready: false },
            AfterExit::Stopped | AfterExit::Forgotten => CrashVerdict::Stopped,
        };
        self.note_crash((id, worker.instance), exit, then, verdict);
        self.proceed(worker.instance, then);
    }

    /// A worker has ended after it was asked to.
    pub(crate) fn terminated(
        &mut self,
        id: WorkerId,
        instance: InstanceId,
        then: AfterExit,
        exit: Option<Exit>,
    ) {
        let verdict = match then {
            AfterExit::Retry { .. } => Some(CrashVerdict::NotReady),
            AfterExit::Errored => Some(CrashVerdict::Errored { not_ready: true }),
            AfterExit::Stopped | AfterExit::Restart | AfterExit::Forgotten => None,
        };
        if let Some(verdict) = verdict {
            self.note_crash((id, instance), exit, then, verdict);
        }
        self.proceed(instance, then);
    }

    pub(crate) fn note_crash(
        &mut self,
        (worker, instance): (WorkerId, InstanceId),
        exit: Option<Exit>,
        then: AfterExit,
        verdict: CrashVerdict,
    ) {
        let instance = self.instances.get(instance);
        let retry_in = match then {
            AfterExit::Restart => Some(Duration::ZERO),
            AfterExit::Retry { delay } => Some(delay),
            AfterExit::Stopped | AfterExit::Errored | AfterExit::Forgotten => None,
        };
        self.note(Notice::Crashed {
            worker,
            exit,
            retry_in,
            failures: instance.map_or(0, |instance| instance.record().unstable),
            verdict,
        });
    }
}

/// The failure of the command that wanted a worker that ended before it was ready.
pub(crate) fn failure(exit: Option<Exit>) -> Failure {
    exit.map_or(Failure::SpawnFailed, Failure::Exited)
}

/// True if a worker that ended before it was ready has done all that was wanted. A program that need not listen and is not restarted is a
/// job, and may be short.
fn is_accomplished(worker: &Worker, exit: Option<Exit>, then: AfterExit) -> bool {
    let policy = &worker.config.policy;
    let is_good = match exit {
        Some(Exit::Code(code)) => code == 0 || policy.stops_at(code),
        Some(Exit::Signal(_)) | None => false,
    };
    is_good && worker.config.readiness == Readiness::Runs && then == AfterExit::Stopped
}
