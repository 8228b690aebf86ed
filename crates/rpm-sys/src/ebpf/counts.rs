//! How many connections each slot has, counted by the kernel as they come and go.
//!
//! Each listening socket is tagged (`BPF_MAP_TYPE_SK_STORAGE`, Linux 5.2), its connections inherit the tag, and a program on
//! the root of the control groups counts them up when they are established and down when the worker closes them, or they end
//! (`BPF_PROG_TYPE_SOCK_OPS`, attached by a link: Linux 5.7). Handshakes that are not complete are counted by the select
//! program for a second at most, so that those which never complete are forgotten.
//!
//! A tag is `generation << 32 | counted << 16 | number`: the number says where the count is; the generation is odd while the
//! number is in use, and another one each time, so that nothing is taken from the count of a later slot; `counted` is set in
//! connections that are part of the count. Where a connection migrated to another slot, its new tag is kept by its cookie.
//!
//! The memory, per number: generation, connections, `second << 32 | handshakes` that began in it, unused; each a u64.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::memory::Memory;
use super::{LoadError, LoadStage, call, counting};

/// Slots that are counted at a time.
pub(super) const NUMBERS: usize = 4096;
/// Bytes per number, as a shift.
pub(super) const ENTRY_SHIFT: i32 = 5;
pub(super) const CONNECTIONS: usize = 8;
pub(super) const PENDING: usize = 16;
/// In a tag.
pub(super) const COUNTED: i32 = 1 << 16;
pub(super) const NUMBER_MASK: i32 = 0xffff;

/// Listeners, and connections that have migrated and are open still; those beyond this are counted where they were.
const MOVED_LIMIT: u32 = 64 * 1024;
/// The descriptors of [`Counts::descriptors`].
pub const DESCRIPTORS: usize = 4;

/// Names a slot to those that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub(super) u64);

/// The counts of all slots, and what keeps them.
#[derive(Debug)]
pub struct Counts {
    /// The tag of each socket.
    pub(super) tags: OwnedFd,
    /// Tags by cookie: those of the listeners, and of connections that have another than they were born with.
    pub(super) moved: OwnedFd,
    pub(super) table: OwnedFd,
    link: OwnedFd,
    memory: Memory,
}

impl Counts {
    /// Begins to count. As long as one process has the descriptors it goes on.
    ///
    /// # Errors
    /// No privilege (`CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN`), no control groups of version 2, or a kernel that lacks something;
    /// the reason says which.
    pub fn load() -> Result<Counts, LoadError> {
        let at = |stage| move |source| LoadError::new(stage, source, None);
        let size = u32::try_from(NUMBERS << ENTRY_SHIFT).unwrap_or(u32::MAX);
        let table = call::create_map(call::ARRAY, size, 1, call::MMAPABLE).map_err(at(LoadStage::State))?;
        let memory = Memory::map(&table, NUMBERS << ENTRY_SHIFT).map_err(at(LoadStage::State))?;
        let tags = call::create_storage().map_err(at(LoadStage::Tags))?;
        let moved = call::create_hash(MOVED_LIMIT).map_err(at(LoadStage::Tags))?;
        let insns = counting::assemble(tags.as_raw_fd(), moved.as_raw_fd(), table.as_raw_fd())
            .map_err(|bad| at(LoadStage::Counting)(io::Error::other(format!("no label {}", bad.0))))?;
        let program = call::load_program(&insns, (call::SOCK_OPS, call::CGROUP_SOCK_OPS))
            .map_err(|bad| LoadError::new(LoadStage::Counting, bad.source, bad.log))?;
        let root = control_groups().map_err(at(LoadStage::Link))?;
        let link = call::attach_to_group(&program, root.as_fd()).map_err(at(LoadStage::Link))?;
        Ok(Counts {
            tags,
            moved,
            table,
            link,
            memory,
        })
    }

    /// What another process must hold for the counts to go on, in the order that [`Counts::taken_back`] wants.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        [&self.tags, &self.moved, &self.table, &self.link].map(AsFd::as_fd)
    }

    /// From descriptors that another process had kept; `None` if they are something else.
    ///
    /// # Errors
    /// The memory cannot be mapped.
    pub fn taken_back(fds: [OwnedFd; DESCRIPTORS]) -> io::Result<Option<Counts>> {
        let kinds = ["map", "map", "map", "link"];
        if !fds.iter().zip(kinds).all(|(fd, kind)| call::is_a(kind, fd)) {
            return Ok(None);
        }
        let [tags, moved, table, link] = fds;
        let memory = Memory::map(&table, NUMBERS << ENTRY_SHIFT)?;
        Ok(Some(Counts {
            tags,
            moved,
            table,
            link,
            memory,
        }))
    }

    /// From now on the connections of this listening socket, which has this cookie, are counted; those it has are not.
    ///
    /// # Errors
    /// All numbers are in use, `ENOMEM`.
    pub fn begin(&self, socket: impl AsFd, cookie: u64) -> io::Result<Tag> {
        let free = (0..NUMBERS).find(|number| self.generation(*number).is_multiple_of(2));
        let number =
            free.ok_or_else(|| io::Error::other(format!("at most {NUMBERS} slots can be counted")))?;
        let generation = self.generation(number) + 1;
        let tag = Tag((generation & u64::from(u32::MAX)) << 32 | number as u64);
        for field in [CONNECTIONS, PENDING] {
            self.word(number, field).store(0, Ordering::Relaxed);
        }
        self.word(number, 0).store(generation, Ordering::Release);
        let key = socket.as_fd().as_raw_fd().unsigned_abs();
        let tagged =
            call::update(&self.tags, &key, tag.0).and_then(|()| call::update(&self.moved, &cookie, tag.0));
        match tagged {
            Ok(()) => Ok(tag),
            Err(error) => {
                self.end(tag, cookie);
                Err(error)
            }
        }
    }

    /// The tag that the socket has, if its connections are counted already.
    #[must_use]
    pub fn tag_of(&self, socket: impl AsFd) -> Option<Tag> {
        let key = socket.as_fd().as_raw_fd().unsigned_abs();
        let tag = Tag(call::lookup(&self.tags, &key).ok()?);
        self.is_current(tag).then_some(tag)
    }

    /// The slot is gone.
    pub fn end(&self, tag: Tag, cookie: u64) {
        let _ = call::remove(&self.moved, &cookie);
        if self.is_current(tag) {
            self.word(tag.number(), 0).fetch_add(1, Ordering::Release);
        }
    }

    /// Frees the numbers of slots that are gone unseen: all but these.
    pub fn end_all_but(&self, known: &[Tag]) {
        for number in 0..NUMBERS {
            let used = !self.generation(number).is_multiple_of(2);
            if used && !known.iter().any(|tag| tag.number() == number) {
                self.word(number, 0).fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The connections of a slot that its worker has open, and those that wait to be accepted.
    #[must_use]
    pub fn connections(&self, tag: Tag) -> u64 {
        if !self.is_current(tag) {
            return 0;
        }
        let count = self.word(tag.number(), CONNECTIONS).load(Ordering::Relaxed);
        // Below zero for a moment, if a count down overtakes its count up.
        u64::try_from(count.cast_signed()).unwrap_or(0)
    }

    fn is_current(&self, tag: Tag) -> bool {
        let generation = self.generation(tag.number());
        !generation.is_multiple_of(2) && generation & u64::from(u32::MAX) == tag.0 >> 32
    }

    fn generation(&self, number: usize) -> u64 {
        self.word(number, 0).load(Ordering::Acquire)
    }

    fn word(&self, number: usize, field: usize) -> &std::sync::atomic::AtomicU64 {
        self.memory.word((number.min(NUMBERS - 1) << ENTRY_SHIFT) + field)
    }
}

impl Tag {
    fn number(self) -> usize {
        usize::try_from(self.0 & NUMBER_MASK.unsigned_abs() as u64).unwrap_or(0)
    }
}

/// The root of the control groups of version 2, wherever they are mounted: what is attached there sees the sockets of all groups.
fn control_groups() -> io::Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let of_version_2 = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?.to_owned();
        (fields.next()? == "cgroup2").then_some(path)
    };
    let path = mounts.lines().find_map(of_version_2);
    File::open(path.ok_or_else(|| io::Error::other("control groups of version 2 are not mounted"))?)
}
