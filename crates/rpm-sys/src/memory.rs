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

/// Lets go of the pages of the program's own file: those that are needed come back from the system's cache as they are used, and those that
/// only the start has needed do not. Nothing is lost, for nobody writes to them.
pub fn give_back_program() {
    #[cfg(target_os = "linux")]
    for (start, length) in program_mappings().unwrap_or_default() {
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
        // SAFETY: the kernel drops unwritten pages of a file, and reads them again when they are touched; what they hold stays the same.
        unsafe { libc::madvise(at, length, libc::MADV_DONTNEED) };
    }
}

/// Where the program's code and constants lie: addresses and lengths. What was written at the start (relocations) is not among them.
#[cfg(target_os = "linux")]
fn program_mappings() -> std::io::Result<Vec<(usize, usize)>> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let clean = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = line.get(line.find('/')?..)?;
        let is_first = offset.bytes().all(|byte| byte == b'0');
        if path != program || !(rights == "r-xp" || (rights == "r--p" && is_first)) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        Some((start, end.checked_sub(start)?))
    };
    Ok(maps.lines().filter_map(clean).collect())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Pages of files that this process has in its memory.
    fn pages_of_files() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(2).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_goes_on_with_fewer_pages() {
        assert!(program_mappings().unwrap().len() >= 2);
        // Touched, whatever the tests beside this one have done.
        let before = pages_of_files();
        give_back_program();
        let after = pages_of_files();
        assert!(after < before, "{after} of {before}");
        give_back();
    }
}
