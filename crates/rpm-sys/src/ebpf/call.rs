//! bpf(2): the few commands used here, with their attributes as the kernel's `union bpf_attr` lays them
//! out.

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::asm::Insn;

const MAP_CREATE: c_int = 0;
const MAP_UPDATE_ELEM: c_int = 2;
const MAP_DELETE_ELEM: c_int = 3;
const PROG_LOAD: c_int = 5;

const PROG_TYPE_SK_REUSEPORT: u32 = 21;

/// `BPF_MAP_TYPE_ARRAY`.
pub(super) const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`.
pub(super) const REUSEPORT_SOCKARRAY: u32 = 20;
/// The map may be mapped into this process (Linux 5.5).
pub(super) const MMAPABLE: u32 = 1 << 10;
/// Select a slot for new connections (Linux 4.19).
pub(super) const SELECT: u32 = 39;
/// And for those of a closing slot (Linux 5.14).
pub(super) const SELECT_OR_MIGRATE: u32 = 40;

/// Enough for the end of a verifier log.
const LOG_SIZE: usize = 256 * 1024;
/// How many of its last lines a reader wants.
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

/// Puts a socket into a `REUSEPORT_SOCKARRAY` whose values have 8 bytes.
pub(super) fn insert_socket(map: &OwnedFd, index: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = u64::from(raw(socket));
    let attr = MapElement {
        map_fd: raw(map),
        key: expose(&raw const index),
        value: expose(&raw const value),
        ..MapElement::default()
    };
    // SAFETY: key and value point at live locals of the sizes the map was created with.
    unsafe { bpf(MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Empties an index; `ENOENT` if it is empty.
pub(super) fn remove(map: &OwnedFd, index: u32) -> io::Result<()> {
    let attr = MapElement {
        map_fd: raw(map),
        key: expose(&raw const index),
        ..MapElement::default()
    };
    // SAFETY: the key points at a live local of the size the map was created with.
    unsafe { bpf(MAP_DELETE_ELEM, &attr) }.map(drop)
}

/// A program the kernel did not take.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) source: io::Error,
    /// The end of the verifier's log, if it had a say.
    pub(super) log: Option<String>,
}

/// Loads a select program.
pub(super) fn load_program(insns: &[Insn], attach_type: u32) -> Result<OwnedFd, Rejected> {
    try_load(insns, attach_type, &mut []).map_err(|source| {
        if matches!(source.raw_os_error(), Some(libc::EPERM)) {
            return Rejected { source, log: None };
        }
        // Once more for the reasons: a log costs memory and time, and normally nobody reads it.
        let mut log = vec![0; LOG_SIZE];
        let _ = try_load(insns, attach_type, &mut log);
        Rejected {
            source,
            log: last_lines(&log),
        }
    })
}

fn try_load(insns: &[Insn], attach_type: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let licence = c"MIT";
    let attr = ProgLoad {
        prog_type: PROG_TYPE_SK_REUSEPORT,
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
        let rejected = load_program(&asm.assemble().unwrap(), SELECT).unwrap_err();
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
