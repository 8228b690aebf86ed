//! What apps shall be, and the way from what they are: new ones are started, and those that differ are replaced, losing nothing.

use rpm_core::protocol::Command;
use rpm_core::{AppId, InstanceId, Revision, StateView};
use rpm_wire::api::{ApiError, AppSpec, ApplyMode, ApplyRequest};
use rpm_wire::shell::word;

use crate::apps::app;
use crate::apps::delivery::Delivery;
use crate::apps::plan::differences;
use crate::failure::failure;
use crate::orders::check::{faults, in_a_line};
use crate::orders::reload::Manner;
use crate::orders::targets::settled;
use crate::orders::{Accepted, Orders};

/// How apps that are there already are brought to what they are to be.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) mode: ApplyMode,
    /// Without new workers beside the old ones.
    pub(super) hard: bool,
}

impl Orders<'_> {
    /// Brings the apps to the wanted state. What is wrong with any of them is found before the first is changed, as far as it can be; what was
    /// begun before one that fails goes on, and is in `accepted`.
    pub(crate) fn apply(
        &mut self,
        request: ApplyRequest,
        accepted: &mut Vec<Accepted>,
    ) -> Result<(), ApiError> {
        let found: Vec<String> = request
            .apps
            .iter()
            .flat_map(faults)
            .map(|error| in_a_line(&error))
            .collect();
        if !found.is_empty() {
            return Err(failure(found.join("; "), Some("nothing was changed")));
        }
        self.check_names(&request)?;
        let (mode, hard) = (request.mode, request.hard);
        let way = Way { mode, hard };
        for spec in request.apps {
            let before = request.renamed.get(&spec.name).unwrap_or(&spec.name);
            match self.catalog().find_app(before) {
                None => {
                    let rests = !spec.autostart || request.stopped.contains(&spec.name);
                    let some = request.stopped_instances.get(&spec.name).filter(|_| !rests);
                    accepted.push(match some {
                        Some(stopped) if !stopped.is_empty() => self.add_partly(spec, stopped)?,
                        _ => self.add(spec, rests)?,
                    });
                }
                Some(app) if request.mode == ApplyMode::Absent => {
                    let ids = self.catalog().instances_of(app);
                    accepted.push(settled(ids, vec![format!("{} is there already", spec.name)]));
                }
                Some(app) => {
                    let name = spec.name.clone();
                    accepted.extend(self.bring_to(app, spec, way)?);
                    if let Some(app) = self.apps.get_mut(&app) {
                        app.unwatched ^= request.toggle_watch.contains(&name);
                        app.name = name;
                    }
                }
            }
        }
        self.apps_have_changed();
        Ok(())
    }

    /// Starts an app but for these of its instances, counted from 0, which are only put in the list.
    fn add_partly(&mut self, spec: AppSpec, stopped: &[u32]) -> Result<Accepted, ApiError> {
        let Accepted { instances, notes, .. } = self.add(spec, true)?;
        let (_, started): (Vec<_>, Vec<_>) = (0..)
            .zip(&instances)
            .partition(|(place, _)| stopped.contains(place));
        let started: Vec<InstanceId> = started.into_iter().map(|(_, id)| *id).collect();
        if started.is_empty() {
            return Ok(settled(instances, notes));
        }
        let app = self.core.instance(started[0]).map(|view| view.app);
        if let Some(app) = app.and_then(|app| self.apps.get_mut(&app)) {
            app.rests = false;
        }
        let Accepted { outcome, .. } = self.obey(started, |instances| Command::Restart { instances });
        Ok(Accepted {
            outcome,
            instances,
            notes,
            whole: None,
        })
    }

    /// Is the new name of each app that gets one free, and the app there?
    fn check_names(&self, request: &ApplyRequest) -> Result<(), ApiError> {
        for (new, old) in &request.renamed {
            if self.catalog().find_app(old).is_none() {
                return Err(failure(
                    format!("no app {old:?} to rename"),
                    Some("nothing was changed"),
                ));
            }
            if new != old && self.catalog().find_app(new).is_some() {
                return Err(failure(
                    format!("an app named {new:?} exists already"),
                    Some("choose another name; nothing was changed"),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn bring_to(
        &mut self,
        app: AppId,
        spec: AppSpec,
        way: Way,
    ) -> Result<Option<Accepted>, ApiError> {
        let watches = spec.watch.is_some()
            && self
                .catalog()
                .given(app)
                .is_some_and(|given| given.watch.is_none());
        let changed = self
            .catalog()
            .given(app)
            .is_none_or(|given| !differences(given, &spec).is_empty());
        if let Some(app) = self.apps.get_mut(&app) {
            app.rests = false;
            app.unwatched &= !watches;
        }
        let ids = self.catalog().staying(app);
        let online = |id: &InstanceId| {
            let view = self.core.instance(*id);
            view.is_some_and(|view| matches!(view.state, StateView::Online { .. }))
        };
        if way.mode == ApplyMode::Changed && !changed && ids.iter().all(online) {
            let notes = vec![format!("{} is as it shall be", spec.name)];
            return Ok(Some(settled(ids, notes)));
        }
        let (serves, wanted) = (
            ids.iter().any(online),
            app::instances(spec.instances, app::cpus()),
        );
        let then_scale = (u32::try_from(ids.len()) != Ok(wanted)).then_some(wanted);
        let delivery = Delivery::of(&spec);
        let was = self.catalog().present(app);
        let moves = was.is_some_and(|was| !was.delivery().has_source_of(delivery));
        self.stays_where_it_is(app, &spec, delivery)?;
        let revision = self.revise(app, spec)?;
        let mut accepted = if serves
            && !way.hard
            && !(way.mode == ApplyMode::Restart && delivery.is_single() && !self.has_slots(app))
        {
            let manner = Manner {
                moves,
                then_scale,
                ..Manner::default()
            };
            self.replace(app, revision, manner)?
        } else {
            self.configure(app, revision)?;
            self.restart_all(app, then_scale)
        };
        if let Some(wanted) = then_scale {
            let (name, now) = (self.catalog().label(app), ids.len());
            let notes = &mut accepted.notes;
            notes.push(format!("{name}: from {now} to {wanted} instances"));
            accepted.whole = Some(app);
        }
        Ok(Some(accepted))
    }

    /// Not everything is exchanged by one reload: connections that are handed over come by other sockets, and a proxy for workers that also
    /// come by their ports in another way would have the address beside them.
    fn stays_where_it_is(&self, id: AppId, spec: &AppSpec, new: Delivery) -> Result<(), ApiError> {
        let serves = self.has_slots(id);
        let present = self.catalog().present(id).filter(|_| serves);
        let Some(present) = present else { return Ok(()) };
        let old = present.delivery();
        let balance_alone = new.has_source_of(old);
        let moved = match balance_alone {
            true => old.is_handed() != new.is_handed(),
            false => old.is_fronted() != new.is_fronted() || old.is_handed() != new.is_handed(),
        };
        if !moved {
            return Ok(());
        }
        let name = &spec.name;
        Err(failure(
            format!(
                "{name} cannot change to `balance: {}` while it serves; it keeps running as it is",
                spec.balance
            ),
            Some(&match balance_alone {
                true => format!(
                    "`rpm delete {}` and start it again: clients are refused in between",
                    word(name)
                ),
                false => "use two reloads: change exec_mode and instances first, then balance".to_owned(),
            }),
        ))
    }

    /// A revision of this specification.
    fn revise(&mut self, id: AppId, spec: AppSpec) -> Result<Revision, ApiError> {
        let name = self.catalog().label(id);
        let view = self.core.app(id);
        let keep: Vec<Revision> = view
            .map(|view| {
                [
                    Some(view.config.revision),
                    view.reload.map(|reload| reload.former),
                    view.previous,
                ]
            })
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let app = self.apps.get_mut(&id);
        let app = app.ok_or_else(|| failure(format!("{name} is being deleted"), None))?;
        app.revisions.put(spec, &keep).map_err(|gone| {
            failure(
                format!("cannot restart {name}: {gone}"),
                Some("nothing was changed"),
            )
        })
    }
}
