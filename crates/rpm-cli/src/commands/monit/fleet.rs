//! The apps and their instances as a tree: which rows there are, in which order, and which one is chosen.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use rpm_wire::api::{Other, Phase, Process, Status};

use super::summary::Summary;

/// The order of apps, and of the instances of each. Numbers: the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Id,
    Name,
    Cpu,
    Memory,
    Restarts,
    Uptime,
    Connections,
}

impl Sort {
    pub(super) const ALL: [Sort; 7] = [
        Sort::Id,
        Sort::Name,
        Sort::Cpu,
        Sort::Memory,
        Sort::Restarts,
        Sort::Uptime,
        Sort::Connections,
    ];

    pub(super) fn next(self) -> Sort {
        let place = Sort::ALL.iter().position(|sort| *sort == self);
        Sort::ALL[(place.unwrap_or(0) + 1) % Sort::ALL.len()]
    }

    /// Its word in commands.
    pub(super) fn word(self) -> &'static str {
        match self {
            Sort::Id => "id",
            Sort::Name => "name",
            Sort::Cpu => "cpu",
            Sort::Memory => "memory",
            Sort::Restarts => "restarts",
            Sort::Uptime => "uptime",
            Sort::Connections => "connections",
        }
    }

    /// The direction of the order.
    pub(super) fn arrow(self) -> char {
        match self {
            Sort::Id | Sort::Name => '▲',
            Sort::Cpu | Sort::Memory | Sort::Restarts | Sort::Uptime | Sort::Connections => '▼',
        }
    }

    fn compare(self, one: &Group, other: &Group) -> Ordering {
        let (a, b) = (&one.summary, &other.summary);
        match self {
            Sort::Id => Ordering::Equal,
            Sort::Name => one.name.cmp(&other.name),
            Sort::Cpu => b.cpu.total_cmp(&a.cpu),
            Sort::Memory => b.memory.cmp(&a.memory),
            Sort::Restarts => b.restarts.cmp(&a.restarts),
            Sort::Uptime => b.uptime_ms.cmp(&a.uptime_ms),
            Sort::Connections => b.connections.cmp(&a.connections),
        }
        .then(a.id.cmp(&b.id))
    }
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowId {
    App(String),
    Instance(u32),
    /// A process that comes or goes beside the instance's own.
    Other {
        instance: u32,
        pid: u32,
    },
}

/// A row of the tree. Numbers are places in [`Fleet::groups`] and [`Fleet::processes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    App {
        group: usize,
    },
    Instance {
        process: usize,
        last: bool,
    },
    Other {
        process: usize,
        other: usize,
        deep: Deep,
    },
}

/// Where a row of the last level stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deep {
    /// Below an instance, or directly below an app that has one only.
    pub(super) below_instance: bool,
    /// That instance is the last one of its app.
    pub(super) instance_last: bool,
    /// It is the last row of its instance.
    pub(super) last: bool,
}

/// An app.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    /// Places of its instances, in order.
    pub(super) members: Vec<usize>,
    pub(super) summary: Summary,
}

/// What is known of all apps, and how it is shown.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    pub(super) processes: Vec<Process>,
    /// Those that the filter lets pass, in order.
    pub(super) groups: Vec<Group>,
    pub(super) rows: Vec<Row>,
    /// What the rows are about.
    known: Vec<RowId>,
    expanded: BTreeSet<String>,
    chosen: Option<RowId>,
    /// The place of the chosen row.
    place: usize,
    /// Number of rows above the first one on the screen.
    pub(super) offset: usize,
    pub(super) sort: Sort,
    /// Part of a name; empty: all are shown.
    pub(super) filter: String,
}

impl Fleet {
    /// What the daemon knows.
    pub(super) fn update(&mut self, processes: Vec<Process>) {
        self.processes = processes;
        self.arrange();
    }

    /// Number of apps, shown or not.
    pub(super) fn apps(&self) -> usize {
        let names: BTreeSet<&str> = self
            .processes
            .iter()
            .map(|process| process.name.as_str())
            .collect();
        names.len()
    }

    /// Makes the rows. The choice stays on what it is about, and on its line of the screen. If that is gone, the choice goes to the next row that
    /// was below it and is still there, or else to the last one that was above it.
    pub(super) fn arrange(&mut self) {
        // The row at `place`, those below it, and then those above it.
        let (above, below) = self.known.split_at(self.place.min(self.known.len()));
        let below = below.iter().skip(1);
        let neighbours: Vec<RowId> = self
            .chosen
            .iter()
            .chain(below)
            .chain(above.iter().rev())
            .cloned()
            .collect();
        let before = self.place;
        self.groups = self.grouped();
        let sort = self.sort;
        self.groups.sort_by(|one, other| sort.compare(one, other));
        self.rows = self.tree();
        self.known = self.rows.iter().map(|row| self.id(*row)).collect();
        let place_of = |wanted: &RowId| self.known.iter().position(|id| id == wanted);
        let place = neighbours.iter().find_map(place_of);
        self.choose(place.unwrap_or(0));
        let line = before.saturating_sub(self.offset);
        self.offset = self.place.saturating_sub(line);
    }

    fn grouped(&self) -> Vec<Group> {
        let wanted = self.filter.to_lowercase();
        let mut groups: Vec<Group> = Vec::new();
        let mut places: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for (place, process) in self.processes.iter().enumerate() {
            if !process.name.to_lowercase().contains(&wanted) {
                continue;
            }
            let group = *places.entry(&process.name).or_insert_with(|| {
                groups.push(Group {
                    name: process.name.clone(),
                    members: Vec::new(),
                    summary: Summary::default(),
                });
                groups.len() - 1
            });
            groups[group].members.push(place);
        }
        for group in &mut groups {
            let members: Vec<&Process> = group
                .members
                .iter()
                .map(|&place| &self.processes[place])
                .collect();
            group.summary = Summary::of(&members);
            // A member is compared as an app of its own.
            let alone = |place: &usize| Group {
                name: String::new(),
                members: Vec::new(),
                summary: Summary::of(&[&self.processes[*place]]),
            };
            let sort = self.sort;
            group
                .members
                .sort_by(|one, other| sort.compare(&alone(one), &alone(other)));
        }
        groups
    }

    fn tree(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (place, group) in self.groups.iter().enumerate() {
            rows.push(Row::App { group: place });
            if !self.expanded.contains(&group.name) {
                continue;
            }
            for (index, &process) in group.members.iter().enumerate() {
                let last = index + 1 == group.members.len();
                let several = group.members.len() > 1;
                if several {
                    rows.push(Row::Instance { process, last });
                }
                let others = self.processes[process].others.len();
                rows.extend((0..others).map(|other| Row::Other {
                    process,
                    other,
                    deep: Deep {
                        below_instance: several,
                        instance_last: last,
                        last: other + 1 == others,
                    },
                }));
            }
        }
        rows
    }

    pub(super) fn id(&self, row: Row) -> RowId {
        match row {
            Row::App { group } => RowId::App(self.groups[group].name.clone()),
            Row::Instance { process, .. } => RowId::Instance(self.processes[process].id),
            Row::Other { process, other, .. } => RowId::Other {
                instance: self.processes[process].id,
                pid: self.processes[process].others[other].pid,
            },
        }
    }

    /// The place of the chosen row, if there is any.
    pub(super) fn place(&self) -> Option<usize> {
        (!self.rows.is_empty()).then_some(self.place)
    }

    pub(super) fn chosen(&self) -> Option<&RowId> {
        self.chosen.as_ref()
    }

    /// Chooses the row at this place, or the last one.
    pub(super) fn choose(&mut self, place: usize) {
        self.place = place.min(self.rows.len().saturating_sub(1));
        self.chosen = self.rows.get(self.place).map(|row| self.id(*row));
    }

    /// Chooses the app of this name, or else the instance of this id, as the daemon takes a word; whether it is there.
    pub(super) fn choose_named(&mut self, word: &str) -> bool {
        let is_named = |row: &Row| matches!(*row, Row::App { group } if self.groups[group].name == word);
        let has_id = |row: &Row| match *row {
            Row::App { group } => {
                let group = &self.groups[group];
                group.members.len() == 1 && group.summary.id.to_string() == word
            }
            Row::Instance { process, .. } => self.processes[process].id.to_string() == word,
            Row::Other { .. } => false,
        };
        let named = self.rows.iter().position(is_named);
        let is_app = self.processes.iter().any(|process| process.name == word);
        let place = named.or_else(|| self.rows.iter().position(has_id).filter(|_| !is_app));
        if let Some(place) = place {
            self.choose(place);
        }
        place.is_some()
    }

    pub(super) fn step(&mut self, by: isize) {
        self.choose(self.place.saturating_add_signed(by));
    }

    /// Moves the visible part so that the chosen row is in it.
    pub(super) fn scroll(&mut self, height: usize) {
        let most = self.rows.len().saturating_sub(height);
        let least = (self.place + 1).saturating_sub(height);
        self.offset = self.offset.min(self.place).max(least).min(most);
    }

    /// The app of the chosen row.
    pub(super) fn group(&self) -> Option<&Group> {
        let name = match self.chosen.as_ref()? {
            RowId::App(name) => name,
            RowId::Instance(id) | RowId::Other { instance: id, .. } => &self.process(*id)?.name,
        };
        self.groups.iter().find(|group| &group.name == name)
    }

    /// Whether the daemon takes the id of this instance for the name of an app or a namespace.
    pub(super) fn is_taken(&self, id: u32) -> bool {
        let word = id.to_string();
        let is_it = |process: &Process| process.name == word || process.namespace == word;
        self.processes.iter().any(is_it)
    }

    pub(super) fn process(&self, id: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.id == id)
    }

    /// The instance that the chosen row is about; `None` for an app of several.
    pub(super) fn instance(&self) -> Option<&Process> {
        match self.chosen.as_ref()? {
            RowId::Instance(id) | RowId::Other { instance: id, .. } => self.process(*id),
            RowId::App(_) => match self.group()?.members.as_slice() {
                [only] => Some(&self.processes[*only]),
                _ => None,
            },
        }
    }

    /// Whether the app of the chosen row shows what is below it.
    pub(super) fn is_expanded(&self, group: &Group) -> bool {
        self.expanded.contains(&group.name)
    }

    /// Shows or hides what is below the chosen app; `None`: the opposite of now.
    pub(super) fn expand(&mut self, wanted: Option<bool>) {
        let Some(group) = self.group() else { return };
        let name = group.name.clone();
        match wanted.unwrap_or(!self.expanded.contains(&name)) {
            true => drop(self.expanded.insert(name)),
            false => {
                self.expanded.remove(&name);
                self.chosen = Some(RowId::App(name));
            }
        }
        self.arrange();
    }

    /// Shows what is below every app, or hides it if all of it is shown.
    pub(super) fn expand_all(&mut self) {
        let all = self
            .groups
            .iter()
            .all(|group| self.expanded.contains(&group.name));
        match all {
            true => {
                self.chosen = self.group().map(|group| RowId::App(group.name.clone()));
                self.expanded.clear();
            }
            false => self
                .expanded
                .extend(self.groups.iter().map(|group| group.name.clone())),
        }
        self.arrange();
    }

    /// A process that comes or goes.
    pub(super) fn other(&self, process: usize, other: usize) -> &Other {
        &self.processes[process].others[other]
    }
}

/// Whether this process is the newer one of its instance.
pub(super) fn is_new(phase: Phase) -> bool {
    match phase {
        Phase::Launching => true,
        Phase::Standby | Phase::Draining | Phase::Stopping => false,
    }
}

/// How much this needs attention: the worst status of an app is its own.
pub(super) fn severity(status: Status) -> u8 {
    match status {
        Status::Online => 0,
        Status::Stopped => 1,
        Status::Launching => 2,
        Status::Stopping => 3,
        Status::WaitingRestart => 4,
        Status::Errored => 5,
    }
}

#[cfg(test)]
pub(super) mod tests;
