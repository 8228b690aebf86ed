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

    /// Makes the rows. The choice stays on what it is about; if that is gone, it stays at its place.
    pub(super) fn arrange(&mut self) {
        self.groups = self.grouped();
        let sort = self.sort;
        self.groups.sort_by(|one, other| sort.compare(one, other));
        self.rows = self.tree();
        let place = self
            .rows
            .iter()
            .position(|row| Some(self.id(*row)) == self.chosen);
        self.choose(place.unwrap_or(self.place));
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

    /// Chooses the app of this name, or the instance of this id; whether it is there.
    pub(super) fn choose_named(&mut self, word: &str) -> bool {
        let is_meant = |row: &Row| match *row {
            Row::App { group } => {
                let group = &self.groups[group];
                group.name == word || group.members.len() == 1 && group.summary.id.to_string() == word
            }
            Row::Instance { process, .. } => self.processes[process].id.to_string() == word,
            Row::Other { .. } => false,
        };
        let place = self.rows.iter().position(is_meant);
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
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in super::super) fn process(
        id: u32,
        name: &str,
        (cpu, memory, restarts): (f64, u64, u32),
    ) -> Process {
        serde_json::from_value(json!({
            "id": id, "name": name, "instance": id, "generation": 1, "exec_mode": "cluster", "plane": "direct",
            "status": "online", "pid": 100 + id, "uptime_ms": 65_000, "started_at_ms": 0, "created_at_ms": 0,
            "restarts": restarts, "unstable_restarts": 0, "cpu_percent": cpu, "memory_bytes": memory,
            "connections": null, "exit_code": null, "out_log": "", "err_log": ""
        }))
        .expect("a process")
    }

    /// One app of three instances, and two of one.
    pub(in super::super) fn some() -> Vec<Process> {
        vec![
            process(0, "web", (1.0, 30 << 20, 0)),
            process(1, "web", (4.0, 10 << 20, 1)),
            process(2, "web", (2.0, 20 << 20, 0)),
            process(3, "Api", (5.0, 10 << 20, 0)),
            process(7, "api-jobs", (2.0, 20 << 20, 5)),
        ]
    }

    pub(in super::super) fn reloading() -> Vec<Process> {
        let mut processes = some();
        let others = json!([{"pid": 900, "generation": 2, "phase": "launching", "connections": null, "left_ms": 29_000}]);
        processes[0].others = serde_json::from_value(others).expect("others");
        processes[1].generation = 2;
        let others =
            json!([{"pid": 901, "generation": 1, "phase": "draining", "connections": 3, "left_ms": 12_000}]);
        processes[1].others = serde_json::from_value(others).expect("others");
        processes
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        fleet.update(some());
        fleet
    }

    /// The rows, each as a word.
    fn shown(fleet: &Fleet) -> String {
        let words = fleet.rows.iter().map(|row| match fleet.id(*row) {
            RowId::App(name) => name,
            RowId::Instance(id) => format!("#{id}"),
            RowId::Other { pid, .. } => format!("+{pid}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_app_opens_to_its_instances_and_those_to_what_comes_and_goes() {
        let mut fleet = fleet();
        assert_eq!(shown(&fleet), "web Api api-jobs");
        fleet.expand(None);
        assert_eq!(shown(&fleet), "web #0 #1 #2 Api api-jobs");
        fleet.update(reloading());
        assert_eq!(shown(&fleet), "web #0 +900 #1 +901 #2 Api api-jobs");
        fleet.step(2);
        assert_eq!(
            fleet.chosen(),
            Some(&RowId::Other {
                instance: 0,
                pid: 900
            })
        );
        assert_eq!(fleet.instance().map(|process| process.id), Some(0));
        fleet.expand(Some(false));
        assert_eq!(
            (shown(&fleet).as_str(), fleet.place()),
            ("web Api api-jobs", Some(0))
        );
        fleet.expand_all();
        assert_eq!(shown(&fleet), "web #0 +900 #1 +901 #2 Api api-jobs");
        fleet.expand_all();
        assert_eq!(shown(&fleet), "web Api api-jobs");
    }

    #[test]
    fn each_order_keeps_the_choice() {
        let mut fleet = fleet();
        fleet.expand_all();
        fleet.choose_named("7");
        let orders = [
            (Sort::Name, "Api api-jobs web #0 #1 #2"),
            (Sort::Cpu, "web #1 #2 #0 Api api-jobs"),
            (Sort::Memory, "web #0 #2 #1 api-jobs Api"),
            (Sort::Restarts, "api-jobs web #1 #0 #2 Api"),
            (Sort::Uptime, "web #0 #1 #2 Api api-jobs"),
            (Sort::Connections, "web #0 #1 #2 Api api-jobs"),
            (Sort::Id, "web #0 #1 #2 Api api-jobs"),
        ];
        for (sort, rows) in orders {
            fleet.sort = fleet.sort.next();
            fleet.arrange();
            assert_eq!((fleet.sort, shown(&fleet).as_str()), (sort, rows));
            assert_eq!(fleet.chosen(), Some(&RowId::App("api-jobs".to_owned())));
        }
    }

    #[test]
    fn the_choice_stays_on_its_row() {
        let mut fleet = fleet();
        fleet.expand(None);
        fleet.choose(4);
        assert_eq!(fleet.chosen(), Some(&RowId::App("Api".to_owned())));
        fleet.update(some().split_off(1));
        assert_eq!(fleet.place(), Some(3));
        let mut others = some();
        others.remove(3);
        fleet.update(others);
        assert_eq!(fleet.place(), Some(3), "the one at its place");
        fleet.update(Vec::new());
        assert_eq!((fleet.chosen(), fleet.place()), (None, None));
        fleet.step(1);
        fleet.expand(None);
        assert!(fleet.group().is_none());
    }

    #[test]
    fn a_filter_ignores_case() {
        let mut fleet = fleet();
        fleet.filter = "API".to_owned();
        fleet.arrange();
        assert_eq!((shown(&fleet).as_str(), fleet.apps()), ("Api api-jobs", 3));
    }

    #[test]
    fn the_chosen_row_is_on_the_screen() {
        let mut fleet = fleet();
        fleet.expand_all();
        for (place, offset) in [(5, 3), (4, 3), (2, 2), (0, 0), (9, 3)] {
            fleet.choose(place);
            fleet.scroll(3);
            assert_eq!(fleet.offset, offset, "{place}");
        }
        fleet.scroll(20);
        assert_eq!(fleet.offset, 0);
    }
}
