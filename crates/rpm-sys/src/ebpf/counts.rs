//! The number of connections of each slot, counted by the kernel as they come and go.
//!
//! Each listening socket has a tag (`BPF_MAP_TYPE_SK_STORAGE`, Linux 5.2), which its connections inherit. A program at the root of the
//! control groups (`BPF_PROG_TYPE_SOCK_OPS`, attached by a link: Linux 5.7) adds a connection when it is established, and subtracts it when
//! the worker closes it or it ends. Incomplete handshakes are counted by the select program, for a second at most, so that those that never
//! complete are forgotten.
//!
//! A tag is `generation << 32 | counted << 16 | number`. The number is the index of the entry. The generation is odd while the number is in
//! use, and differs at each use, so that a late subtraction does not affect a later slot. `counted` is set in the tags of connections that
//! are counted. If a connection migrates to another slot, its new tag is stored by its cookie.
//!
//! An entry is four u64: generation, connections, `second << 32 | handshakes` that began in that second, and one unused.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::memory::Memory;
use super::{LoadError, LoadStage, call, counting};

/// The most slots that are counted at a time.
pub(super) const NUMBERS: usize = 4096;
/// Size of an entry, as a shift.
pub(super) const ENTRY_SHIFT: i32 = 5;
pub(super) const CONNECTIONS: usize = 8;
pub(super) const PENDING: usize = 16;
/// The bit of a tag that marks a counted connection.
pub(super) const COUNTED: i32 = 1 << 16;
pub(super) const NUMBER_MASK: i32 = 0xffff;

/// Room for listeners and open connections that have migrated. Connections beyond it are counted for their first slot.
const MOVED_LIMIT: u32 = 64 * 1024;
/// The number of [`Counts::descriptors`].
pub const DESCRIPTORS: usize = 4;

/// Names a slot to the counting programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub(super) u64);

/// The counts of all slots, and the descriptors that keep them.
#[derive(Debug)]
pub struct Counts {
    /// The tag of each socket.
    pub(super) tags: OwnedFd,
    /// Tags by cookie: of listeners, and of connections whose tag differs from the one they inherited.
    pub(super) moved: OwnedFd,
    pub(super) table: OwnedFd,
    link: OwnedFd,
    memory: Memory,
}

impl Counts {
    /// Starts to count. Counting continues as long as any process holds the descriptors.
    ///
    /// # Errors
    /// A privilege (`CAP_BPF`, `CAP_PERFMON`, `CAP_NET_ADMIN`), version 2 of control groups or a kernel feature is missing; the reason
    /// names it.
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

    /// The descriptors that another process must hold so that counting continues, in the order that [`Counts::taken_back`] takes.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        [&self.tags, &self.moved, &self.table, &self.link].map(AsFd::as_fd)
    }

    /// Takes over the counts from descriptors that another process held; `None` if they are something else.
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

    /// Starts to count the connections of this listening socket, which has this cookie. Existing connections are not counted.
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

    /// The tag of the socket, if its connections are counted already.
    #[must_use]
    pub fn tag_of(&self, socket: impl AsFd) -> Option<Tag> {
        let key = socket.as_fd().as_raw_fd().unsigned_abs();
        let tag = Tag(call::lookup(&self.tags, &key).ok()?);
        self.is_current(tag).then_some(tag)
    }

    /// Ends the counting for a slot that is gone.
    pub fn end(&self, tag: Tag, cookie: u64) {
        let _ = call::remove(&self.moved, &cookie);
        if self.is_current(tag) {
            self.word(tag.number(), 0).fetch_add(1, Ordering::Release);
        }
    }

    /// Frees the numbers of all slots but these: the others ended while no daemon ran.
    pub fn end_all_but(&self, known: &[Tag]) {
        for number in 0..NUMBERS {
            let used = !self.generation(number).is_multiple_of(2);
            if used && !known.iter().any(|tag| tag.number() == number) {
                self.word(number, 0).fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The connections of a slot: those that its worker has open, and those that wait to be accepted.
    #[must_use]
    pub fn connections(&self, tag: Tag) -> u64 {
        if !self.is_current(tag) {
            return 0;
        }
        let count = self.word(tag.number(), CONNECTIONS).load(Ordering::Relaxed);
        // It can be below zero for a moment, if a subtraction overtakes its addition.
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

/// The root of the control groups of version 2, wherever it is mounted. A program attached there sees the sockets of all groups.
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
