//! How the C library's allocator behaves.

/// One heap for all threads, instead of one for each few: a process whose work is on one thread wins nothing by more, and
/// each keeps its pages. Nothing changes where the C library has no such thing.
pub fn keep_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two numbers; it is called before there are other threads, as mallopt(3) wants.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives pages that nothing lies on any more back to the system, where the C library can: what a request of megabytes took.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
