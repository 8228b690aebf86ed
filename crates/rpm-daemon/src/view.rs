//! What the daemon knows at one moment, to be shown: everything can be read here, and nothing changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rpm_core::{Core, Tick};
use rpm_listen::Listeners;

use crate::apps::app::Apps;
use crate::apps::catalog::Catalog;
use crate::events::Journal;
use crate::home::Home;
use crate::logs::Begin;
use crate::node::actions::Actions;
use crate::node::agents::Agents;
use crate::node::handoff::Handoffs;
use crate::proxy::fronts::Fronts;
use crate::sockets::interception::Interception;
use crate::workers::sampling::Sampling;
use crate::workers::worker::Workers;

/// All that is shown comes from here.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) core: &'a Core,
    pub(crate) apps: &'a Apps,
    pub(crate) workers: &'a Workers,
    pub(crate) listeners: &'a Listeners,
    pub(crate) sampling: &'a Sampling,
    pub(crate) handoffs: &'a Handoffs,
    pub(crate) fronts: &'a Fronts,
    pub(crate) agents: &'a Agents,
    pub(crate) actions: &'a Actions,
    pub(crate) interception: &'a Interception,
    pub(crate) home: &'a Home,
    pub(crate) log_starts: &'a BTreeMap<PathBuf, Begin>,
    pub(crate) journal: &'a Journal,
    /// Connections that were moved from a worker to another one.
    pub(crate) rescues: u64,
    pub(crate) now: Tick,
}

impl<'a> View<'a> {
    pub(crate) fn catalog(&self) -> Catalog<'a> {
        Catalog::new(self.core, self.apps)
    }
}
