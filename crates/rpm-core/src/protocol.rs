//! Inputs and outputs of the core.

use alloc::vec::Vec;
use core::time::Duration;

pub use crate::config::{Affinity, AppConfig, Readiness, RestartPolicy};
pub use crate::outcome::{Failure, Outcome};
use crate::{AppId, Generation, GroupId, InstanceId, Revision, SlotId, Ticket, WorkerId};

/// A command of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Create an app and start all its instances. The shell chooses a new id; one that is in use is rejected as [`Failure::Superseded`].
    Start {
        /// The new app.
        app: AppId,
        /// Its configuration.
        config: AppConfig,
    },
    /// Stop these instances and keep them in the list. Requests in flight are finished, for up to [`RestartPolicy::drain_timeout`]; new
    /// clients are refused, or served by other online instances of the app.
    Stop {
        /// The instances; unknown ids are ignored.
        instances: Vec<InstanceId>,
        /// Do not wait for requests in flight.
        hard: bool,
    },
    /// Stop and start these instances. Stopped and errored ones are started.
    Restart {
        /// As for [`Command::Stop`].
        instances: Vec<InstanceId>,
    },
    /// Stop and forget these instances; an app without instances is forgotten too.
    Delete {
        /// The instances; unknown ids are ignored.
        instances: Vec<InstanceId>,
        /// As for [`Command::Stop`].
        hard: bool,
    },
    /// Have `count` instances. New ones get the lowest free instance numbers. Surplus ones are deleted: first those that do not serve
    /// (stopped and errored ones, then those that wait for a restart, then those that are starting), then those with the lowest
    /// [`InstanceId`].
    Scale {
        /// The app; if it is unknown, the outcome says so.
        app: AppId,
        /// The number; values outside 1 to [`crate::MAX_INSTANCES`] count as the nearest of these.
        count: u32,
    },
    /// Restart all instances of an app and, when all are online, scale as [`Command::Scale`] does; the outcome covers both. If one of them
    /// fails before, is stopped or deleted, or if a later command sets number or configuration, it does not scale. It outlives the shell.
    RestartAndScale {
        /// The app.
        app: AppId,
        /// The number.
        count: u32,
    },
    /// Replace the configuration of an app for workers spawned from now on: a new generation.
    Configure {
        /// The app.
        app: AppId,
        /// Its new configuration; `instances` is ignored.
        config: AppConfig,
    },
    /// Replace every worker by one of a new generation, which serves only when it is proved ready; then the old ones drain. If a new one
    /// fails, everything is restored. The next reload waits while one that does not yield is running, and supersedes an earlier one that
    /// waits ([`Failure::Superseded`]). Every other command for the app undoes the reload, or ends its watch
    /// ([`RestartPolicy::watch_after`]).
    Reload {
        /// The app.
        app: AppId,
        /// Its new configuration (`instances` is ignored); `None` for the current one.
        config: Option<AppConfig>,
        /// No client waits for its outcome. The next reload ends it, unless clients would then be without a worker. It does not supersede a
        /// waiting one that does not yield.
        yields: bool,
        /// Scale to this number when the new generation serves, as [`Command::Scale`] does; the outcome covers both. If another command
        /// ends the reload before, the number does not change.
        then_scale: Option<u32>,
    },
    /// As [`Command::Reload`], for some instances of an app with its current configuration. Unknown instances and those of other apps are
    /// ignored.
    Replace {
        /// The app.
        app: AppId,
        /// The instances.
        instances: Vec<InstanceId>,
    },
    /// Reset the restart counts of these instances.
    Reset {
        /// The instances; unknown ids are ignored.
        instances: Vec<InstanceId>,
    },
    /// Undo the current reload: the old workers serve again at once. Without a reload nothing changes.
    Undo {
        /// The app.
        app: AppId,
    },
    /// Delete everything, because the daemon is about to exit.
    Shutdown,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `exit(code)`.
    Code(i32),
    /// Killed by a signal.
    Signal(i32),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "commands are rare, and each is moved once: nothing is gained by a place of its own for what they carry"
)]
pub enum Input {
    /// A user's command. [`Output::Done`] has the ticket when it is done or has failed.
    Command {
        /// Returned with the outcome.
        ticket: Ticket,
        /// The command.
        command: Command,
    },
    /// The process of [`Output::Spawn`] runs its program.
    Spawned {
        /// The worker.
        worker: WorkerId,
    },
    /// The process could not be spawned; there is none.
    SpawnFailed {
        /// The worker.
        worker: WorkerId,
    },
    /// The whole process tree of the worker is gone.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How its leader ended.
        exit: Exit,
    },
    /// The worker listens on anything: a slot, a Unix socket, a UDP port, its own listener.
    Listening {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker sent `ready`.
    Ready {
        /// The worker.
        worker: WorkerId,
    },
    /// The shell has given `slot` to `worker`. It is new, or the one that the predecessor in the same instance and generation held
    /// ([`crate::Core::slot_for`] decides).
    SlotHeld {
        /// The slot.
        slot: SlotId,
        /// Its group.
        group: GroupId,
        /// The new holder.
        worker: WorkerId,
        /// True if the program chose the address, so that its next version must serve it, too. False for a random port.
        fixed: bool,
    },
    /// The worker closed its listener.
    SlotReleased {
        /// The slot.
        slot: SlotId,
        /// Its holder.
        worker: WorkerId,
    },
    /// The worker uses a socket that all workers share (UDP, a Unix socket): a group without slots.
    SharedHeld {
        /// The group; its id is not that of a group with slots.
        group: GroupId,
        /// The worker.
        worker: WorkerId,
        /// The program chose the address, as in [`Input::SlotHeld`].
        fixed: bool,
    },
    /// The worker no longer uses a shared socket.
    SharedReleased {
        /// The group.
        group: GroupId,
        /// The worker.
        worker: WorkerId,
    },
    /// A new worker of a reload has asked for a listener that would at once take clients from the old workers, because its address overlaps
    /// one of theirs. It gets the listener when the reload is done, and until then it can show no more.
    Withheld {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker for which living is enough ([`Readiness::Runs`]) had too little CPU time to fail in. It gets more time, but not more than
    /// its `listen_timeout`. Send this before the [`crate::Core::handle_timeout`] that would treat it as ready.
    Starved {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker that is expected to listen, and does not, has been at rest for its `listen_timeout`. It may be one that listens on nothing,
    /// so it is ready. One that still works has its whole `start_timeout`.
    Rests {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker passes its health check ([`Output::CheckHealth`]).
    Healthy {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker that got [`Output::Drain`] or [`Output::RefuseNew`] has nothing left to do.
    Drained {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker cannot drain: it does not support it, or did not respond.
    DrainFailed {
        /// The worker.
        worker: WorkerId,
    },
    /// How many workers of an app fit into memory, including existing ones. Reloads that start from now on respect it, like
    /// [`AppConfig::max_surge`].
    Room {
        /// The app.
        app: AppId,
        /// The number; `None` for no limit.
        workers: Option<u32>,
    },
    /// A sample of a slot's accept queue.
    Queue {
        /// The slot.
        slot: SlotId,
        /// Connections established and not yet accepted.
        len: u32,
    },
    /// The worker's event loop responded, for example to [`Output::Probe`]. The first response also shows that it understands probes: from
    /// then on, silence means that it is frozen.
    Responded {
        /// The worker.
        worker: WorkerId,
    },
}

/// An event for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker is ready.
    Online {
        /// The worker.
        worker: WorkerId,
        /// It listens on nothing.
        silent: bool,
    },
    /// A worker ended without being asked to.
    Crashed {
        /// The worker.
        worker: WorkerId,
        /// Its exit; `None` if it never ran.
        exit: Option<Exit>,
        /// The delay before the next attempt; `None` if there is none.
        retry_in: Option<Duration>,
        /// Failures to start in a row, this one included ([`RestartPolicy::max_restarts`]).
        failures: u32,
        /// What decided that.
        verdict: CrashVerdict,
    },
    /// A slot left steering because its worker does not accept.
    Stalled {
        /// The slot.
        slot: SlotId,
        /// The length of its queue.
        queued: u32,
    },
    /// A slot returned to steering.
    Recovered {
        /// The slot.
        slot: SlotId,
    },
    /// A worker that a reload started is proved ready and serves. Its predecessor is standby.
    CandidateReady {
        /// The new worker.
        worker: WorkerId,
    },
    /// A worker drains, because it is not needed any more.
    Draining {
        /// The worker.
        worker: WorkerId,
    },
    /// Workers of a new generation are about to start beside those that serve.
    ReloadBegun {
        /// Whose.
        app: AppId,
        /// The new generation.
        generation: Generation,
        /// Instances that get a new worker.
        instances: u32,
    },
    /// The new generation serves.
    ReloadDone {
        /// The app.
        app: AppId,
        /// The generation that serves.
        generation: Generation,
        /// It is the former one: a reload that was undone had not kept all of its workers, and now they are back.
        returned: bool,
    },
    /// The old generation serves again; the new one is removed.
    ReloadUndone {
        /// The app.
        app: AppId,
        /// The generation that is removed.
        generation: Generation,
        /// Why.
        cause: UndoCause,
    },
    /// An app has another number of instances from now on.
    Scaled {
        /// Which.
        app: AppId,
        /// How many it had.
        from: u32,
        /// How many it has.
        to: u32,
    },
    /// An instance is forgotten.
    Deleted {
        /// Which.
        instance: InstanceId,
        /// Whose.
        app: AppId,
    },
}

/// What follows the end of a worker that was not asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashVerdict {
    /// Another worker is started.
    Retry,
    /// The same, and the worker ended because it was not ready in time: it was asked to, after all.
    NotReady,
    /// None is started: it failed too often.
    Errored {
        /// As for [`CrashVerdict::NotReady`].
        not_ready: bool,
    },
    /// None is started: the policy of the app says so.
    Stopped,
    /// Its reload decides.
    Reload,
}

/// Why a reload is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoCause {
    /// A worker of the new generation failed.
    Failed {
        /// Whose.
        instance: InstanceId,
        /// Which.
        worker: WorkerId,
        /// How.
        failure: Failure,
    },
    /// Another command for the app.
    Superseded,
    /// A command says so.
    Unwanted,
}

/// An action for the shell, to be carried out in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start a process, and answer with [`Input::Spawned`] or [`Input::SpawnFailed`].
    Spawn {
        /// Its id.
        worker: WorkerId,
        /// The app.
        app: AppId,
        /// The generation whose configuration it has.
        generation: Generation,
        /// The revision from which it is started.
        revision: Revision,
        /// Its place in the list.
        instance: InstanceId,
        /// `NODE_APP_INSTANCE`.
        number: u32,
    },
    /// Check the worker's health on one of its own listeners, until it passes or leaves. Report a pass by [`Input::Healthy`].
    CheckHealth {
        /// The worker.
        worker: WorkerId,
    },
    /// Ask the worker's process tree to end, by SIGINT or the app's own way.
    Terminate {
        /// The worker.
        worker: WorkerId,
    },
    /// Let the worker finish its requests. It is out of steering, except in groups in which no other worker is ready, keeps its slots and
    /// still accepts. Answer with [`Input::Drained`] or [`Input::DrainFailed`]. [`Output::Terminate`] follows in any case, perhaps at once; or, if
    /// it has drained and served again since, because nobody else did, this once more.
    Drain {
        /// The worker.
        worker: WorkerId,
    },
    /// Make the worker close its listeners, which [`Input::SlotReleased`] reports. Otherwise as [`Output::Drain`], which may have come
    /// before.
    RefuseNew {
        /// The worker.
        worker: WorkerId,
        /// Others serve its clients from now on, so existing ones need not leave early.
        keeps: bool,
    },
    /// Kill it (SIGKILL to the whole tree).
    Kill {
        /// The worker.
        worker: WorkerId,
    },
    /// Steer new connections of the group to these slots only. Never empty while the group has a slot, except when its last slots are about
    /// to be closed.
    Steer {
        /// The group.
        group: GroupId,
        /// Eligible slots, ascending.
        slots: Vec<SlotId>,
    },
    /// Move the accept queue of `slot` to the slots in `to`.
    Rescue {
        /// The slot.
        slot: SlotId,
        /// The living worker that holds it, if any.
        holder: Option<WorkerId>,
        /// The targets; never empty.
        to: Vec<SlotId>,
    },
    /// Close a slot for good. Its queue goes to `to`; connections are refused if that is empty.
    CloseSlot {
        /// The slot.
        slot: SlotId,
        /// The targets for its queue.
        to: Vec<SlotId>,
    },
    /// Check whether the worker's event loop runs, and answer with [`Input::Responded`] if it does.
    Probe {
        /// The worker.
        worker: WorkerId,
    },
    /// A command is settled.
    Done {
        /// Its ticket.
        ticket: Ticket,
        /// Its outcome.
        outcome: Outcome,
    },
    /// For the log.
    Notice(Notice),
    /// The app has no instances left. It is forgotten, and its configuration can be.
    AppGone {
        /// The app.
        app: AppId,
    },
}
