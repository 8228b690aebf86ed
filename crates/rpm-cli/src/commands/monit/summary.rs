//! The figures of an app as those of its instances.

use rpm_wire::api::{Process, Status};

use super::fleet::{is_new, severity};

/// What several instances are together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Summary {
    /// The lowest id.
    pub(super) id: u32,
    /// The status that needs the most attention.
    pub(super) status: Option<Status>,
    pub(super) online: usize,
    pub(super) count: usize,
    /// Percent of one CPU.
    pub(super) cpu: f64,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) restarts: u32,
    /// Of the process that runs for the longest time.
    pub(super) uptime_ms: Option<u64>,
    pub(super) connections: Option<u32>,
    pub(super) generation: u32,
    pub(super) reload: Option<Reload>,
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reload {
    /// Instances that the new generation serves.
    pub(super) done: usize,
    pub(super) of: usize,
    /// Old workers that still finish what they have begun.
    pub(super) leaving: usize,
}

impl Summary {
    pub(super) fn of(members: &[&Process]) -> Summary {
        let status = members
            .iter()
            .map(|process| process.status)
            .max_by_key(|status| severity(*status));
        let connections = members.iter().filter_map(|process| process.connections);
        Summary {
            id: members.iter().map(|process| process.id).min().unwrap_or(0),
            status,
            online: members
                .iter()
                .filter(|process| process.status == Status::Online)
                .count(),
            count: members.len(),
            cpu: members.iter().map(|process| process.cpu_percent).sum(),
            memory: members.iter().map(|process| process.memory_bytes).sum(),
            restarts: members.iter().map(|process| process.restarts).sum(),
            uptime_ms: members
                .iter()
                .filter(|process| process.pid.is_some())
                .filter_map(|process| process.uptime_ms)
                .max(),
            connections: connections.reduce(u32::saturating_add),
            generation: members
                .iter()
                .map(|process| process.generation)
                .max()
                .unwrap_or(0),
            reload: Reload::of(members),
        }
    }

    /// Whether any process of it runs.
    pub(super) fn runs(&self) -> bool {
        self.uptime_ms.is_some()
    }
}

impl Reload {
    /// `None`: no process comes or goes beside those of the instances.
    fn of(members: &[&Process]) -> Option<Reload> {
        let others = || members.iter().flat_map(|process| &process.others);
        others().next()?;
        let own = members.iter().map(|process| process.generation);
        let newest = own.chain(others().map(|other| other.generation)).max()?;
        let launching = |process: &&&Process| {
            let others = &process.others;
            others.iter().any(|other| is_new(other.phase))
        };
        let done = members
            .iter()
            .filter(|process| process.generation == newest && !launching(process))
            .count();
        let leaving = others().filter(|other| !is_new(other.phase)).count();
        Some(Reload {
            done,
            of: members.len(),
            leaving,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::tests::{reloading, some};
    use super::*;

    fn of(processes: &[Process]) -> Summary {
        let web: Vec<&Process> = processes.iter().filter(|process| process.name == "web").collect();
        Summary::of(&web)
    }

    #[test]
    fn an_app_is_the_sum_of_its_instances_and_as_well_as_the_worst() {
        let mut processes = some();
        processes[2].status = Status::Errored;
        processes[2].pid = None;
        processes[1].connections = Some(4);
        let summary = of(&processes);
        assert_eq!((summary.online, summary.count), (2, 3));
        assert_eq!(summary.status, Some(Status::Errored));
        assert_eq!(
            (summary.cpu, summary.memory, summary.restarts),
            (7.0, 60 << 20, 1)
        );
        assert_eq!((summary.connections, summary.runs()), (Some(4), true));
        assert_eq!(summary.reload, None);
    }

    #[test]
    fn a_reload_shows_how_far_it_is() {
        let reload = of(&reloading()).reload;
        let (done, of, leaving) = (1, 3, 1);
        assert_eq!(reload, Some(Reload { done, of, leaving }));
    }
}
