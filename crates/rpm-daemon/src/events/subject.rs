//! To whom something happened.

use std::collections::BTreeMap;

use rpm_core::{AppId, Core, Generation, InstanceId, SlotId, WorkerId};
use rpm_listen::Listeners;
use rpm_wire::events::Subject;

use super::Known;
use crate::apps::app::Apps;
use crate::apps::catalog::Catalog;
use crate::workers::worker::Workers;

/// To whom, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// An app, and the generation that it is about.
    App(AppId, Option<Generation>),
    /// An instance.
    Instance(AppId, InstanceId),
    /// A worker.
    Worker(WorkerId),
}

/// What the names and numbers of an event come from.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) core: &'a Core,
    pub(crate) apps: &'a Apps,
    pub(crate) workers: &'a Workers,
    pub(crate) listeners: &'a Listeners,
}

impl Facts<'_> {
    pub(super) fn subject(&self, of: Of, known: &BTreeMap<WorkerId, Known>) -> Subject {
        match of {
            Of::App(app, generation) => Subject {
                generation: generation.map(|generation| generation.0),
                ..self.of_app(app)
            },
            Of::Instance(app, instance) => {
                let view = self.core.instance(instance);
                let worker = view.and_then(|view| view.worker());
                let known = worker.and_then(|worker| known.get(&worker));
                Subject {
                    id: Some(instance.0),
                    worker: known.and(worker).map(|worker| worker.0),
                    pid: known.map(|known| known.pid),
                    generation: known.map(|known| known.generation),
                    ..self.of_app(app)
                }
            }
            Of::Worker(worker) => self.of_worker(worker, known.get(&worker)),
        }
    }

    fn of_worker(&self, worker: WorkerId, known: Option<&Known>) -> Subject {
        if let Some(known) = known {
            return Subject {
                id: Some(known.instance.0),
                worker: Some(worker.0),
                pid: Some(known.pid),
                generation: Some(known.generation),
                ..self.of_app(known.app)
            };
        }
        // It never had a process.
        let held = self.workers.get(&worker);
        Subject {
            id: held.map(|held| held.instance.0),
            worker: Some(worker.0),
            ..held.map(|held| self.of_app(held.app)).unwrap_or_default()
        }
    }

    fn of_app(&self, app: AppId) -> Subject {
        let spec = Catalog::new(self.core, self.apps).present_spec(app);
        Subject {
            app: self.apps.get(&app).map(|app| app.name.clone()),
            namespace: spec.map(|spec| spec.namespace.clone()),
            ..Subject::default()
        }
    }

    /// Whose slot it is: the worker's that has it, or else the app's.
    pub(super) fn of_slot(&self, slot: SlotId) -> Option<Of> {
        let app = || self.listeners.key_of(slot).map(|(app, _)| Of::App(app, None));
        self.listeners.holder(slot).map(Of::Worker).or_else(app)
    }
}
