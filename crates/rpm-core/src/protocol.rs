//! What goes into the core and what comes out of it.

use alloc::vec::Vec;
use core::time::Duration;

pub use crate::config::{Affinity, AppConfig, Readiness, RestartPolicy};
use crate::{AppId, Generation, GroupId, InstanceId, Revision, SlotId, Ticket, WorkerId};

/// A command of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Create an app and start all its instances. The id is new (chosen by the shell); one that is in use is
    /// refused as [`Failure::Superseded`].
    Start {
        /// The new app.
        app: AppId,
        /// Its configuration.
        config: AppConfig,
    },
    /// Stop these instances and keep them in the list. What is being answered is finished, for up to
    /// [`RestartPolicy::drain_timeout`]; new clients are refused, or served by others of the app if such are online.
    Stop {
        /// Which; unknown ids are ignored.
        instances: Vec<InstanceId>,
        /// At once: nothing is finished.
        hard: bool,
    },
    /// Stop and start these instances (a stopped or errored one is started).
    Restart {
        /// Which; unknown ids are ignored.
        instances: Vec<InstanceId>,
    },
    /// Stop and forget these instances; an app without instances is forgotten too.
    Delete {
        /// Which; unknown ids are ignored.
        instances: Vec<InstanceId>,
        /// As for [`Command::Stop`].
        hard: bool,
    },
    /// Have `count` instances: new ones get the lowest free instance numbers. Surplus ones are deleted: those that do not serve
    /// first (stopped and errored ones, then those that wait for a restart, then those that start), then by lowest
    /// [`InstanceId`].
    Scale {
        /// The app; unknown: the outcome says so.
        app: AppId,
        /// How many; taken as 1 to [`crate::MAX_INSTANCES`].
        count: u32,
    },
    /// Replace an app's configuration for workers spawned from now on: a new generation.
    Configure {
        /// The app.
        app: AppId,
        /// Its new configuration; `instances` is ignored.
        config: AppConfig,
    },
    /// Replace every worker by one of a new generation, which serves only when it is proved ready; the old ones
    /// then drain. If any new one fails, all is as it was before. While one that does not yield runs for the app the next waits
    /// (and an earlier one that waits is [`Failure::Superseded`]); every other command for the app undoes it, or ends its watch
    /// ([`RestartPolicy::watch_after`]).
    Reload {
        /// The app.
        app: AppId,
        /// Its new configuration (`instances` is ignored); `None`: the present one.
        config: Option<AppConfig>,
        /// No client waits for its outcome: the next reload ends it, unless clients would be without a worker then. It does not
        /// take the place of one that waits and does not yield.
        yields: bool,
        /// When the new generation serves, so many instances, as by [`Command::Scale`]: the outcome is that of both. If another
        /// command ends the reload before that, the number stays what it is.
        then_scale: Option<u32>,
    },
    /// The same for some of the instances of an app, with its present configuration. Unknown ones, and those of others, are
    /// ignored.
    Replace {
        /// The app.
        app: AppId,
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// Start the counts of restarts of these instances again.
    Reset {
        /// Which; unknown ids are ignored.
        instances: Vec<InstanceId>,
    },
    /// Undo the reload that is going on: the old workers serve again, at once. Without one nothing changes.
    Undo {
        /// The app.
        app: AppId,
    },
    /// Delete everything, for the daemon is about to exit.
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
    /// A user's command; [`Output::Done`] carries the ticket when it is done or has failed.
    Command {
        /// Returned with the outcome.
        ticket: Ticket,
        /// The command.
        command: Command,
    },
    /// The process of [`Output::Spawn`] runs its program.
    Spawned {
        /// Which.
        worker: WorkerId,
    },
    /// It could not be spawned; there is no process.
    SpawnFailed {
        /// Which.
        worker: WorkerId,
    },
    /// The whole process tree of the worker is gone.
    Exited {
        /// Which.
        worker: WorkerId,
        /// How its leader ended.
        exit: Exit,
    },
    /// The worker listens (on anything: a slot, a unix socket, a UDP port, a listener of its own).
    Listening {
        /// Which.
        worker: WorkerId,
    },
    /// The worker sent `ready`.
    Ready {
        /// Which.
        worker: WorkerId,
    },
    /// The shell has given `slot` to `worker`: a new one, or the one its predecessor in the same
    /// instance and generation held ([`crate::Core::slot_for`] tells which).
    SlotHeld {
        /// The slot.
        slot: SlotId,
        /// Its group.
        group: GroupId,
        /// The new holder.
        worker: WorkerId,
        /// The address is of the program's choice: its next version must serve it too. `false`: a random port.
        fixed: bool,
    },
    /// The worker closed its listener.
    SlotReleased {
        /// The slot.
        slot: SlotId,
        /// Who held it.
        worker: WorkerId,
    },
    /// The worker uses a socket that all workers share (UDP, a unix socket): a group without slots.
    SharedHeld {
        /// The group; its id is not that of a group with slots.
        group: GroupId,
        /// The worker.
        worker: WorkerId,
        /// The address is of the program's choice, as in [`Input::SlotHeld`].
        fixed: bool,
    },
    /// It uses it no more.
    SharedReleased {
        /// The group.
        group: GroupId,
        /// The worker.
        worker: WorkerId,
    },
    /// A new worker of a reload has asked for a listener that would take clients from the old workers at once, because its
    /// address overlaps one of theirs: it gets that when the reload is done. Until then it can show no more.
    Withheld {
        /// Which.
        worker: WorkerId,
    },
    /// A worker for which living is enough ([`Readiness::Runs`]) has not had the CPU that it would need to fail: it is given more time, though no
    /// more than its `listen_timeout`. Belongs before the [`crate::Core::handle_timeout`] that would take it for ready.
    Starved {
        /// Which.
        worker: WorkerId,
    },
    /// A worker that should listen, and does not, has been at rest for its `listen_timeout`: it may be one that listens on nothing, which is
    /// ready then. One that still works has its `start_timeout`.
    Rests {
        /// Which.
        worker: WorkerId,
    },
    /// The worker answers its health check ([`Output::CheckHealth`]) as it should.
    Healthy {
        /// Which.
        worker: WorkerId,
    },
    /// Nothing is left to do for a worker that got [`Output::Drain`] or [`Output::RefuseNew`].
    Drained {
        /// Which.
        worker: WorkerId,
    },
    /// The worker cannot drain: it does not know how, or did not answer.
    DrainFailed {
        /// Which.
        worker: WorkerId,
    },
    /// How many workers of an app fit into memory, those that it has included. Reloads that begin from now on keep to it, as to
    /// [`AppConfig::max_surge`].
    Room {
        /// The app.
        app: AppId,
        /// So many; `None`: nothing limits them.
        workers: Option<u32>,
    },
    /// The accept queue of a slot, sampled.
    Queue {
        /// The slot.
        slot: SlotId,
        /// Connections established and not yet accepted.
        len: u32,
    },
    /// The worker gave a sign of life that needs its event loop (the answer to [`Output::Probe`]). The
    /// first one also says that it understands probes: from then on silence means that it is frozen.
    Responded {
        /// Which.
        worker: WorkerId,
    },
}

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The process could not be spawned (the shell knows why).
    SpawnFailed,
    /// It exited before it was ready.
    Exited(Exit),
    /// It was ready and exited before its reload was complete.
    Crashed(Exit),
    /// It was not ready within this time.
    NotReady {
        /// The deadline that passed.
        within: Duration,
    },
    /// A later command changed the goal.
    Superseded,
    /// There is no such app.
    NoSuchApp,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every instance concerned is in the state asked for. `silent` are those that are online and
    /// listen on nothing ([`Readiness::Listens`] at its time-out).
    Done {
        /// Instances concerned, ascending.
        instances: Vec<InstanceId>,
        /// Those of them that listen on nothing.
        silent: Vec<InstanceId>,
    },
    /// At least one is not; supervision goes on.
    Failed {
        /// The first that failed (`None`: the command as a whole).
        instance: Option<InstanceId>,
        /// Its process, whose last lines tell more.
        worker: Option<WorkerId>,
        /// Why.
        failure: Failure,
    },
}

/// Something worth a line in the log, or an event of the control API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker is ready.
    Online {
        /// Which.
        worker: WorkerId,
        /// It listens on nothing.
        silent: bool,
    },
    /// A worker ended without being asked to.
    Crashed {
        /// Which.
        worker: WorkerId,
        /// How; `None` if it never ran.
        exit: Option<Exit>,
        /// The next attempt starts after this delay; `None`: there will be none.
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
        /// Queue length then.
        queued: u32,
    },
    /// It is back.
    Recovered {
        /// The slot.
        slot: SlotId,
    },
    /// A worker that a reload started is proved ready and serves; its predecessor stands by.
    CandidateReady {
        /// The new worker.
        worker: WorkerId,
    },
    /// A worker drains: it is not needed any more.
    Draining {
        /// Which.
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
        /// Whose.
        app: AppId,
        /// The generation that serves.
        generation: Generation,
        /// It is the former one: a reload that was undone had not kept all of its workers, and now they are back.
        returned: bool,
    },
    /// The old generation serves as before; the new one is removed.
    ReloadUndone {
        /// Whose.
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

/// Something the shell must do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start a process; answer with [`Input::Spawned`] or [`Input::SpawnFailed`].
    Spawn {
        /// Its id.
        worker: WorkerId,
        /// The app.
        app: AppId,
        /// Whose configuration.
        generation: Generation,
        /// What it is started from.
        revision: Revision,
        /// The place in the list.
        instance: InstanceId,
        /// `NODE_APP_INSTANCE`.
        number: u32,
    },
    /// Ask the worker for its health, on a listener of its own, until it answers as it should or leaves; report that by
    /// [`Input::Healthy`].
    CheckHealth {
        /// Which.
        worker: WorkerId,
    },
    /// Ask the worker's process tree to end (SIGINT, or the app's own way).
    Terminate {
        /// Which.
        worker: WorkerId,
    },
    /// Let the worker finish what it has begun: it is out of steering (but for groups in which no other worker is ready),
    /// keeps its slots and goes on accepting. Answer with [`Input::Drained`] or [`Input::DrainFailed`];
    /// [`Output::Terminate`] follows in any case, perhaps at once.
    Drain {
        /// Which.
        worker: WorkerId,
    },
    /// Have the worker close its listeners, which is reported by [`Input::SlotReleased`], and otherwise as
    /// [`Output::Drain`], which may have come before.
    RefuseNew {
        /// Which.
        worker: WorkerId,
        /// The clients that it has are served elsewhere from now on, and need not hurry there.
        keeps: bool,
    },
    /// Kill it (SIGKILL to the whole tree).
    Kill {
        /// Which.
        worker: WorkerId,
    },
    /// From now on new connections of the group go to these slots, and no others. Never empty while
    /// the group has a slot; empty when its last slots are about to be closed.
    Steer {
        /// The group.
        group: GroupId,
        /// Eligible slots, ascending.
        slots: Vec<SlotId>,
    },
    /// Move what waits in the accept queue of `slot` to the slots in `to`.
    Rescue {
        /// Whose queue.
        slot: SlotId,
        /// The worker that holds it and is alive; `None`: no worker does.
        holder: Option<WorkerId>,
        /// Where to; never empty.
        to: Vec<SlotId>,
    },
    /// Close a slot for good; what waits in it goes to `to`, or is refused if that is empty.
    CloseSlot {
        /// Which.
        slot: SlotId,
        /// Where its queue may go.
        to: Vec<SlotId>,
    },
    /// Find out whether the worker's event loop turns; answer with [`Input::Responded`] if it does.
    Probe {
        /// Which.
        worker: WorkerId,
    },
    /// A command is settled.
    Done {
        /// Whose.
        ticket: Ticket,
        /// What became of it.
        outcome: Outcome,
    },
    /// For the log.
    Notice(Notice),
    /// The app has no instance any more: it is forgotten, and its configuration can be.
    AppGone {
        /// Which.
        app: AppId,
    },
}
