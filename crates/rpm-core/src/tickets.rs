//! Tickets: which commands wait for which instances to reach which goal. Every ticket settles exactly once.
//!
//! A command may have a second half, the scaling of its app. That outlives the shell: the next one restores what the first half still waits
//! for, with a ticket that no command waits for.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::protocol::{Failure, Outcome, Output};
use crate::{AppId, InstanceId, Ticket, WorkerId};

/// The ticket of what no command waits for.
pub(crate) const NO_REQUESTER: Ticket = Ticket(u64::MAX);

/// The second half of a command: an app gets another number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scaling {
    pub(crate) app: AppId,
    pub(crate) count: u32,
}

/// What a command wants of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// One of its workers becomes ready from now on.
    Online,
    /// Its process tree is gone.
    Down,
    /// It is forgotten.
    Gone,
}

impl Goal {
    /// True if this goal can still be met when a later command wants `newer`.
    fn survives(self, newer: Goal) -> bool {
        match (self, newer) {
            (Goal::Online, Goal::Online)
            | (Goal::Down, Goal::Down | Goal::Gone)
            | (Goal::Gone, Goal::Gone) => true,
            (Goal::Online, Goal::Down | Goal::Gone)
            | (Goal::Down, Goal::Online)
            | (Goal::Gone, Goal::Online | Goal::Down) => false,
        }
    }
}

/// What an instance has reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reached {
    Online { silent: bool },
    Down,
    Gone,
}

impl Reached {
    fn meets(self, goal: Goal) -> bool {
        match (self, goal) {
            (Reached::Online { .. }, Goal::Online)
            | (Reached::Down | Reached::Gone, Goal::Down)
            | (Reached::Gone, Goal::Gone) => true,
            (Reached::Online { .. }, Goal::Down | Goal::Gone)
            | (Reached::Down, Goal::Online | Goal::Gone)
            | (Reached::Gone, Goal::Online) => false,
        }
    }
}

/// The open tickets. Keys are internal, so that a ticket number that is used twice is answered twice.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    next_key: u64,
    open: BTreeMap<u64, Entry>,
    waiting_on: BTreeMap<InstanceId, BTreeSet<u64>>,
    /// Second halves whose turn has come.
    due: Vec<(Ticket, Scaling)>,
    settled: Vec<Output>,
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    instances: Vec<InstanceId>,
    pending: BTreeMap<InstanceId, Goal>,
    silent: Vec<InstanceId>,
    /// What follows when all goals are met, and settles the ticket.
    then: Option<Scaling>,
}

/// An open wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub(crate) instance: InstanceId,
    pub(crate) goal: Goal,
    /// It outlives workers that fail ([`Tickets::failed`]).
    pub(crate) persists: bool,
}

impl Tickets {
    /// Opens a ticket. Without goals it is done at once. Older tickets whose goals can no longer be met fail.
    pub(crate) fn open(&mut self, ticket: Ticket, goals: BTreeMap<InstanceId, Goal>, then: Option<Scaling>) {
        for (&instance, &goal) in &goals {
            self.supersede(instance, goal);
        }
        let key = self.next_key;
        self.next_key += 1;
        for &instance in goals.keys() {
            self.waiting_on.entry(instance).or_default().insert(key);
        }
        let instances = goals.keys().copied().collect();
        self.open.insert(
            key,
            Entry {
                ticket,
                instances,
                pending: goals,
                silent: Vec::new(),
                then,
            },
        );
        self.close_if_met(key);
    }

    /// Rejects a command as a whole.
    pub(crate) fn reject(&mut self, ticket: Ticket, failure: Failure) {
        self.settled.push(failed(ticket, None, None, failure));
    }

    /// Settles a command that keeps its own ticket as done.
    pub(crate) fn succeed(&mut self, ticket: Ticket, instances: Vec<InstanceId>, silent: Vec<InstanceId>) {
        let outcome = Outcome::Done { instances, silent };
        self.settled.push(Output::Done { ticket, outcome });
    }

    /// Settles such a command as failed because of this worker.
    pub(crate) fn reject_for_worker(
        &mut self,
        ticket: Ticket,
        instance: InstanceId,
        worker: WorkerId,
        failure: Failure,
    ) {
        self.settled
            .push(failed(ticket, Some(instance), Some(worker), failure));
    }

    /// An instance has reached something.
    pub(crate) fn reached(&mut self, instance: InstanceId, reached: Reached) {
        for key in self.keys_of(instance, |goal| reached.meets(goal)) {
            if let Some(entry) = self.open.get_mut(&key) {
                entry.pending.remove(&instance);
                if let Reached::Online { silent: true } = reached {
                    entry.silent.push(instance);
                }
            }
            self.forget_wait(instance, key);
            self.close_if_met(key);
        }
    }

    /// A worker of `instance` failed before it was ready; `is_last`: it gets no other one. What a dead shell has left waits for the next
    /// worker: those that were starting have ended with the shell, and no command waits for the outcome.
    pub(crate) fn failed(&mut self, instance: InstanceId, worker: WorkerId, failure: Failure, is_last: bool) {
        for key in self.keys_of(instance, |goal| goal == Goal::Online) {
            if is_last || !self.open.get(&key).is_some_and(Entry::persists) {
                self.fail(key, Some(instance), Some(worker), failure);
            }
        }
    }

    /// A later command decides how many instances the app has, or what they are.
    pub(crate) fn supersede_scaling(&mut self, app: AppId) {
        let scales = |entry: &Entry| entry.then.is_some_and(|then| then.app == app);
        let keys = self.open.iter().filter(|(_, entry)| scales(entry));
        for key in keys.map(|(&key, _)| key).collect::<Vec<_>>() {
            self.fail(key, None, None, Failure::Superseded);
        }
    }

    /// A second half whose turn has come, with the ticket that it settles.
    pub(crate) fn take_due(&mut self) -> Option<(Ticket, Scaling)> {
        self.due.pop()
    }

    /// The second halves whose turn has not come, each with the instances that it waits for.
    pub(crate) fn scalings(&self) -> impl Iterator<Item = (Scaling, BTreeSet<InstanceId>)> + '_ {
        let entries = self.open.values();
        entries.filter_map(|entry| Some((entry.then?, entry.pending.keys().copied().collect())))
    }

    /// The outcomes since the last call.
    pub(crate) fn take_settled(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.settled.drain(..)
    }

    /// Every open wait.
    pub(crate) fn waits(&self) -> impl Iterator<Item = Wait> + '_ {
        self.open.values().flat_map(|entry| {
            let persists = entry.persists();
            entry.pending.iter().map(move |(&instance, &goal)| Wait {
                instance,
                goal,
                persists,
            })
        })
    }

    /// True if the internal indexes contradict each other.
    pub(crate) fn is_inconsistent(&self) -> bool {
        let idle = self.open.values().any(|entry| entry.pending.is_empty());
        let indexed: usize = self.waiting_on.values().map(BTreeSet::len).sum();
        let waits: usize = self.open.values().map(|entry| entry.pending.len()).sum();
        idle || indexed != waits || !self.settled.is_empty() || !self.due.is_empty()
    }

    fn supersede(&mut self, instance: InstanceId, newer: Goal) {
        for key in self.keys_of(instance, |goal| !goal.survives(newer)) {
            self.fail(key, Some(instance), None, Failure::Superseded);
        }
    }

    fn keys_of(&self, instance: InstanceId, wanted: impl Fn(Goal) -> bool) -> Vec<u64> {
        let keys = self.waiting_on.get(&instance).into_iter().flatten().copied();
        keys.filter(|key| self.goal(*key, instance).is_some_and(&wanted))
            .collect()
    }

    fn goal(&self, key: u64, instance: InstanceId) -> Option<Goal> {
        self.open.get(&key)?.pending.get(&instance).copied()
    }

    fn close_if_met(&mut self, key: u64) {
        if self.open.get(&key).is_none_or(|entry| !entry.pending.is_empty()) {
            return;
        }
        if let Some(Entry {
            ticket,
            instances,
            mut silent,
            then,
            ..
        }) = self.open.remove(&key)
        {
            match then {
                Some(then) => self.due.push((ticket, then)),
                None => {
                    silent.sort_unstable();
                    self.succeed(ticket, instances, silent);
                }
            }
        }
    }

    fn fail(&mut self, key: u64, instance: Option<InstanceId>, worker: Option<WorkerId>, failure: Failure) {
        if let Some(entry) = self.open.remove(&key) {
            for &waited in entry.pending.keys() {
                self.forget_wait(waited, key);
            }
            self.settled.push(failed(entry.ticket, instance, worker, failure));
        }
    }

    fn forget_wait(&mut self, instance: InstanceId, key: u64) {
        if let Some(keys) = self.waiting_on.get_mut(&instance) {
            keys.remove(&key);
            if keys.is_empty() {
                self.waiting_on.remove(&instance);
            }
        }
    }
}

impl Entry {
    fn persists(&self) -> bool {
        self.ticket == NO_REQUESTER
    }
}

fn failed(
    ticket: Ticket,
    instance: Option<InstanceId>,
    worker: Option<WorkerId>,
    failure: Failure,
) -> Output {
    Output::Done {
        ticket,
        outcome: Outcome::Failed {
            instance,
            worker,
            failure,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InstanceId = InstanceId(0);
    const B: InstanceId = InstanceId(1);

    fn opened(goals: &[(InstanceId, Goal)]) -> Tickets {
        let mut tickets = Tickets::default();
        tickets.open(Ticket(1), goals.iter().copied().collect(), None);
        tickets
    }

    fn settled(tickets: &mut Tickets) -> Vec<Output> {
        tickets.take_settled().collect()
    }

    #[test]
    fn no_goals_are_met_at_once() {
        let outcome = Outcome::Done {
            instances: Vec::new(),
            silent: Vec::new(),
        };
        let wanted = vec![Output::Done {
            ticket: Ticket(1),
            outcome,
        }];
        assert_eq!(settled(&mut opened(&[])), wanted);
    }

    #[test]
    fn done_when_the_last_goal_is_met_and_only_once() {
        let mut tickets = opened(&[(A, Goal::Online), (B, Goal::Online)]);
        tickets.reached(B, Reached::Online { silent: true });
        assert_eq!(settled(&mut tickets), vec![]);
        tickets.reached(B, Reached::Online { silent: true });
        tickets.reached(A, Reached::Online { silent: false });
        tickets.reached(A, Reached::Online { silent: false });
        let outcome = Outcome::Done {
            instances: vec![A, B],
            silent: vec![B],
        };
        assert_eq!(
            settled(&mut tickets),
            vec![Output::Done {
                ticket: Ticket(1),
                outcome
            }]
        );
        assert!(!tickets.is_inconsistent());
    }

    #[test]
    fn the_first_failure_settles_it() {
        let mut tickets = opened(&[(A, Goal::Online), (B, Goal::Online)]);
        tickets.failed(B, WorkerId(9), Failure::SpawnFailed, false);
        tickets.failed(A, WorkerId(8), Failure::SpawnFailed, false);
        tickets.reached(A, Reached::Online { silent: false });
        let wanted = failed(Ticket(1), Some(B), Some(WorkerId(9)), Failure::SpawnFailed);
        assert_eq!(settled(&mut tickets), vec![wanted]);
        assert!(!tickets.is_inconsistent());
    }

    #[test]
    fn what_a_newer_goal_leaves_of_an_older_one() {
        use Goal::{Down, Gone, Online};
        let cases = [
            (Online, Online, true),
            (Online, Down, false),
            (Online, Gone, false),
            (Down, Online, false),
            (Down, Down, true),
            (Down, Gone, true),
            (Gone, Online, false),
            (Gone, Down, false),
            (Gone, Gone, true),
        ];
        for (older, newer, survives) in cases {
            let mut tickets = opened(&[(A, older), (B, older)]);
            tickets.open(Ticket(2), BTreeMap::from([(A, newer)]), None);
            let superseded = failed(Ticket(1), Some(A), None, Failure::Superseded);
            let wanted = if survives { vec![] } else { vec![superseded] };
            assert_eq!(settled(&mut tickets), wanted, "{older:?} then {newer:?}");
        }
    }

    #[test]
    fn gone_is_down_too() {
        let mut tickets = opened(&[(A, Goal::Down)]);
        tickets.reached(A, Reached::Gone);
        assert_eq!(settled(&mut tickets).len(), 1);
        let mut tickets = opened(&[(A, Goal::Gone)]);
        tickets.reached(A, Reached::Down);
        assert_eq!(settled(&mut tickets).len(), 0);
    }

    /// A ticket of app 1, which gets three instances when A is online.
    fn scaling(ticket: Ticket) -> Tickets {
        let then = Scaling {
            app: AppId(1),
            count: 3,
        };
        let mut tickets = Tickets::default();
        tickets.open(ticket, BTreeMap::from([(A, Goal::Online)]), Some(then));
        tickets
    }

    #[test]
    fn a_second_half_follows_the_first_and_settles_the_ticket() {
        let mut tickets = scaling(Ticket(1));
        assert_eq!(tickets.take_due(), None);
        tickets.reached(A, Reached::Online { silent: false });
        assert_eq!(settled(&mut tickets), vec![], "not yet");
        let then = Scaling {
            app: AppId(1),
            count: 3,
        };
        assert_eq!(tickets.take_due(), Some((Ticket(1), then)));
        assert_eq!(tickets.take_due(), None);
    }

    #[test]
    fn a_failure_ends_a_second_half_that_is_waited_for_and_the_last_one_any() {
        for (ticket, is_last, stays) in [
            (Ticket(1), false, false),
            (Ticket(1), true, false),
            (NO_REQUESTER, false, true),
            (NO_REQUESTER, true, false),
        ] {
            let mut tickets = scaling(ticket);
            tickets.failed(A, WorkerId(9), Failure::SpawnFailed, is_last);
            assert_eq!(
                tickets.scalings().count(),
                usize::from(stays),
                "{ticket:?} {is_last}"
            );
            assert_eq!(settled(&mut tickets).len(), usize::from(!stays));
            assert!(!tickets.is_inconsistent());
        }
    }

    #[test]
    fn a_second_half_is_superseded_for_its_own_app_alone() {
        let mut tickets = scaling(Ticket(1));
        tickets.supersede_scaling(AppId(2));
        assert_eq!(tickets.scalings().count(), 1);
        tickets.supersede_scaling(AppId(1));
        let superseded = failed(Ticket(1), None, None, Failure::Superseded);
        assert_eq!(settled(&mut tickets), vec![superseded]);
        assert!(!tickets.is_inconsistent());
    }
}
