//! Steering by eBPF: a program of the `SO_REUSEPORT` group picks the slot of each new connection in exact rotation, and migrates the queue
//! of a closing slot to the others.
//!
//! The program is assembled here and loaded with bpf(2) (`BPF_PROG_TYPE_SK_REUSEPORT`, Linux 4.19). Loading needs `CAP_BPF` and
//! `CAP_PERFMON`, or root; running needs no privilege.

mod asm;
mod call;
mod counting;
mod counts;
mod least;
mod memory;
mod program;
mod state;

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use self::counts::{Counts, DESCRIPTORS as COUNTS_DESCRIPTORS, Tag};
use self::least::Maps;
use self::state::{Layout, List, State};

/// The most slots of a selector. Each takes 48 bytes of kernel memory, used or not.
pub const MAX_SLOTS: u32 = 2048;

/// The number of [`Selector::descriptors`].
pub const SELECTOR_DESCRIPTORS: usize = 3;

/// What could not be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStage {
    /// The memory shared with the program.
    State,
    /// The table of sockets.
    Sockets,
    /// The program.
    Program,
    /// The tags that tell the slots' connections apart.
    Tags,
    /// The program that counts connections.
    Counting,
    /// The link to the root control group.
    Link,
}

/// Why a selector or counter could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the eBPF {}: {reason}", stage.name())]
pub struct LoadError {
    /// The part that could not be loaded.
    pub stage: LoadStage,
    /// What the user can do about it, or the end of the verifier's log.
    pub reason: String,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// Connections that a slot got, since the selector was loaded or [`Selector::clear_counters`] was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// New connections. They are counted by SYN; a repeated SYN of a half-open connection does not count again.
    pub steered: u64,
    /// Connections migrated from the queues of other slots.
    pub migrated: u64,
}

/// The select program of a group, with its tables. `Send` but not `Sync`: one thread updates it.
#[derive(Debug)]
pub struct Selector {
    program: Arc<OwnedFd>,
    sockets: Arc<OwnedFd>,
    memory: Arc<OwnedFd>,
    state: State,
    can_migrate: bool,
}

impl Selector {
    /// Loads program and tables for slots with indexes below `max_slots` (1 to [`MAX_SLOTS`]).
    ///
    /// # Errors
    /// A privilege is missing, or the kernel lacks a feature; the reason names it.
    pub fn load(max_slots: u32) -> Result<Selector, LoadError> {
        Selector::load_with(max_slots, None)
    }

    /// Loads a program for slots whose connections are counted. A new connection goes to the eligible slot with the fewest: open, waiting
    /// to be accepted, or in a handshake that began within about a second. Ties take turns.
    ///
    /// # Errors
    /// As [`Selector::load`].
    pub fn load_least(max_slots: u32, counts: &Counts) -> Result<Selector, LoadError> {
        Selector::load_with(max_slots, Some(Maps::of(counts)))
    }

    fn load_with(max_slots: u32, counts: Option<Maps>) -> Result<Selector, LoadError> {
        let layout = Layout {
            slots: max_slots.clamp(1, MAX_SLOTS),
        };
        let size = u32::try_from(layout.size()).unwrap_or(u32::MAX);
        let at = |stage| move |source| LoadError::new(stage, source, None);
        let memory = call::create_map(call::ARRAY, size, 1, call::MMAPABLE).map_err(at(LoadStage::State))?;
        let state = State::map(&memory, layout).map_err(at(LoadStage::State))?;
        let sockets = call::create_map(call::REUSEPORT_SOCKARRAY, 8, layout.slots, 0)
            .map_err(at(LoadStage::Sockets))?;
        let load = |migrating| load_program(&memory, &sockets, layout, (migrating, counts));
        let (program, can_migrate) = match load(true) {
            Ok(program) => (program, true),
            Err(error) if error.source.raw_os_error() == Some(libc::EPERM) => return Err(error),
            // Before Linux 5.14 there is no migration.
            Err(_) => (load(false)?, false),
        };
        Ok(Selector {
            program: Arc::new(program),
            sockets: Arc::new(sockets),
            memory: Arc::new(memory),
            state,
            can_migrate,
        })
    }

    /// The descriptors that another process must hold for the next daemon, in the order that [`Selector::taken_back`] takes.
    #[must_use]
    pub fn descriptors(&self) -> [Arc<OwnedFd>; SELECTOR_DESCRIPTORS] {
        [&self.program, &self.sockets, &self.memory].map(Arc::clone)
    }

    /// Takes over a selector with these slots, which migrates, from descriptors that another process held. `None` if they are something
    /// else.
    ///
    /// # Errors
    /// The memory cannot be mapped.
    pub fn taken_back(
        [program, sockets, memory]: [Arc<OwnedFd>; SELECTOR_DESCRIPTORS],
        max_slots: u32,
    ) -> io::Result<Option<Selector>> {
        let are_right =
            call::is_a("prog", &program) && call::is_a("map", &sockets) && call::is_a("map", &memory);
        if !are_right {
            return Ok(None);
        }
        let slots = max_slots.clamp(1, MAX_SLOTS);
        let state = State::map(&memory, Layout { slots })?;
        Ok(Some(Selector {
            program,
            sockets,
            memory,
            state,
            can_migrate: true,
        }))
    }

    /// The cookie of the socket in slot `index`.
    #[must_use]
    pub fn socket_at(&self, index: u32) -> Option<u64> {
        call::lookup(&self.sockets, &index).ok()
    }

    /// True if the queue of a closing slot moves to the migration targets; otherwise it is reset.
    #[must_use]
    pub fn can_migrate(&self) -> bool {
        self.can_migrate
    }

    /// Attaches the program to the group of `socket`, once per group. The socket must listen, because one that is shut down has left its
    /// group. A group loses its program with its last listener.
    ///
    /// # Errors
    /// `EINVAL` if the socket does not share its address; `ENOMEM`.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let program = self.program.as_raw_fd();
        let size = size_of_val(&program) as libc::socklen_t;
        // SAFETY: the kernel reads `size` bytes from the live local.
        let status = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_EBPF,
                (&raw const program).cast(),
                size,
            )
        };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Makes `socket` the slot `index`. It must listen.
    ///
    /// # Errors
    /// `EBUSY` if the socket is in a table already ([`Selector::remove`] it first), `EINVAL` if it does not listen, `E2BIG` if the index is
    /// out of range.
    pub fn insert(&self, index: u32, socket: impl AsFd) -> io::Result<()> {
        call::insert_socket(&self.sockets, index, socket.as_fd())
    }

    /// Removes the slot from the table. It is no error if it is not there: a shutdown removes it, too.
    ///
    /// # Errors
    /// `EINVAL` if the index is out of range.
    pub fn remove(&self, index: u32) -> io::Result<()> {
        match call::remove(&self.sockets, &index) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Steers new connections to these slots in turn. If none of them is in the table, the kernel's hash chooses among all listeners of the
    /// group.
    pub fn set_eligible(&self, indexes: &[u32]) {
        self.state.set(List::Select, indexes);
    }

    /// Selects by the client's address, so that a client always gets the same entry of the list, or in turn, which is the default. An index
    /// may be in the list several times.
    pub fn set_by_address(&self, by_address: bool) {
        self.state.set_by_address(by_address);
    }

    /// Sets the counter for the connections of slot `index`.
    pub fn set_tag(&self, index: u32, tag: Tag) {
        self.state.set_tag(index, tag.0);
    }

    /// Sets the slots that get the queue of a slot that is shut down or closed, in turn. Otherwise as [`Selector::set_eligible`].
    pub fn set_migration_targets(&self, indexes: &[u32]) {
        self.state.set(List::Migrate, indexes);
    }

    /// The eligible slots.
    #[must_use]
    pub fn eligible(&self) -> Vec<u32> {
        self.state.get(List::Select)
    }

    /// The counters of slot `index`; zero if the index is out of range.
    #[must_use]
    pub fn counters(&self, index: u32) -> Counters {
        let read = |which| {
            self.state
                .counter(index, which)
                .map_or(0, |count| count.load(Ordering::Relaxed))
        };
        Counters {
            steered: read(Layout::STEERED),
            migrated: read(Layout::MIGRATED),
        }
    }

    /// Resets the counters of an index, for a new slot.
    pub fn clear_counters(&self, index: u32) {
        for which in [Layout::STEERED, Layout::MIGRATED] {
            if let Some(count) = self.state.counter(index, which) {
                count.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// The hint if a privilege is missing.
const NEEDED: &str = "needs CAP_BPF and CAP_PERFMON, or root";
const NEEDED_TO_COUNT: &str = "needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root";

impl LoadStage {
    fn name(self) -> &'static str {
        match self {
            LoadStage::State => "state map",
            LoadStage::Sockets => "socket table",
            LoadStage::Program => "select program",
            LoadStage::Tags => "socket storage",
            LoadStage::Counting => "counting program",
            LoadStage::Link => "link to the control groups",
        }
    }
}

impl LoadError {
    fn new(stage: LoadStage, source: io::Error, log: Option<String>) -> LoadError {
        let needed = match stage {
            LoadStage::Tags | LoadStage::Counting | LoadStage::Link => NEEDED_TO_COUNT,
            LoadStage::State | LoadStage::Sockets | LoadStage::Program => NEEDED,
        };
        let reason = match source.raw_os_error() {
            None => source.to_string(),
            Some(libc::EPERM | libc::EACCES) if log.is_none() => needed.to_owned(),
            // With CAP_BPF alone, the verifier guards against speculation and rejects computed addresses.
            Some(libc::EACCES)
                if log
                    .as_ref()
                    .is_some_and(|log| log.contains("prohibited for !root")) =>
            {
                needed.to_owned()
            }
            Some(libc::ENOSYS) => "this kernel has no bpf(2) (ENOSYS)".to_owned(),
            _ => log.unwrap_or_else(|| "this kernel lacks a part of it (Linux 5.12 has them all)".to_owned()),
        };
        LoadError {
            stage,
            reason,
            source,
        }
    }
}

fn load_program(
    memory: &OwnedFd,
    sockets: &OwnedFd,
    layout: Layout,
    (migrating, counts): (bool, Option<Maps>),
) -> Result<OwnedFd, LoadError> {
    let rejected = |source, log| LoadError::new(LoadStage::Program, source, log);
    let insns = program::assemble(
        memory.as_raw_fd(),
        sockets.as_raw_fd(),
        layout,
        (migrating, counts),
    )
    .map_err(|bad| rejected(io::Error::other(format!("no label {}", bad.0)), None))?;
    let attach_type = if migrating {
        call::SELECT_OR_MIGRATE
    } else {
        call::SELECT
    };
    call::load_program(&insns, (call::SK_REUSEPORT, attach_type)).map_err(|bad| rejected(bad.source, bad.log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_loads_in_both_forms_and_for_any_number_of_slots() {
        for slots in [1, 2, 100, MAX_SLOTS] {
            let selector = match Selector::load(slots) {
                Ok(selector) => selector,
                Err(error) if error.source.raw_os_error() == Some(libc::EPERM) => {
                    assert!(std::env::var("CI").as_deref() != Ok("true"), "{error}");
                    eprintln!("SKIPPED: {error}");
                    return;
                }
                Err(error) => panic!("{error}"),
            };
            assert!(selector.can_migrate());
            let layout = Layout { slots };
            let memory = call::create_map(call::ARRAY, layout.size() as u32, 1, call::MMAPABLE).unwrap();
            load_program(&memory, &selector.sockets, layout, (false, None)).unwrap();
        }
    }

    #[test]
    fn a_refusal_says_what_is_needed() {
        let refusal = LoadError::new(LoadStage::State, io::Error::from_raw_os_error(libc::EPERM), None);
        assert_eq!(
            refusal.to_string(),
            "cannot load the eBPF state map: needs CAP_BPF and CAP_PERFMON, or root"
        );
        let log = Some("R9 !read_ok".to_owned());
        let refusal = LoadError::new(
            LoadStage::Program,
            io::Error::from_raw_os_error(libc::EACCES),
            log,
        );
        assert_eq!(
            refusal.to_string(),
            "cannot load the eBPF select program: R9 !read_ok"
        );
    }
}
