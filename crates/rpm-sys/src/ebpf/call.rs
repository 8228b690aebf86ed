//! bpf(2): the commands that are used here, with their attributes as laid out in the kernel's `union bpf_attr`.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::asm::Insn;

const MAP_CREATE: c_int = 0;
const MAP_UPDATE_ELEM: c_int = 2;
const MAP_DELETE_ELEM: c_int = 3;
const MAP_LOOKUP_ELEM: c_int = 1;
const PROG_LOAD: c_int = 5;
const BTF_LOAD: c_int = 18;
const LINK_CREATE: c_int = 28;

/// `BPF_PROG_TYPE_SK_REUSEPORT`.
pub(super) const SK_REUSEPORT: u32 = 21;
/// `BPF_PROG_TYPE_SOCK_OPS`, and how it is attached to a control group.
pub(super) const SOCK_OPS: u32 = 13;
pub(super) const CGROUP_SOCK_OPS: u32 = 3;

/// `BPF_MAP_TYPE_HASH`.
pub(super) const HASH: u32 = 1;
/// `BPF_MAP_TYPE_SK_STORAGE` (Linux 5.2): a value in each socket. With `BPF_F_CLONE`, a connection inherits its listener's.
const SK_STORAGE: u32 = 24;
const NO_PREALLOC: u32 = 1;
const CLONE: u32 = 1 << 9;

/// `BPF_MAP_TYPE_ARRAY`.
pub(super) const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`.
pub(super) const REUSEPORT_SOCKARRAY: u32 = 20;
/// The map may be mapped into this process (Linux 5.5).
pub(super) const MMAPABLE: u32 = 1 << 10;
/// Attach type: select a slot for new connections (Linux 4.19).
pub(super) const SELECT: u32 = 39;
/// Attach type: also for the connections of a closing slot (Linux 5.14).
pub(super) const SELECT_OR_MIGRATE: u32 = 40;

/// Room for the end of a verifier log.
const LOG_SIZE: usize = 256 * 1024;
/// Number of the log's last lines that are reported.
const LOG_LINES: usize = 6;

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// True if the descriptor is of this kind (`map`, `prog`, `link`).
pub(super) fn is_a(kind: &str, fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| {
        let text = link.to_string_lossy();
        text.starts_with("anon_inode:") && text.trim_end_matches(']').ends_with(kind)
    })
}

/// Creates a map with `u32` keys.
pub(super) fn create_map(map_type: u32, value_size: u32, entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let attr = MapCreate {
        map_type,
        key_size: 4,
        value_size,
        max_entries: entries,
        map_flags: flags,
        map_name: name(b"rpm_select"),
        ..MapCreate::default()
    };
    // SAFETY: the attributes of MAP_CREATE hold no pointer.
    let fd = unsafe { bpf(MAP_CREATE, &attr) }?;
    // SAFETY: the command returned a new descriptor (close-on-exec, as all of bpf(2) are).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a hash map from u64 to u64.
pub(super) fn create_hash(entries: u32) -> io::Result<OwnedFd> {
    let attr = MapCreate {
        map_type: HASH,
        key_size: 8,
        value_size: 8,
        max_entries: entries,
        map_flags: NO_PREALLOC,
        map_name: name(b"rpm_counts"),
        ..MapCreate::default()
    };
    // SAFETY: the attributes of MAP_CREATE hold no pointer.
    let fd = unsafe { bpf(MAP_CREATE, &attr) }?;
    // SAFETY: the command returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a map with a u64 for each socket, which its connections inherit.
pub(super) fn create_storage() -> io::Result<OwnedFd> {
    let types = load_btf(&TYPES)?;
    let attr = MapCreate {
        map_type: SK_STORAGE,
        key_size: 4,
        value_size: 8,
        map_flags: NO_PREALLOC | CLONE,
        map_name: name(b"rpm_counts"),
        btf_fd: raw(&types),
        btf_key_type_id: 1,
        btf_value_type_id: 2,
        ..MapCreate::default()
    };
    // SAFETY: the attributes of MAP_CREATE hold no pointer.
    let fd = unsafe { bpf(MAP_CREATE, &attr) }?;
    // SAFETY: the command returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The types of the storage's key and value (Documentation/bpf/btf.rst of the Linux kernel): type 1 is an `int`, the key; type 2 is an
/// integer of 64 bits, the value.
const TYPES: [u32; 16] = {
    const HEADER: u32 = 24;
    const INT: u32 = 1 << 24;
    const SIGNED: u32 = 1 << 24;
    [
        // Magic, version and flags, in this machine's byte order.
        u32::from_ne_bytes(if cfg!(target_endian = "little") {
            [0x9f, 0xeb, 1, 0]
        } else {
            [0xeb, 0x9f, 1, 0]
        }),
        HEADER,
        // Offset and length of the types after the header; the same of the names.
        0,
        32,
        32,
        8,
        // Name, kind, bytes; encoding and bits.
        1,
        INT,
        4,
        SIGNED | 32,
        5,
        INT,
        8,
        64,
        u32::from_ne_bytes(*b"\0int"),
        u32::from_ne_bytes(*b"\0u8\0"),
    ]
};

fn load_btf(types: &[u32]) -> io::Result<OwnedFd> {
    let attr = BtfLoad {
        btf: expose(types.as_ptr()),
        size: u32::try_from(size_of_val(types)).unwrap_or(u32::MAX),
        ..BtfLoad::default()
    };
    // SAFETY: the blob is live for the call, with the length stated; there is no log.
    let fd = unsafe { bpf(BTF_LOAD, &attr) }?;
    // SAFETY: the command returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the program for the sockets of a control group and all below it, as long as the link is open in some process (Linux 5.7).
pub(super) fn attach_to_group(program: &OwnedFd, group: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: raw(program),
        target_fd: raw(group),
        attach_type: CGROUP_SOCK_OPS,
        ..LinkCreate::default()
    };
    // SAFETY: the attributes of LINK_CREATE hold no pointer.
    let fd = unsafe { bpf(LINK_CREATE, &attr) }?;
    // SAFETY: the command returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a socket into a `REUSEPORT_SOCKARRAY` with values of 8 bytes.
pub(super) fn insert_socket(map: &OwnedFd, index: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    update(map, &index, u64::from(raw(socket)))
}

/// Sets the value of a key. The key has the size that the map was created with, as has the u64.
pub(super) fn update<K: Key>(map: &OwnedFd, key: &K, value: u64) -> io::Result<()> {
    let attr = MapElement {
        map_fd: raw(map),
        key: expose(key),
        value: expose(&raw const value),
        ..MapElement::default()
    };
    // SAFETY: key and value point at live integers of the sizes the map was created with.
    unsafe { bpf(MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// The value of a key; `ENOENT` without one.
pub(super) fn lookup<K: Key>(map: &OwnedFd, key: &K) -> io::Result<u64> {
    let mut value = 0_u64;
    let attr = MapElement {
        map_fd: raw(map),
        key: expose(key),
        value: expose(&raw mut value),
        ..MapElement::default()
    };
    // SAFETY: key and value point at live integers of the sizes the map was created with.
    unsafe { bpf(MAP_LOOKUP_ELEM, &attr) }?;
    Ok(value)
}

/// Keys of the maps here: an index, a socket's descriptor, or a cookie.
pub(super) trait Key {}
impl Key for u32 {}
impl Key for u64 {}

/// Removes the value of a key; `ENOENT` without one.
pub(super) fn remove<K: Key>(map: &OwnedFd, key: &K) -> io::Result<()> {
    let attr = MapElement {
        map_fd: raw(map),
        key: expose(key),
        ..MapElement::default()
    };
    // SAFETY: the key points at a live integer of the size the map was created with.
    unsafe { bpf(MAP_DELETE_ELEM, &attr) }.map(drop)
}

/// A program that the kernel rejected.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) source: io::Error,
    /// The end of the verifier's log, if the verifier rejected it.
    pub(super) log: Option<String>,
}

/// Loads a program of a type, for an attach type.
pub(super) fn load_program(insns: &[Insn], of: (u32, u32)) -> Result<OwnedFd, Rejected> {
    try_load(insns, of, &mut []).map_err(|source| {
        if matches!(source.raw_os_error(), Some(libc::EPERM)) {
            return Rejected { source, log: None };
        }
        // Loads it again with a log, which costs memory and time and is not needed for a program that loads.
        let mut log = vec![0; LOG_SIZE];
        let _ = try_load(insns, of, &mut log);
        Rejected {
            source,
            log: last_lines(&log),
        }
    })
}

fn try_load(insns: &[Insn], (prog_type, attach_type): (u32, u32), log: &mut [u8]) -> io::Result<OwnedFd> {
    let licence = c"MIT";
    let attr = ProgLoad {
        prog_type,
        insn_cnt: u32::try_from(insns.len()).unwrap_or(u32::MAX),
        insns: expose(insns.as_ptr()),
        license: expose(licence.as_ptr()),
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).unwrap_or(0),
        log_buf: if log.is_empty() {
            0
        } else {
            expose(log.as_mut_ptr())
        },
        prog_name: name(b"rpm_select"),
        expected_attach_type: attach_type,
        ..ProgLoad::default()
    };
    // SAFETY: instructions, licence and log are live for the call, with the lengths stated.
    let fd = unsafe { bpf(PROG_LOAD, &attr) }?;
    // SAFETY: the command returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attr` is what `command` expects, and its pointers are valid for what the command does with them.
unsafe fn bpf<A>(command: c_int, attr: &A) -> io::Result<c_int> {
    // SAFETY: the kernel reads `size_of::<A>()` bytes from a live reference; the caller vouches for the rest.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(c_int::try_from(result).unwrap_or(c_int::MAX))
}

fn raw(fd: impl std::os::fd::AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// A pointer as the kernel wants it in an attribute.
fn expose<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn name(text: &[u8; 10]) -> [u8; 16] {
    let mut name = [0; 16];
    name[..text.len()].copy_from_slice(text);
    name
}

fn last_lines(log: &[u8]) -> Option<String> {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    (!last.is_empty()).then(|| last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::asm::{Asm, Reg, Src};
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        assert_eq!(last_lines(&[0; 16]), None);
        assert_eq!(last_lines(b"one\ntwo\n\0three").unwrap(), "one\ntwo");
        let lines: String = (0..20).map(|line| format!("{line}\n")).collect();
        assert_eq!(last_lines(lines.as_bytes()).unwrap(), "14\n15\n16\n17\n18\n19");
    }

    #[test]
    fn the_verifier_says_why() {
        let mut asm = Asm::default();
        asm.mov(Reg::R0, Src::Reg(Reg::R9));
        asm.exit();
        let rejected = load_program(&asm.assemble().unwrap(), (SK_REUSEPORT, SELECT)).unwrap_err();
        if rejected.source.raw_os_error() == Some(libc::EPERM) {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "eBPF is not available"
            );
            eprintln!("SKIPPED: eBPF is not available: {}", rejected.source);
            return;
        }
        let log = rejected.log.unwrap();
        assert!(log.contains("R9 !read_ok"), "{log}");
    }
}
