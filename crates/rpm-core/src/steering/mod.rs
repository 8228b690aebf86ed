//! Steering: which slots exist, which workers hold them, and which of them get new connections.
//!
//! A slot belongs to one instance in one generation, and has at most one tenant. Changes are collected while an input is handled.
//! [`Steering::settle`] then puts out what follows from them in the order that loses no connection: first steer away, then close, then move
//! what is left behind.

mod check;
mod flow;
mod freeze;
mod needed;
mod slot;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::mem;

use crate::deadlines::Deadlines;
use crate::protocol::{Affinity, Notice, Output};
pub use crate::steering::flow::{Flow, Rescued};
use crate::steering::slot::Rank;
pub use crate::steering::slot::{Role, Slot, Tenant};
use crate::{Generation, GroupId, InstanceId, SlotId, Tick, WorkerId};

/// All slots and groups.
#[derive(Debug)]
pub(crate) struct Steering {
    slots: BTreeMap<SlotId, Slot>,
    groups: BTreeMap<GroupId, Group>,
    by_instance: BTreeMap<InstanceId, BTreeSet<SlotId>>,
    /// Probes and trials of slots whose queue was rescued.
    timers: Deadlines<SlotId>,
    /// Outputs whose order does not matter: rescues of stalled slots, probes, notices.
    staged: Vec<Output>,
    dirty: BTreeSet<GroupId>,
    closing: Vec<(SlotId, GroupId)>,
    abandoned: BTreeSet<SlotId>,
}

/// All slots of one address.
#[derive(Debug, Default)]
struct Group {
    slots: BTreeSet<SlotId>,
    eligible: Vec<SlotId>,
    /// Queue lengths of the eligible slots, if their workers accept; otherwise empty.
    queues: BTreeSet<(u32, SlotId)>,
}

/// A worker's claim to a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) slot: SlotId,
    pub(crate) group: GroupId,
    pub(crate) instance: InstanceId,
    pub(crate) generation: Generation,
    pub(crate) worker: WorkerId,
    /// `None` if the worker does not serve yet.
    pub(crate) role: Option<Role>,
    pub(crate) answers: bool,
    pub(crate) affinity: Affinity,
    /// The worker may take a vacant slot of another generation of its instance.
    pub(crate) succeeds: bool,
}

impl Group {
    /// True if an eligible slot, with a worker that accepts, has a queue shorter than `len`.
    fn has_shorter(&self, len: u32) -> bool {
        self.queues.first().is_some_and(|&(shortest, _)| shortest < len)
    }

    /// Eligible slots of accepting workers whose queue was empty at the last sample.
    fn drained(&self) -> Vec<SlotId> {
        let empty = self.queues.range(..(1, SlotId(0)));
        empty.map(|&(_, slot)| slot).collect()
    }
}

impl Steering {
    pub(crate) fn new() -> Self {
        Steering {
            slots: BTreeMap::new(),
            groups: BTreeMap::new(),
            by_instance: BTreeMap::new(),
            timers: Deadlines::new(),
            staged: Vec::new(),
            dirty: BTreeSet::new(),
            closing: Vec::new(),
            abandoned: BTreeSet::new(),
        }
    }

    /// From these slots: what follows from them is what it was.
    pub(crate) fn restore(slots: BTreeMap<SlotId, Slot>) -> Self {
        let mut steering = Steering::new();
        for (&id, slot) in &slots {
            steering.groups.entry(slot.group).or_default().slots.insert(id);
            steering.by_instance.entry(slot.instance).or_default().insert(id);
            steering.dirty.insert(slot.group);
            if let Tenant::Serving { flow, .. } = slot.tenant
                && let Some(at) = flow.deadline()
            {
                steering.timers.set(id, at);
            }
        }
        steering.slots = slots;
        // The shell steers every group when it takes over.
        steering.settle(&mut VecDeque::new());
        steering
    }

    /// The earliest probe or trial.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// All slots, ascending.
    pub(crate) fn slots(&self) -> impl ExactSizeIterator<Item = (SlotId, &Slot)> + '_ {
        self.slots.iter().map(|(&id, slot)| (id, slot))
    }

    pub(crate) fn has_slot(&self, id: SlotId) -> bool {
        self.slots.contains_key(&id)
    }

    /// The group of a slot.
    pub(crate) fn group_of(&self, id: SlotId) -> Option<GroupId> {
        self.slots.get(&id).map(|slot| slot.group)
    }

    /// The slots of an instance, ascending.
    fn of_instance(&self, id: InstanceId) -> impl Iterator<Item = SlotId> + '_ {
        self.by_instance.get(&id).into_iter().flatten().copied()
    }

    /// True if new connections do not reach this slot, but clients that belong to its worker do.
    pub(crate) fn is_reserved(&self, id: SlotId) -> bool {
        self.slots.get(&id).is_some_and(|slot| match slot.tenant {
            Tenant::Serving {
                role: Role::Active,
                flow,
                ..
            } => slot.affinity != Affinity::None && !flow.is_in(),
            Tenant::Serving { .. } | Tenant::Vacant | Tenant::Idle { .. } | Tenant::Leaving { .. } => false,
        })
    }

    /// True if this slot is out of steering because its worker does not accept.
    pub(crate) fn is_stalled(&self, id: SlotId) -> bool {
        self.slots.get(&id).is_some_and(|slot| match slot.tenant {
            Tenant::Serving {
                role: Role::Active,
                flow,
                ..
            } => !flow.is_in(),
            Tenant::Serving { .. } | Tenant::Vacant | Tenant::Idle { .. } | Tenant::Leaving { .. } => false,
        })
    }

    pub(crate) fn eligible(&self, group: GroupId) -> &[SlotId] {
        self.groups.get(&group).map_or(&[], |group| &group.eligible)
    }

    /// A vacant slot of this instance, generation and group, for its next worker.
    pub(crate) fn vacant(
        &self,
        (instance, generation): (InstanceId, Generation),
        group: GroupId,
    ) -> Option<SlotId> {
        self.of_instance(instance).find(|id| {
            self.slots.get(id).is_some_and(|slot| {
                slot.tenant == Tenant::Vacant && (slot.group, slot.generation) == (group, generation)
            })
        })
    }

    /// A vacant slot of this instance and group, of any generation.
    pub(crate) fn left_behind(&self, instance: InstanceId, group: GroupId) -> Option<SlotId> {
        self.unclaimed(instance)
            .find(|id| self.group_of(*id) == Some(group))
    }

    /// A worker takes a slot: a new one, or a vacant one of its own instance and, unless it succeeds those of another one, generation. A
    /// claim to any other existing slot changes nothing.
    pub(crate) fn hold(&mut self, claim: Claim) {
        let tenant = Tenant::new(claim.worker, claim.role);
        if let Some(slot) = self.slots.get_mut(&claim.slot) {
            let same = (slot.group, slot.instance) == (claim.group, claim.instance);
            let fits = claim.succeeds || slot.generation == claim.generation;
            if !same || !fits || slot.tenant != Tenant::Vacant {
                return;
            }
            slot.tenant = tenant;
            slot.generation = claim.generation;
            slot.answers = claim.answers;
            slot.affinity = claim.affinity;
        } else {
            let Claim {
                group,
                instance,
                generation,
                answers,
                affinity,
                ..
            } = claim;
            let slot = Slot {
                group,
                instance,
                generation,
                len: 0,
                answers,
                affinity,
                tenant,
            };
            self.slots.insert(claim.slot, slot);
            self.groups.entry(group).or_default().slots.insert(claim.slot);
            self.by_instance.entry(instance).or_default().insert(claim.slot);
        }
        self.abandoned.remove(&claim.slot);
        self.dirty.insert(claim.group);
    }

    /// Closes a slot that no worker may have, unless it is known.
    pub(crate) fn close_unknown(&mut self, slot: SlotId, group: GroupId) {
        if !self.slots.contains_key(&slot) {
            self.closing.push((slot, group));
        }
    }

    /// `worker` accepts from now on. If it did so before, what is known of its queue stays.
    pub(crate) fn serve(&mut self, instance: InstanceId, worker: WorkerId, role: Role) {
        for id in self.slots_of(instance, worker).collect::<Vec<_>>() {
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            if let Tenant::Serving { flow, .. } = slot.tenant {
                slot.tenant = Tenant::Serving { worker, role, flow };
                self.dirty.insert(slot.group);
            } else {
                self.set_tenant(id, Tenant::new(worker, Some(role)));
            }
        }
    }

    /// `worker` was terminated, and its instance's next worker inherits its slots.
    pub(crate) fn keep_slots_of(&mut self, instance: InstanceId, worker: WorkerId) {
        self.retenant(instance, worker, Tenant::new(worker, None));
    }

    /// `worker` was terminated, and its slots are closed when it is gone.
    pub(crate) fn let_slots_end(&mut self, instance: InstanceId, worker: WorkerId) {
        let waiting = None;
        self.retenant(instance, worker, Tenant::Leaving { worker, waiting });
    }

    /// `worker` is gone: its slots are closed.
    pub(crate) fn close_slots_of(&mut self, instance: InstanceId, worker: WorkerId) {
        self.close_slots_where(instance, |slot| slot.tenant.worker() == Some(worker));
    }

    /// `worker` is gone: its slots become vacant.
    pub(crate) fn vacate_slots_of(&mut self, instance: InstanceId, worker: WorkerId) {
        self.retenant(instance, worker, Tenant::Vacant);
    }

    /// `worker` closed its listener. The slot stays open only if it is to be inherited.
    pub(crate) fn listener_closed(&mut self, id: SlotId, worker: WorkerId, keep: bool) {
        match (self.holder(id) == Some(worker), keep) {
            (true, true) => self.set_tenant(id, Tenant::Vacant),
            (true, false) => self.close_slot(id),
            (false, _) => {}
        }
    }

    /// Closes all slots of the instance.
    pub(crate) fn close_slots(&mut self, instance: InstanceId) {
        self.close_slots_where(instance, |_| true);
    }

    /// The instance will not run again: closes its slots, except those of leaving workers.
    pub(crate) fn close_own_slots(&mut self, instance: InstanceId) {
        self.close_slots_where(instance, |slot| !slot.tenant.is_last());
    }

    /// Closes vacant slots that no worker of this generation inherits.
    pub(crate) fn close_outdated_slots(&mut self, instance: InstanceId, generation: Generation) {
        self.close_slots_where(instance, |slot| {
            slot.tenant == Tenant::Vacant && slot.generation != generation
        });
    }

    /// Closes the instance's slots that no worker has taken over.
    pub(crate) fn close_vacant_slots(&mut self, instance: InstanceId) {
        self.close_slots_where(instance, |slot| slot.tenant == Tenant::Vacant);
    }

    fn close_slots_where(&mut self, instance: InstanceId, which: impl Fn(&Slot) -> bool) {
        let slots = self.of_instance(instance);
        let chosen = slots.filter(|id| self.slots.get(id).is_some_and(&which));
        for id in chosen.collect::<Vec<_>>() {
            self.close_slot(id);
        }
    }

    /// The vacant slots of an instance.
    pub(crate) fn unclaimed(&self, instance: InstanceId) -> impl Iterator<Item = SlotId> + '_ {
        let vacant = |id: &SlotId| {
            self.slots
                .get(id)
                .is_some_and(|slot| slot.tenant == Tenant::Vacant)
        };
        self.of_instance(instance).filter(vacant)
    }

    /// The worker that holds this slot.
    pub(crate) fn holder(&self, slot: SlotId) -> Option<WorkerId> {
        self.slots.get(&slot).and_then(|slot| slot.tenant.worker())
    }

    /// True if `worker` holds a slot.
    pub(crate) fn is_holder(&self, instance: InstanceId, worker: WorkerId) -> bool {
        self.slots_of(instance, worker).next().is_some()
    }

    /// The slots that `worker`, of `instance`, holds.
    pub(crate) fn slots_of(
        &self,
        instance: InstanceId,
        worker: WorkerId,
    ) -> impl Iterator<Item = SlotId> + '_ {
        self.of_instance(instance)
            .filter(move |&id| self.holder(id) == Some(worker))
    }

    /// Puts out the effects of all changes since the last call.
    pub(crate) fn settle(&mut self, out: &mut VecDeque<Output>) {
        let dirty = mem::take(&mut self.dirty);
        for &group in &dirty {
            self.refresh(group, out);
        }
        for (slot, group) in mem::take(&mut self.closing) {
            out.push_back(Output::CloseSlot {
                slot,
                to: self.eligible(group).to_vec(),
            });
        }
        for slot in mem::take(&mut self.abandoned) {
            out.extend(self.rescue_abandoned(slot));
        }
        for output in mem::take(&mut self.staged) {
            let undone =
                matches!(output, Output::Notice(Notice::Recovered { slot }) if !self.is_steered_to(slot));
            out.extend((!undone).then_some(output));
        }
        for group in dirty {
            if self
                .groups
                .get(&group)
                .is_some_and(|group| group.slots.is_empty())
            {
                self.groups.remove(&group);
            }
        }
    }

    /// False for a slot that came back by one deadline and left again by another that was met in the same step.
    fn is_steered_to(&self, id: SlotId) -> bool {
        let group = self.slots.get(&id).map(|slot| slot.group);
        group.is_some_and(|group| self.eligible(group).contains(&id))
    }

    /// True if something is left that [`Steering::settle`] should have put out.
    pub(crate) fn is_unsettled(&self) -> bool {
        !(self.dirty.is_empty()
            && self.closing.is_empty()
            && self.abandoned.is_empty()
            && self.staged.is_empty())
    }

    /// The slots of the best rank, ascending, and that rank.
    fn choose(&self, group: &Group) -> Option<(Rank, Vec<SlotId>)> {
        let ranks = || {
            let rank = |id: &SlotId| self.slots.get(id).map(|slot| (slot.rank(), *id));
            group.slots.iter().filter_map(rank)
        };
        let (best, _) = ranks().min()?;
        Some((
            best,
            ranks()
                .filter(|&(rank, _)| rank == best)
                .map(|(_, id)| id)
                .collect(),
        ))
    }

    fn refresh(&mut self, id: GroupId, out: &mut VecDeque<Output>) {
        let Some(group) = self.groups.get(&id) else { return };
        let (rank, slots) = self.choose(group).unwrap_or((Rank::Last, Vec::new()));
        let lengths = slots.iter().map(|&slot| (self.len(slot), slot));
        let queues = lengths.filter(|_| rank.accepts()).collect();
        if slots != group.eligible {
            out.push_back(Output::Steer {
                group: id,
                slots: slots.clone(),
            });
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.eligible = slots;
            group.queues = queues;
        }
    }

    fn len(&self, slot: SlotId) -> u32 {
        self.slots.get(&slot).map_or(0, |slot| slot.len)
    }

    /// Moves the queue of a vacant slot to workers that accept. Without any, the queue stays and is inherited.
    fn rescue_abandoned(&self, id: SlotId) -> Option<Output> {
        let group = self.groups.get(&self.slots.get(&id)?.group)?;
        let to: Vec<SlotId> = match group.queues.is_empty() {
            true => Vec::new(),
            false => group.eligible.clone(),
        };
        (!to.is_empty()).then_some(Output::Rescue {
            slot: id,
            holder: None,
            to,
        })
    }

    fn retenant(&mut self, instance: InstanceId, worker: WorkerId, tenant: Tenant) {
        for id in self.slots_of(instance, worker).collect::<Vec<_>>() {
            self.set_tenant(id, tenant);
        }
    }

    fn set_tenant(&mut self, id: SlotId, tenant: Tenant) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.tenant = tenant;
        self.dirty.insert(slot.group);
        self.timers.clear(id);
        if tenant == Tenant::Vacant {
            self.abandoned.insert(id);
        }
    }

    pub(crate) fn close_slot(&mut self, id: SlotId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(&slot.group) {
            group.slots.remove(&id);
        }
        if let Some(slots) = self.by_instance.get_mut(&slot.instance) {
            slots.remove(&id);
            if slots.is_empty() {
                self.by_instance.remove(&slot.instance);
            }
        }
        self.timers.clear(id);
        self.dirty.insert(slot.group);
        self.closing.push((id, slot.group));
    }
}
