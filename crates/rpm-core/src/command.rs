//! Users' commands, each with the ticket that it settles.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::apps::{App, Instance, State};
use crate::core::{Core, MAX_INSTANCES, Timer};
use crate::protocol::{AppConfig, Command, Failure, Notice, Output};
use crate::restart::AfterExit;
use crate::restart::Lifetime;
use crate::rollout::ReloadRequest;
use crate::tickets::{Goal, Reached, Scaling};
use crate::{AppId, InstanceId, Ticket};

/// How workers without a successor leave.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// They are terminated at once, and clients are refused.
    Terminate,
    /// They drain, and refuse new clients if no other worker of the app serves.
    DrainAndRefuseNew,
    /// They drain; others serve new clients.
    Drain,
}

/// What an app would lose with an instance, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Usefulness {
    AtRest,
    Failing,
    Starting,
    Serving,
}

fn leave(hard: bool) -> Leave {
    if hard {
        Leave::Terminate
    } else {
        Leave::DrainAndRefuseNew
    }
}

impl Core {
    pub(crate) fn command(&mut self, ticket: Ticket, command: Command) {
        if self.closing {
            return self.tickets.reject(ticket, Failure::Superseded);
        }
        match command {
            Command::Start { app, config } => self.start(ticket, app, config),
            Command::Stop { instances, hard } => self.apply_goal(ticket, &instances, Goal::Down, leave(hard)),
            Command::Restart { instances } => {
                self.apply_goal(ticket, &instances, Goal::Online, Leave::Terminate);
            }
            Command::Delete { instances, hard } => {
                self.apply_goal(ticket, &instances, Goal::Gone, leave(hard));
            }
            Command::Scale { app, count } => self.scale(ticket, app, count),
            Command::RestartAndScale { app, count } => self.restart_and_scale(ticket, app, count),
            Command::Configure { app, config } => self.configure(ticket, app, config),
            Command::Reload {
                app,
                config,
                yields,
                then_scale,
            } => {
                if then_scale.is_some() || (config.is_some() && !yields) {
                    self.tickets.supersede_scaling(app);
                }
                let request = ReloadRequest {
                    ticket,
                    config,
                    only: None,
                    yields,
                    then_scale,
                };
                self.request_reload(app, request);
            }
            Command::Replace { app, instances } => self.replace_some(ticket, app, instances),
            Command::Reset { instances } => self.reset(ticket, &instances),
            Command::Undo { app } => self.undo_by_command(ticket, app),
            Command::Shutdown => self.shutdown(ticket),
        }
    }

    fn start(&mut self, ticket: Ticket, id: AppId, config: AppConfig) {
        // The shell chooses new ids. A used one means that an earlier command created the app.
        if self.apps.contains(id) {
            return self.tickets.reject(ticket, Failure::Superseded);
        }
        let (count, stopped) = (config.instances.clamp(1, MAX_INSTANCES), config.stopped);
        self.apps.insert(id, App::new(config));
        let created = self.create(id, count);
        if stopped {
            return self.tickets.succeed(ticket, created, Vec::new());
        }
        let goals = created.into_iter().map(|instance| (instance, Goal::Online));
        self.apply_goals(ticket, goals.collect(), Leave::Terminate, None);
    }

    fn restart_and_scale(&mut self, ticket: Ticket, id: AppId, count: u32) {
        self.supersede_reload(id);
        self.tickets.supersede_scaling(id);
        let Some(app) = self.apps.get(id) else {
            return self.tickets.reject(ticket, Failure::NoSuchApp);
        };
        let goals = app.instances().iter().map(|&instance| (instance, Goal::Online));
        let then = Scaling { app: id, count };
        self.apply_goals(ticket, goals.collect(), Leave::Terminate, Some(then));
    }

    pub(crate) fn scale(&mut self, ticket: Ticket, id: AppId, count: u32) {
        self.supersede_reload(id);
        self.tickets.supersede_scaling(id);
        let Some(app) = self.apps.get(id) else {
            return self.tickets.reject(ticket, Failure::NoSuchApp);
        };
        let staying = |id: &&InstanceId| {
            let state = self.instances.state(**id);
            state.is_some_and(|state| !state.will_be_forgotten())
        };
        let mut present: Vec<InstanceId> = app.instances().iter().filter(staying).copied().collect();
        // Those that serve are kept.
        present.sort_by_key(|&id| (self.usefulness(id), id));
        let wanted = count.clamp(1, MAX_INSTANCES) as usize;
        let surplus = present.iter().take(present.len().saturating_sub(wanted));
        let mut goals: BTreeMap<_, _> = surplus.map(|&instance| (instance, Goal::Gone)).collect();
        let missing = wanted.saturating_sub(present.len());
        let created = self.create(id, u32::try_from(missing).unwrap_or(MAX_INSTANCES));
        goals.extend(created.into_iter().map(|instance| (instance, Goal::Online)));
        if present.len() != wanted {
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            self.note(Notice::Scaled {
                app: id,
                from: count(present.len()),
                to: count(wanted),
            });
        }
        self.apply_goals(ticket, goals, Leave::Drain, None);
    }

    fn usefulness(&self, id: InstanceId) -> Usefulness {
        match self.instances.state(id) {
            Some(State::Stopped | State::Errored) | None => Usefulness::AtRest,
            Some(State::Waiting { .. }) => Usefulness::Failing,
            Some(State::Stopping { .. } | State::Awaiting { .. }) => Usefulness::Starting,
            Some(State::Running { .. }) if self.is_served(id) => Usefulness::Serving,
            Some(State::Running { .. }) => Usefulness::Starting,
        }
    }

    fn configure(&mut self, ticket: Ticket, id: AppId, config: AppConfig) {
        self.supersede_reload(id);
        self.tickets.supersede_scaling(id);
        let Some(app) = self.apps.get_mut(id) else {
            return self.tickets.reject(ticket, Failure::NoSuchApp);
        };
        let (_, former) = app.renew(Arc::new(config));
        app.set_previous(former.revision);
        self.tickets.open(ticket, BTreeMap::new(), None);
    }

    fn reset(&mut self, ticket: Ticket, instances: &[InstanceId]) {
        let mut known = instances.to_vec();
        known.retain(|id| match self.instances.get_mut(*id) {
            Some(instance) => {
                instance.record_mut().reset();
                true
            }
            None => false,
        });
        self.tickets.succeed(ticket, known, Vec::new());
    }

    fn shutdown(&mut self, ticket: Ticket) {
        self.closing = true;
        let all: Vec<InstanceId> = self.instances.iter().map(|(id, _)| id).collect();
        self.apply_goal(ticket, &all, Goal::Gone, Leave::Terminate);
    }

    /// Applies one goal to each of these instances that exists.
    fn apply_goal(&mut self, ticket: Ticket, instances: &[InstanceId], goal: Goal, leave: Leave) {
        let apps = instances.iter().filter_map(|id| self.instances.app_of(*id));
        for app in apps.collect::<BTreeSet<_>>() {
            self.supersede_reload(app);
        }
        let known = instances.iter().filter(|id| self.instances.contains(**id));
        let goals = known.map(|&id| (id, goal)).collect();
        self.apply_goals(ticket, goals, leave, None);
    }

    /// The ticket is opened first, because some goals are met at once.
    fn apply_goals(
        &mut self,
        ticket: Ticket,
        goals: BTreeMap<InstanceId, Goal>,
        leave: Leave,
        then: Option<Scaling>,
    ) {
        self.tickets.open(ticket, goals.clone(), then);
        let served: BTreeSet<AppId> = self.served_without(&goals);
        for (instance, goal) in goals {
            let app = self.instances.app_of(instance);
            let refuse = !app.is_some_and(|app| served.contains(&app));
            match (goal, leave) {
                (Goal::Online, _) => self.start_instance(instance),
                (Goal::Down, Leave::Terminate) => self.terminate_all(instance, AfterExit::Stopped),
                (Goal::Gone, Leave::Terminate) => self.terminate_all(instance, AfterExit::Forgotten),
                (Goal::Down, Leave::DrainAndRefuseNew) => {
                    self.drain_all(instance, AfterExit::Stopped, refuse);
                }
                (Goal::Gone, Leave::DrainAndRefuseNew) => {
                    self.drain_all(instance, AfterExit::Forgotten, refuse);
                }
                (Goal::Down | Goal::Gone, Leave::Drain) => self.drain_own(instance, AfterExit::Forgotten),
            }
        }
    }

    /// The apps of which instances other than these are online.
    fn served_without(&self, goals: &BTreeMap<InstanceId, Goal>) -> BTreeSet<AppId> {
        let others = self.instances.iter().filter(|(id, _)| !goals.contains_key(id));
        let online = others.filter(|(id, _)| self.is_served(*id));
        online.map(|(_, instance)| instance.app()).collect()
    }

    /// Adds stopped instances to an app.
    fn create(&mut self, id: AppId, count: u32) -> Vec<InstanceId> {
        let Some(app) = self.apps.get_mut(id) else {
            return Vec::new();
        };
        let mut created = Vec::new();
        for number in app.free_numbers(count) {
            let instance = match id.is_hidden() {
                true => self.instances.next_hidden(),
                false => {
                    let next = InstanceId(self.next_instance);
                    self.next_instance = self.next_instance.saturating_add(1);
                    next
                }
            };
            app.add_instance(instance, number);
            self.instances
                .insert(instance, Instance::new(id, number, app.generation()));
            created.push(instance);
        }
        created
    }

    /// Starts an instance.
    fn start_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.record_mut().forgive();
        match instance.state() {
            State::Running { worker } => {
                let life = self.workers.get(worker).map(|worker| worker.lifetime(self.now));
                if let Some(Lifetime::Ready { .. }) = life {
                    instance.record_mut().count_restart();
                }
                self.terminate_running(id, worker, AfterExit::Restart);
            }
            // Nothing is inherited from a leaving worker, so its successor need not wait for its end.
            State::Stopping { worker, .. } if instance.leaving().contains(&worker) => self.spawn(id),
            State::Stopping { worker, .. } => {
                let then = AfterExit::Restart;
                self.enter_instance(id, State::Stopping { worker, then });
            }
            State::Waiting { .. } | State::Stopped | State::Errored | State::Awaiting { .. } => {
                self.spawn(id);
            }
        }
    }

    /// Stops an instance: it has no worker and gets none.
    pub(crate) fn stop_instance(&mut self, id: InstanceId, then: AfterExit) {
        self.steering.close_own_slots(id);
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let last = instance.leaving().first().copied();
        let state = match (then, last) {
            (AfterExit::Errored, _) => State::Errored,
            // Its leaving workers are not gone yet.
            (_, Some(worker)) => State::Stopping { worker, then },
            (AfterExit::Forgotten, None) => return self.forget_instance(id),
            (AfterExit::Stopped | AfterExit::Restart | AfterExit::Retry { .. }, None) => State::Stopped,
        };
        self.enter_instance(id, state);
        if last.is_none() {
            self.tickets.reached(id, Reached::Down);
        }
    }

    fn forget_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.remove(id) else {
            return;
        };
        self.timers.clear(Timer::Respawn(id));
        let of = instance.app();
        self.note(Notice::Deleted {
            instance: id,
            app: of,
        });
        if let Some(app) = self.apps.get_mut(of)
            && app.remove_instance(id, instance.number())
        {
            self.apps.remove(of);
            self.staged.push(Output::AppGone { app: of });
        }
        if self.instances.only_hidden() {
            self.next_instance = 0;
        }
        self.tickets.reached(id, Reached::Gone);
    }
}
