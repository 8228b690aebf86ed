//! What a reload may not do, seen from outside: by what was asked for, what was put out, and what the views show.

use std::collections::{BTreeMap, BTreeSet};

use rpm_core::protocol::Notice;
use rpm_core::{AppId, Core, Generation, InstanceId, InstanceView, LeavingPhase, StateView, WorkerId};

use super::world::{Verdict, demand};

/// Ready workers, by instance.
type Ready = BTreeMap<InstanceId, WorkerId>;

/// What is remembered of the reloads.
#[derive(Default)]
pub(crate) struct Rollouts {
    running: BTreeMap<AppId, Watch>,
    /// Settled in this step.
    done: Vec<(AppId, Watch)>,
    undone: Vec<(AppId, Watch)>,
    /// Whose reload ended in this step.
    ended: BTreeSet<AppId>,
    /// Whose number of instances changed in this step: the second half of a restart is a command, too.
    resized: BTreeSet<AppId>,
    /// How often one was undone when a part of the new generation served already.
    pub(crate) halfway: u64,
    /// How often when all of it did.
    pub(crate) watched: u64,
    /// How often one was complete, and followed by its scaling.
    pub(crate) scaled: u64,
    /// How often old workers that had retired already were started again.
    pub(crate) returned: u64,
    /// Whose instances may differ in generation.
    pub(crate) configured: BTreeSet<AppId>,
    /// Made so by the command of this step, after whatever reload it ends.
    pub(crate) configuring: Option<AppId>,
    /// Some of whose instances were replaced alone.
    pub(crate) mixed: BTreeSet<AppId>,
    /// The ready workers after the last step.
    ready: BTreeMap<AppId, Ready>,
    /// Told to leave in this step.
    told: BTreeSet<WorkerId>,
    /// All its workers, after the last step, and those that come by themselves.
    population: BTreeMap<AppId, (usize, usize)>,
}

/// A reload that is going on.
struct Watch {
    generation: Generation,
    /// Instances that were ready before it and have lost no worker since, each with that worker.
    ready: Ready,
    /// The same, whether or not that worker has retired for want of room.
    served: BTreeSet<InstanceId>,
    /// How many workers it may have, and how many of `served` may be without.
    limits: Option<(usize, usize)>,
    /// It goes back to a generation that was taken back in part.
    returns: bool,
    /// When it is complete, instances come or go.
    scales: bool,
    /// Instances that its new workers serve.
    proved: usize,
    /// That is all.
    watched: bool,
}

impl Rollouts {
    pub(crate) fn note(&mut self, notice: Notice) {
        if let Notice::ReloadDone { app, .. } | Notice::ReloadUndone { app, .. } = notice {
            self.ended.insert(app);
        }
        match notice {
            Notice::ReloadDone { app, .. } => {
                let returns = self.running.get(&app).is_some_and(|watch| watch.returns);
                if self.configuring != Some(app) && !returns {
                    self.configured.remove(&app);
                }
                let scales = self.running.get(&app).is_some_and(|watch| watch.scales);
                self.scaled += u64::from(scales);
                self.done
                    .extend(self.running.remove(&app).map(|watch| (app, watch)));
            }
            Notice::ReloadUndone { app, .. } => {
                let watch = self.running.remove(&app);
                self.halfway += u64::from(watch.as_ref().is_some_and(|watch| watch.proved > 0));
                self.watched += u64::from(watch.as_ref().is_some_and(|watch| watch.watched));
                self.undone.extend(watch.map(|watch| (app, watch)));
            }
            // The second half of a restart may follow at once.
            Notice::Scaled { app, .. } => {
                self.resized.insert(app);
                let done = self.done.iter_mut().filter(|(of, _)| *of == app);
                done.for_each(|(_, watch)| watch.scales = true);
            }
            Notice::Online { .. }
            | Notice::Crashed { .. }
            | Notice::Stalled { .. }
            | Notice::Recovered { .. }
            | Notice::CandidateReady { .. }
            | Notice::Draining { .. }
            | Notice::ReloadBegun { .. }
            | Notice::Deleted { .. } => {}
        }
    }

    /// A process died that nobody had told to end.
    pub(crate) fn crashed(&mut self, worker: WorkerId) {
        for (app, watch) in &mut self.running {
            let present = self.ready.get(app).and_then(|ready| instance_of(ready, worker));
            if let Some(instance) = instance_of(&watch.ready, worker).or(present) {
                watch.ready.remove(&instance);
                watch.served.remove(&instance);
            }
        }
    }

    /// A worker was told to drain or to end.
    pub(crate) fn told(&mut self, worker: WorkerId) -> Verdict {
        self.told.insert(worker);
        for watch in self.running.values_mut() {
            let Some(instance) = instance_of(&watch.ready, worker) else {
                continue;
            };
            demand(watch.limits.is_some() || watch.returns, || {
                format!("{worker:?} leaves before every worker of the reload is proved")
            })?;
            watch.ready.remove(&instance);
        }
        Ok(())
    }

    /// After every step. `commanded`: it was a command.
    pub(crate) fn check(&mut self, core: &Core, commanded: bool) -> Verdict {
        self.configuring = None;
        for (app, watch) in std::mem::take(&mut self.done) {
            // One that goes back concerns but a part of the app.
            if !commanded && !watch.returns && !self.mixed.contains(&app) {
                check_done(core, app, &watch)?;
            }
        }
        for (app, watch) in std::mem::take(&mut self.undone) {
            // The one that follows may have made room for itself already.
            let follows = core.app(app).is_some_and(|it| it.reload.is_some()) && limits(core, app).is_some();
            if !commanded && !follows && !self.resized.contains(&app) {
                check_undone(core, app, &watch)?;
            }
        }
        let apps: BTreeSet<AppId> = core.instances().map(|instance| instance.app).collect();
        for app in apps {
            self.check_app(core, app, commanded)?;
        }
        self.told.clear();
        self.ended.clear();
        self.resized.clear();
        Ok(())
    }

    fn check_app(&mut self, core: &Core, app: AppId, commanded: bool) -> Verdict {
        let now = ready(core, app);
        let fresh = self.follow(core, app, &now, commanded)?;
        if let Some(watch) = self.running.get(&app) {
            let before = self.population.get(&app).filter(|_| !fresh).copied();
            watch.check_limits(core, app, &now, before.unwrap_or((usize::MAX, 0)))?;
        }
        let waiting = |it: &InstanceView| matches!(it.state, StateView::WaitingRestart { .. });
        let to_come = core.instances().filter(|it| it.app == app && waiting(it)).count();
        self.population.insert(app, (population(core, app), to_come));
        self.ready.insert(app, now);
        Ok(())
    }

    /// Takes note of the reload that is going on now. Says whether it is another one than before.
    fn follow(&mut self, core: &Core, app: AppId, now: &Ready, commanded: bool) -> Result<bool, String> {
        let Some(reload) = core.app(app).and_then(|view| view.reload) else {
            demand(!self.running.contains_key(&app), || {
                format!("the reload of {app:?} ended without a word")
            })?;
            if !self.configured.contains(&app) && !self.mixed.contains(&app) {
                check_uniform(core, app)?;
            }
            return Ok(false);
        };
        let running = self.running.get(&app);
        let fresh = running.is_none_or(|it| it.generation != reload.generation);
        if fresh {
            // One that was queued, or goes back, or that another one gave way to, begins where the one before it ended.
            let first = commanded && !reload.returns && !self.ended.contains(&app);
            let last = self.ready.get(&app).filter(|_| first);
            let mut before = last.unwrap_or(now).clone();
            let served = before.keys().copied().collect();
            let limits = limits(core, app);
            if commanded && !first && !reload.returns && limits.is_none() {
                self.check_given_way(app, now)?;
            }
            let may_leave = limits.is_some() || reload.returns;
            before.retain(|_, worker| !may_leave || !self.told.contains(worker));
            let watch = Watch {
                generation: reload.generation,
                served,
                ready: before,
                limits,
                returns: reload.returns,
                scales: reload.then_scale.is_some(),
                proved: 0,
                watched: false,
            };
            self.returned += u64::from(reload.returns);
            self.running.insert(app, watch);
        }
        if let Some(watch) = self.running.get_mut(&app) {
            watch.proved = reload.proved;
            watch.watched = reload.watched_until.is_some();
        }
        Ok(fresh)
    }

    /// A reload has given way to the one that was asked for in this step: whoever was served is.
    fn check_given_way(&self, app: AppId, now: &Ready) -> Verdict {
        let before = self.ready.get(&app).into_iter().flatten();
        let lost: Vec<_> = before.filter(|(id, _)| !now.contains_key(id)).collect();
        demand(lost.is_empty(), || {
            format!("the reload of {app:?} has given way, and nobody serves {lost:?}")
        })
    }
}

impl Watch {
    /// The workers that there were after the last step, and those that may have come by themselves since.
    fn check_limits(&self, core: &Core, app: AppId, now: &Ready, (before, come): (usize, usize)) -> Verdict {
        let missing = self.served.iter().filter(|id| !now.contains_key(*id)).count();
        let (room, spare) = self.limits.unwrap_or((usize::MAX, 0));
        demand(missing <= spare, || {
            format!("{missing} of {app:?} were ready before the reload and are not now")
        })?;
        let workers = population(core, app);
        demand(workers <= room.max(before).saturating_add(come), || {
            format!("the reload of {app:?} has {workers} workers, and room for {room}; there were {before}")
        })
    }
}

/// The one that has this worker.
fn instance_of(ready: &Ready, worker: WorkerId) -> Option<InstanceId> {
    let mut had = ready.iter().filter(|(_, had)| **had == worker);
    had.next().map(|(instance, _)| *instance)
}

/// How many workers a reload may have, and how many ready ones it may do without.
fn limits(core: &Core, app: AppId) -> Option<(usize, usize)> {
    let view = core.app(app)?;
    let spare = view.config.max_unavailable;
    let with = |surge: u32| view.instances().len() + surge as usize;
    let surge = view.config.max_surge;
    let wanted = surge.map(|surge| with(if spare == 0 { surge.max(1) } else { surge }));
    let fitting = view.reload.and_then(|reload| reload.room);
    let fitting = fitting.map(|room| (room as usize).max(with(1)));
    let workers = [wanted, fitting].into_iter().flatten().min()?;
    Some((workers, spare as usize))
}

fn population(core: &Core, app: AppId) -> usize {
    let ours = |instance| core.instance(instance).is_some_and(|it| it.app == app);
    core.workers().filter(|worker| ours(worker.instance)).count()
}

/// A ready worker for each instance that has one: its own, or the one that stands by.
fn ready(core: &Core, app: AppId) -> Ready {
    let warm = core
        .leaving(app)
        .filter(|it| it.phase == LeavingPhase::Standby && core.worker(it.worker).is_some_and(|it| it.online))
        .map(|it| (it.instance, it.worker));
    let own = core
        .instances()
        .filter(|it| it.app == app)
        .filter_map(|it| match it.state {
            StateView::Online { worker, .. } => Some((it.id, worker)),
            StateView::Launching { .. }
            | StateView::Stopping { .. }
            | StateView::Stopped
            | StateView::WaitingRestart { .. }
            | StateView::Errored => None,
        });
    warm.chain(own).collect()
}

fn check_done(core: &Core, app: AppId, watch: &Watch) -> Verdict {
    for instance in core.instances().filter(|it| it.app == app) {
        let served = match instance.state {
            StateView::Online { .. } => instance.generation == watch.generation,
            StateView::Stopping { .. } | StateView::Stopped => true,
            // One that the reload's scaling has added.
            StateView::Launching { .. } => watch.scales && instance.generation == watch.generation,
            StateView::WaitingRestart { .. } | StateView::Errored => false,
        };
        demand(served, || {
            format!("the reload of {app:?} is said to be done: {instance:?}")
        })?;
    }
    Ok(())
}

fn check_undone(core: &Core, app: AppId, watch: &Watch) -> Verdict {
    for (&id, &old) in watch.ready.iter().filter(|_| !watch.returns) {
        let back = core
            .instance(id)
            .is_some_and(|it| matches!(it.state, StateView::Online { worker, .. } if worker == old));
        demand(back, || {
            format!("the reload of {app:?} is undone, and {old:?} does not serve {id:?} again")
        })?;
    }
    Ok(())
}

/// No app is left with half a generation.
fn check_uniform(core: &Core, app: AppId) -> Verdict {
    let generation = core.app(app).map(|view| view.generation);
    for instance in core.instances().filter(|it| it.app == app) {
        let runs = matches!(
            instance.state,
            StateView::Online { .. } | StateView::Launching { .. }
        );
        demand(!runs || Some(instance.generation) == generation, || {
            format!("{app:?} is in {generation:?}, and {instance:?}")
        })?;
    }
    Ok(())
}
