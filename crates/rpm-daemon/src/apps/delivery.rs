//! How clients' connections reach the workers of an app: resolved once from a specification, when a revision is made of it.
//!
//! Two things follow from a specification: where a worker's port comes from ([`PortSource`]), and which path the data takes
//! ([`DataPath`]). All else follows from the pair and is a method of [`Delivery`].
//!
//! | `exec_mode` | program | `listen` | `balance` | port source | data path | where calls are not intercepted |
//! |---|---|---|---|---|---|---|
//! | fork | any | any | any | single | kernel | none |
//! | cluster | any | given | proxy | activated | proxy | proxy |
//! | cluster | any | given | other | activated | kernel | kernel |
//! | cluster | Node | none | proxy | node | proxy | proxy |
//! | cluster | Node | none | handoff | node | handoff | handoff |
//! | cluster | Node | none | other | node | kernel | kernel |
//! | cluster | other | none | proxy | captured | proxy | proxy, which has none to serve: it is not started |
//! | cluster | other | none | other | captured | kernel | none |
//!
//! Calls are not intercepted if the user says so (`intercept: false`), or if the system denies it. The first is part of the
//! specification; the second may show at any time and is an argument (`intercepted`).
//!
//! | port source | ready by default when | handed single connections | drained | ports shared |
//! |---|---|---|---|---|
//! | node | it listens | yes | by its agent | always |
//! | activated | it was executed | no | by its agent, or the kernel counts | always |
//! | captured | it listens | no | by its agent, or the kernel counts | if intercepted |
//! | single | it runs (executed if not intercepted) | no | by its agent, or the kernel counts if intercepted | if intercepted |

use std::path::Path;

use rpm_core::protocol::Readiness;
use rpm_wire::api::{AppSpec, Balance, ExecMode};

use crate::apps::app::cpus;

/// How a worker gets its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortSource {
    /// Node workers ask for slots over their IPC channel.
    Node,
    /// The daemon passes slots by `LISTEN_FDS`.
    Activated,
    /// Several processes of a program that opens its ports itself: the sockets are captured when they listen, if its calls can be
    /// intercepted.
    Captured,
    /// One process of a program that opens its ports itself.
    Single,
}

/// Which path the data takes from a client to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataPath {
    /// The kernel puts connections into the worker's own accept queue.
    Kernel,
    /// The daemon accepts, and hands the connections to Node workers.
    Handoff,
    /// Each request passes through the daemon's proxy.
    Proxy,
    /// The daemon has no part in it: each worker has its ports to itself.
    None,
}

impl DataPath {
    /// Its name in the API and in output, as the `plane`.
    pub(crate) fn wire_name(self) -> &'static str {
        match self {
            DataPath::Kernel => "direct",
            DataPath::Handoff => "handoff",
            DataPath::Proxy => "proxy",
            DataPath::None => "none",
        }
    }
}

/// What executes the program of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// It speaks the IPC channel, and node:cluster's part of it.
    Node,
    /// It speaks the IPC channel, and takes no descriptors over it.
    Bun,
    /// Any other.
    Other,
}

impl Runtime {
    fn of(spec: &AppSpec) -> Runtime {
        let program = spec.interpreter.as_deref().unwrap_or(&spec.script);
        let name = Path::new(program).file_name().map(|name| name.to_string_lossy());
        match name.as_deref() {
            Some("node" | "nodejs") => Runtime::Node,
            Some(name) if name.starts_with("node-v") => Runtime::Node,
            Some("bun") => Runtime::Bun,
            Some(_) | None => Runtime::Other,
        }
    }
}

/// How connections reach the workers of one revision; see the tables above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    source: PortSource,
    /// Where the system intercepts calls.
    path: DataPath,
    runtime: Runtime,
    /// The user lets calls of `bind` and `listen` be intercepted.
    intercept: bool,
    /// A worker says itself that it is ready (`wait_ready`).
    announces: bool,
}

impl Delivery {
    /// Resolves a specification. Only whoever makes a revision calls this, and checks of a specification that is none yet; a worker
    /// and a revision have their own.
    pub(crate) fn of(spec: &AppSpec) -> Delivery {
        let runtime = Runtime::of(spec);
        let source = match spec.exec_mode {
            ExecMode::Fork => PortSource::Single,
            ExecMode::Cluster if !spec.listen.is_empty() => PortSource::Activated,
            ExecMode::Cluster if runtime == Runtime::Node => PortSource::Node,
            ExecMode::Cluster => PortSource::Captured,
        };
        let path = match (source, spec.balance) {
            (PortSource::Node | PortSource::Activated | PortSource::Captured, Balance::Proxy) => {
                DataPath::Proxy
            }
            (PortSource::Node, Balance::Handoff) => DataPath::Handoff,
            (PortSource::Node | PortSource::Activated, _) => DataPath::Kernel,
            (PortSource::Captured | PortSource::Single, _) if spec.intercept => DataPath::Kernel,
            (PortSource::Captured | PortSource::Single, _) => DataPath::None,
        };
        Delivery {
            source,
            path,
            runtime,
            intercept: spec.intercept,
            announces: spec.wait_ready,
        }
    }

    /// What executes the program.
    pub(crate) fn runtime(self) -> Runtime {
        self.runtime
    }

    /// True if a worker gets an IPC channel, as a child of Node has.
    pub(crate) fn has_channel(self) -> bool {
        match self.runtime {
            Runtime::Node | Runtime::Bun => true,
            Runtime::Other => false,
        }
    }

    /// True if workers ask for their slots as those of node:cluster do. Such a worker says over its channel when it listens, answers
    /// heartbeats there, and takes single connections.
    pub(crate) fn speaks_cluster(self) -> bool {
        self.source == PortSource::Node
    }

    /// True in fork mode: one process that opens its ports itself.
    pub(crate) fn is_single(self) -> bool {
        self.source == PortSource::Single
    }

    /// True if the port of a worker comes from where those of `other` come from.
    pub(crate) fn has_source_of(self, other: Delivery) -> bool {
        self.source == other.source
    }

    /// True if the daemon accepts the connections, and hands them to the workers.
    pub(crate) fn is_handed(self) -> bool {
        self.path == DataPath::Handoff
    }

    /// True if the daemon's proxy serves the addresses.
    pub(crate) fn is_fronted(self) -> bool {
        self.path == DataPath::Proxy
    }

    /// The number of public sockets with which the proxy serves an address, one for each of its threads; 0 without the proxy.
    pub(crate) fn proxy_sockets(self) -> usize {
        if self.is_fronted() { cpus() as usize } else { 0 }
    }

    /// True if single connections may be handed to the workers (`newconn`), whichever path the others take.
    pub(crate) fn may_be_handed(self) -> bool {
        self.speaks_cluster()
    }

    /// True if the daemon can have one worker, and no other, answer a request: the worker of a health check.
    pub(crate) fn can_be_probed(self) -> bool {
        self.may_be_handed() || self.is_fronted()
    }

    /// True if the calls of the workers are to be intercepted, where the system permits it.
    pub(crate) fn wants_interception(self) -> bool {
        self.intercept && self.source != PortSource::Activated
    }

    /// True if several workers share a port only where their calls are intercepted.
    pub(crate) fn needs_interception(self) -> bool {
        self.source == PortSource::Captured
    }

    /// True if the daemon sees no listener of the workers, whatever the system permits.
    pub(crate) fn is_hidden(self) -> bool {
        self.needs_interception() && !self.wants_interception()
    }

    /// True if a worker shares its ports with others of its app. `intercepted`: its calls are.
    pub(crate) fn shares_ports(self, intercepted: bool) -> bool {
        match self.source {
            PortSource::Node | PortSource::Activated => true,
            PortSource::Captured | PortSource::Single => intercepted,
        }
    }

    /// True if children of a worker may hold its slots, and not only its leader. `intercepted`: its calls are.
    pub(crate) fn children_hold_slots(self, intercepted: bool) -> bool {
        self.source == PortSource::Activated || intercepted
    }

    /// True if a worker that listens on a socket of its own thereby shows that it is ready. One of node:cluster says so over its channel.
    pub(crate) fn is_ready_by_own_listener(self) -> bool {
        !self.speaks_cluster()
    }

    /// True if a worker without a channel is alive when its process sleeps. One of node:cluster has to answer.
    pub(crate) fn is_alive_asleep(self) -> bool {
        !self.speaks_cluster()
    }

    /// What shows that a worker is ready.
    pub(crate) fn readiness(self) -> Readiness {
        match self.source {
            _ if self.announces => Readiness::Announces,
            PortSource::Node | PortSource::Captured => Readiness::Listens,
            PortSource::Single if self.intercept => Readiness::Runs,
            PortSource::Activated | PortSource::Single => Readiness::Executed,
        }
    }

    /// True if the daemon notices what the workers' readiness waits for. `intercepted`: their calls are.
    pub(crate) fn shows_readiness(self, intercepted: bool) -> bool {
        self.announces || intercepted || !self.needs_interception()
    }

    /// True if a worker may carry an agent. `intercepted`: its calls are, so that whatever its tree opens is a slot.
    pub(crate) fn may_carry_agent(self, intercepted: bool) -> bool {
        self.speaks_cluster() || intercepted
    }

    /// True if a draining worker waits for its agent, even for one that has not spoken yet.
    pub(crate) fn expects_agent(self) -> bool {
        self.speaks_cluster()
    }

    /// True if the kernel can say what a worker without an agent still has, so that it can drain. `intercepted`: its calls are.
    pub(crate) fn kernel_counts(self, intercepted: bool) -> bool {
        match self.source {
            PortSource::Activated | PortSource::Captured => true,
            PortSource::Single => intercepted,
            PortSource::Node => false,
        }
    }

    /// The data path in use, and why, for `describe`. `denied`: why the system intercepts no calls.
    pub(crate) fn explain(self, denied: Option<&str>) -> (DataPath, String) {
        let captured = "the sockets of the programs are captured when they listen (seccomp)";
        let denied = match denied {
            _ if !self.intercept => Some("interception is switched off (--no-intercept)".to_owned()),
            Some(reason) => Some(format!("its calls cannot be intercepted ({reason})")),
            None => None,
        };
        let path = self.path_in_use(denied.is_none());
        let reason = match (path, self.source, denied) {
            (DataPath::Proxy, ..) => {
                "the daemon's proxy passes on each request to a private listener of a worker (--balance proxy)".to_owned()
            }
            (DataPath::Handoff, ..) => {
                "the daemon accepts, and hands connections to Node workers over node:cluster's channel (--balance handoff)"
                    .to_owned()
            }
            (_, PortSource::Node, _) => {
                "Node workers take their slots over node:cluster's channel".to_owned()
            }
            (_, PortSource::Activated, _) => {
                "slots are passed by LISTEN_FDS, for --listen was given".to_owned()
            }
            (_, PortSource::Captured, None) => captured.to_owned(),
            (_, PortSource::Captured, Some(why)) => format!(
                "{why}; only Node programs, and programs given --listen, can share a port then: each worker is on its own"
            ),
            (_, PortSource::Single, None) => {
                "fork mode: one process; if it listens on a port, a reload loses no request".to_owned()
            }
            (_, PortSource::Single, Some(why)) => {
                format!("fork mode: a process that owns its ports; start it with -i to share them ({why})")
            }
        };
        (path, reason)
    }

    /// The data path in use. `intercepted`: the calls of the workers are.
    fn path_in_use(self, intercepted: bool) -> DataPath {
        match (self.source, self.path) {
            (PortSource::Captured | PortSource::Single, DataPath::Kernel) if !intercepted => DataPath::None,
            (_, path) => path,
        }
    }
}

#[cfg(test)]
mod tests;
