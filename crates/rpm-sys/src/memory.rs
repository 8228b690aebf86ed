//! Settings of the C library's allocator, and the memory that the system has left.

use std::io;
use std::path::Path;

/// Makes all threads use one heap. Several heaps each keep pages, and gain nothing in a process that works on one thread. Does nothing
/// where the C library has no such setting.
pub fn keep_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two numbers; called before there are other threads, as mallopt(3) wants.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Blocks of a megabyte and more go back to the system as soon as they are free. By itself glibc keeps such blocks once one of that size
/// was freed, up to 32 MiB; other C libraries do not.
pub fn map_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two numbers; called before there are other threads, as mallopt(3) wants.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Returns unused pages to the system, where the C library can, after a request that took megabytes.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number only.
    unsafe {
        libc::malloc_trim(0);
    }
    #[cfg(target_env = "musl")]
    crate::allocator::give_back();
}

/// Drops the pages of the program's own file from this process. Those that are needed come back from the page cache; those that only the
/// start needed do not. Nothing is lost, because they are never written.
pub fn give_back_program() {
    #[cfg(target_os = "linux")]
    for (start, length) in program_mappings().unwrap_or_default() {
        let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
        // SAFETY: the kernel drops unwritten pages of a file, and reads them again when they are touched, with the same contents.
        unsafe { libc::madvise(at, length, libc::MADV_DONTNEED) };
    }
}

/// Address and length of the program's code and constants, without what relocations wrote at the start.
#[cfg(target_os = "linux")]
fn program_mappings() -> io::Result<Vec<(usize, usize)>> {
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

/// Memory that new processes can use without taking it from others: what the machine has available (proc_meminfo(5)), or less if a control
/// group of this process has a lower limit.
///
/// # Errors
/// `/proc` is missing, or lacks the figure.
pub fn available() -> io::Result<u64> {
    let info = std::fs::read_to_string("/proc/meminfo")?;
    let machine = field(&info, "MemAvailable:").ok_or(io::ErrorKind::InvalidData)? * 1024;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = groups
        .lines()
        .filter_map(|line| left_in(Path::new("/sys/fs/cgroup"), line));
    Ok(left.fold(machine, u64::min))
}

/// The rest of the limits of a control group and those above it (cgroups(7)). `line` is `0::PATH` in version 2, `N:memory:PATH` in version
/// 1.
fn left_in(mounted: &Path, line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let is_second = controllers.is_empty();
    let (root, limit, used, cache) = match is_second {
        true => (
            mounted.to_owned(),
            "memory.max",
            "memory.current",
            "inactive_file",
        ),
        false if controllers.split(',').any(|name| name == "memory") => (
            mounted.join("memory"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
        false => return None,
    };
    let group = root.join(path.trim_start_matches('/'));
    let above = group.ancestors().take_while(|above| above.starts_with(&root));
    let left = |group: &Path| {
        let number = |name| -> Option<u64> {
            let text = std::fs::read_to_string(group.join(name)).ok()?;
            text.trim().parse().ok()
        };
        // `max` instead of a number means no limit.
        let limit = number(limit)?;
        let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable = field(&stat, cache).unwrap_or(0);
        Some(limit.saturating_sub(number(used)?.saturating_sub(reclaimable)))
    };
    above.filter_map(left).min()
}

/// The number after a name.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn some_memory_is_available_and_not_more_than_there_is() {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = field(&info, "MemTotal:").unwrap() * 1024;
        let available = available().unwrap();
        assert!(
            available > 1 << 20 && available <= total,
            "{available} of {total}"
        );
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_it_counts() {
        let root = std::env::temp_dir().join(format!("rpm-cgroup-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "900\n");
        write("a/memory.stat", "anon 600\ninactive_file 300\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "900\n");
        write("memory/c/memory.limit_in_bytes", "50\n");
        write("memory/c/memory.usage_in_bytes", "70\n");
        for (line, expected) in [
            ("0::/a/b", Some(400)),
            ("0::/a", Some(400)),
            ("0::/gone", None),
            ("0::/", None),
            ("4:cpu,memory:/c", Some(0)),
            ("4:cpu:/c", None),
            ("", None),
        ] {
            assert_eq!(left_in(&root, line), expected, "{line}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    /// The pages of files that are resident in this process.
    fn pages_of_files() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(2).unwrap().parse().unwrap()
    }

    #[test]
    fn large_blocks_go_back_at_once() {
        map_large_blocks();
        let block = || std::hint::black_box(vec![1_u8; 19 << 20]);
        let own = || crate::usage::resident_bytes(std::process::id()).unwrap();
        drop(block());
        let before = own();
        for _ in 0..3 {
            drop(block());
        }
        let after = own();
        assert!(after < before + (10 << 20), "{before} {after}");
        let held = block();
        assert!(own() > before + (10 << 20), "it is measured");
        drop(held);
    }

    #[test]
    fn the_program_goes_on_with_fewer_pages() {
        assert!(program_mappings().unwrap().len() >= 2);
        // Touches the pages, whatever concurrent tests have dropped.
        let before = pages_of_files();
        give_back_program();
        let after = pages_of_files();
        assert!(after < before, "{after} of {before}");
        give_back();
    }
}
