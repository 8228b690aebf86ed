//! `GET /v1/figures`: what `rpm observe` records of each app, every second. It costs a pass over what the daemon has in memory.

use std::collections::BTreeMap;

use rpm_agent::TIME_BOUNDS_MS;
use rpm_core::{AppId, InstanceView};
use rpm_wire::api::{Answered, AppFigures, Status};

use super::metrics::PROXY_BOUNDS_MS;
use super::views::status;
use crate::node::agents::Reported;
use crate::view::View;

impl View<'_> {
    /// Has Node measure itself for a while.
    pub(crate) fn measure(&self) {
        self.agents.measure();
    }

    /// The figures of all apps that are listed.
    pub(crate) fn figures(&self) -> Vec<AppFigures> {
        let mut apps: BTreeMap<AppId, AppFigures> = BTreeMap::new();
        for (app, _) in self.catalog().listed() {
            let name = self.catalog().label(app);
            apps.insert(
                app,
                AppFigures {
                    app: name,
                    ..AppFigures::default()
                },
            );
        }
        for view in self.core.instances() {
            if let Some(figures) = apps.get_mut(&view.app) {
                self.add_instance(&view, figures);
            }
        }
        for (app, figures) in &mut apps {
            let slots = self.listeners.groups(*app).flat_map(|group| group.slots);
            figures.queue = slots.map(|slot| slot.queue.len).reduce(u32::saturating_add);
            self.add_proxy(*app, figures);
        }
        apps.into_values().collect()
    }

    fn add_instance(&self, view: &InstanceView, figures: &mut AppFigures) {
        figures.online += u32::from(status(&view.state) == Status::Online);
        figures.restarts.insert(view.id.0, view.restarts);
        let Some(worker) = view.worker() else { return };
        figures.workers.push(worker.0);
        if let Some(process) = self.workers.get(&worker).and_then(|held| held.process()) {
            figures.cpu_percent += process.usage.cpu_percent;
            figures.memory_bytes += process.usage.rss_bytes;
        }
        if let Some(count) = self.sampling.connections_of(worker) {
            figures.connections = Some(figures.connections.unwrap_or(0).saturating_add(count));
        }
        // Totals that stand still because nothing is measured would read as an app without requests.
        let is_online = status(&view.state) == Status::Online;
        // One that is blocked answers nothing meanwhile, and its event loop is as late as its report at least.
        let is_known = |reported: &Reported| reported.fresh || (is_online && reported.silent.is_some());
        if let Some(reported) = self.agents.figures(worker).filter(is_known) {
            let node = &reported.figures;
            let late = reported.silent.map_or(0, |late| late.as_micros());
            let late = u64::try_from(late).unwrap_or(u64::MAX).max(node.delay_us[1]);
            figures.delay_us = figures.delay_us.max(Some(late));
            figures.bounds_ms = TIME_BOUNDS_MS.to_vec();
            let answered = Answered {
                classes: node.answers,
                times: node.times.to_vec(),
            };
            figures.answered.insert(worker.0, answered);
        }
    }

    /// Where there is a proxy, it counts what clients see, and Node's own counts are left out.
    fn add_proxy(&self, app: AppId, figures: &mut AppFigures) {
        let mut fronts = self.fronts.figures(app).peekable();
        if fronts.peek().is_none() {
            return;
        }
        let mut all = Answered {
            classes: [0; 5],
            times: vec![0; PROXY_BOUNDS_MS.len() + 1],
        };
        let mut connections = 0_u32;
        for front in fronts {
            connections = connections.saturating_add(front.connections);
            let ours = all.classes.iter_mut().chain(&mut all.times);
            for (sum, count) in ours.zip(front.answers.iter().chain(&front.times)) {
                *sum += count;
            }
        }
        figures.connections = Some(connections);
        figures.bounds_ms = PROXY_BOUNDS_MS.to_vec();
        figures.answered = BTreeMap::from([(0, all)]);
    }
}
