//! An array map with a single entry, mapped into this process: memory that is shared with programs.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The mapping. Its words are accessed only by atomic operations, here and in the programs.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    mapped: usize,
}

// SAFETY: the mapping belongs to this value alone and any thread may access and unmap it.
unsafe impl Send for Memory {}
// SAFETY: all access through a shared reference is atomic.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `size` bytes of `map`, which has at least that many.
    pub(super) fn map(map: &OwnedFd, size: usize) -> io::Result<Memory> {
        let mapped = size.next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address of the kernel's choice, of a map that has `mapped` bytes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Memory { start, mapped })
    }

    /// The u64 at this offset, which must be a multiple of 8 in the mapping.
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.mapped);
        let word = self.start.as_ptr().wrapping_add(offset);
        // SAFETY: an aligned u64 inside the mapping, which lives as long as `self`; this process and
        // the kernel access it by atomic operations only.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// The u32 at this offset, which must be a multiple of 4 in the mapping.
    pub(super) fn half(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.mapped);
        let half = self.start.as_ptr().wrapping_add(offset);
        // SAFETY: as in `word`, for an aligned u32.
        unsafe { AtomicU32::from_ptr(half.cast()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` has mapped; no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}
