//! Slots: their tenants, and how suitable they are for new connections.

use crate::protocol::Affinity;
use crate::steering::flow::Flow;
use crate::{Generation, GroupId, InstanceId, Tick, WorkerId};

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its public address.
    pub group: GroupId,
    /// The instance that it belongs to.
    pub instance: InstanceId,
    /// The generation of the worker that it was opened for.
    pub generation: Generation,
    /// Its queue when it was last sampled.
    pub len: u32,
    /// Its tenant has answered a probe before: silence then means that it is frozen.
    pub answers: bool,
    /// Whether clients belong to its worker.
    pub affinity: Affinity,
    /// Who uses it.
    pub tenant: Tenant,
}

/// Who uses a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenant {
    /// None, until its instance's next worker takes it.
    Vacant,
    /// A worker that is not ready yet, or that was terminated and whose successor inherits the slot.
    Idle {
        /// The worker.
        worker: WorkerId,
        /// Since when the slot's queue has not moved.
        waiting: Option<Tick>,
    },
    /// A worker that accepts.
    Serving {
        /// The worker.
        worker: WorkerId,
        /// What it is there for.
        role: Role,
        /// What is known of how it accepts.
        flow: Flow,
    },
    /// A worker that was terminated and has no successor; the slot is closed when it is gone.
    Leaving {
        /// The worker.
        worker: WorkerId,
        /// Since when the slot's queue has not moved.
        waiting: Option<Tick>,
    },
}

/// What a worker that accepts is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To serve.
    Active,
    /// To serve again if its successor fails.
    Standby,
    /// Finishes its requests.
    Draining,
}

/// How suitable a slot is. A group's eligible slots are those of its best rank. A draining worker still accepts, so it is better than
/// letting clients wait for one that starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    // Best first: the order of the variants is the order of preference.
    /// The worker accepts.
    Healthy,
    /// It accepts, and its successor serves.
    Standby,
    /// It has not accepted for a while.
    Stalled,
    /// It accepts, and leaves.
    Draining,
    /// No worker has the slot, or one that is not ready.
    Waiting,
    /// The worker leaves, and does not accept any more.
    Last,
}

impl Rank {
    /// True if the worker is seen to accept.
    pub(crate) fn accepts(self) -> bool {
        match self {
            Rank::Healthy | Rank::Standby | Rank::Draining => true,
            Rank::Stalled | Rank::Waiting | Rank::Last => false,
        }
    }
}

impl Tenant {
    pub(crate) fn worker(self) -> Option<WorkerId> {
        match self {
            Tenant::Vacant => None,
            Tenant::Idle { worker, .. } | Tenant::Serving { worker, .. } | Tenant::Leaving { worker, .. } => {
                Some(worker)
            }
        }
    }

    /// True if the slot is closed when this tenant is gone.
    pub(crate) fn is_last(self) -> bool {
        match self {
            Tenant::Serving { role, .. } => role == Role::Draining,
            Tenant::Leaving { .. } => true,
            Tenant::Vacant | Tenant::Idle { .. } => false,
        }
    }

    pub(crate) fn new(worker: WorkerId, role: Option<Role>) -> Tenant {
        let flow = Flow::fresh();
        let idle = Tenant::Idle {
            worker,
            waiting: None,
        };
        role.map_or(idle, |role| Tenant::Serving { worker, role, flow })
    }
}

impl Slot {
    /// True if connections in its queue belong to its worker.
    pub(crate) fn keeps_queue(&self) -> bool {
        match self.tenant {
            Tenant::Serving {
                role: Role::Active, ..
            } => self.affinity != Affinity::None,
            Tenant::Serving { .. } | Tenant::Vacant | Tenant::Idle { .. } | Tenant::Leaving { .. } => false,
        }
    }

    pub(crate) fn rank(&self) -> Rank {
        match self.tenant {
            Tenant::Serving { role, flow, .. } => match (role, flow.is_in()) {
                (Role::Active, true) => Rank::Healthy,
                (Role::Standby, true) => Rank::Standby,
                (Role::Active | Role::Standby, false) => Rank::Stalled,
                (Role::Draining, true) => Rank::Draining,
                (Role::Draining, false) => Rank::Last,
            },
            Tenant::Vacant | Tenant::Idle { .. } => Rank::Waiting,
            Tenant::Leaving { .. } => Rank::Last,
        }
    }
}
