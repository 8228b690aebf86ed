//! The second half of a command ([`Command::RestartAndScale`]): whatever becomes of the shell, it follows the first.

use std::collections::{BTreeMap, BTreeSet};

use rpm_core::protocol::{Command, Notice, Outcome};
use rpm_core::{AppId, Core, EndsFor, InstanceId, InstanceView, StateView, Ticket, WorkerId};

use super::world::{Process, Verdict, demand};

/// Apps that must end with a certain number of instances, because nothing else was asked for since, and nothing has failed.
#[derive(Default)]
pub(crate) struct Scalings {
    wanted: BTreeMap<AppId, Wanted>,
    /// How often a number has followed a restart.
    pub(crate) followed: u64,
    /// How often after the death of the shell that was asked for it.
    pub(crate) survived: u64,
}

struct Wanted {
    count: usize,
    /// `None`: the shell that knew who waits for it is dead.
    ticket: Option<Ticket>,
}

impl Scalings {
    /// This command is given now.
    pub(crate) fn commanded(&mut self, ticket: Ticket, command: &Command, core: &Core) {
        match command {
            &Command::RestartAndScale { app, count } if core.app(app).is_some() => {
                let count = count.max(1) as usize;
                let ticket = Some(ticket);
                self.wanted.insert(app, Wanted { count, ticket });
            }
            Command::Scale { app, .. } | Command::Configure { app, .. } => drop(self.wanted.remove(app)),
            Command::Reload {
                app,
                config,
                yields,
                then_scale,
            } => {
                if then_scale.is_some() || (config.is_some() && !yields) {
                    self.wanted.remove(app);
                }
            }
            Command::Stop { instances, .. } | Command::Delete { instances, .. } => {
                let apps = instances.iter().filter_map(|id| Some(core.instance(*id)?.app));
                for app in apps.collect::<BTreeSet<_>>() {
                    self.wanted.remove(&app);
                }
            }
            // One that is being deleted stays if it is restarted.
            Command::Restart { instances } => {
                let ends = |view: &InstanceView| view.ends_for == Some(EndsFor::Delete);
                let views = instances.iter().filter_map(|id| core.instance(*id));
                for view in views.filter(ends) {
                    self.wanted.remove(&view.app);
                }
            }
            Command::Shutdown => self.wanted.clear(),
            Command::RestartAndScale { .. }
            | Command::Start { .. }
            | Command::Replace { .. }
            | Command::Reset { .. }
            | Command::Undo { .. } => {}
        }
    }

    /// A command is settled.
    pub(crate) fn settled(&mut self, ticket: Ticket, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failed { .. }) {
            self.wanted.retain(|_, wanted| wanted.ticket != Some(ticket));
        }
    }

    /// The command of a dead shell is settled. It may fail because an instance comes to rest, and for no worker alone.
    pub(crate) fn settled_for_nobody(&mut self, outcome: &Outcome, core: &Core) {
        if let Outcome::Failed {
            instance: Some(id), ..
        } = outcome
            && let Some(view) = core.instance(*id)
            && comes_to_rest(&view)
        {
            self.wanted.remove(&view.app);
        }
    }

    pub(crate) fn note(&mut self, notice: Notice, processes: &BTreeMap<WorkerId, Process>, core: &Core) {
        match notice {
            Notice::Scaled { app, to, .. } => {
                let wanted = self.wanted.get(&app).filter(|it| it.count == to as usize);
                self.followed += u64::from(wanted.is_some());
                self.survived += u64::from(wanted.is_some_and(|it| it.ticket.is_none()));
            }
            // An instance that comes to rest does not get ready any more.
            Notice::Crashed {
                worker,
                retry_in: None,
                ..
            } => {
                let instance: Option<InstanceId> = processes.get(&worker).map(|process| process.instance);
                if let Some(view) = instance.and_then(|id| core.instance(id)) {
                    self.wanted.remove(&view.app);
                }
            }
            Notice::Online { .. }
            | Notice::Crashed { .. }
            | Notice::Stalled { .. }
            | Notice::Recovered { .. }
            | Notice::CandidateReady { .. }
            | Notice::Draining { .. }
            | Notice::ReloadBegun { .. }
            | Notice::ReloadDone { .. }
            | Notice::ReloadUndone { .. }
            | Notice::Deleted { .. } => {}
        }
    }

    /// The shell has died.
    pub(crate) fn fall(&mut self) {
        for wanted in self.wanted.values_mut() {
            wanted.ticket = None;
        }
    }

    /// Nothing is on its way any more.
    pub(crate) fn check(&self, core: &Core) -> Verdict {
        for (&app, wanted) in &self.wanted {
            let count = core.instances().filter(|it| it.app == app).count();
            demand(count == wanted.count, || {
                format!("{app:?} has {count} instances, and was to have {}", wanted.count)
            })?;
        }
        Ok(())
    }
}

/// By command, or because its last try has failed: that is told of when the process has ended, unless somebody restarts the instance before.
fn comes_to_rest(view: &InstanceView) -> bool {
    let rests = matches!(view.state, StateView::Stopped | StateView::Errored);
    rests
        || matches!(
            view.ends_for,
            Some(EndsFor::Stop | EndsFor::Failure { is_last: true })
        )
}
