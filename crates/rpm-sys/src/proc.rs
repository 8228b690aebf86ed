//! Small reads from `/proc`, without allocation, and the fields of `/proc/<pid>/stat` used here.

use std::io::{self, Write};

use rustix::fs::{Mode, OFlags, open};

/// The fields of `/proc/<pid>/stat` (proc_pid_stat(5)) that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `D`, `Z`, `T`, `t`, `X`, `I`.
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    /// `PF_…` of the kernel's include/linux/sched.h.
    flags: u64,
    /// User plus system time, in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// Start time after boot, in clock ticks: with the pid it names one process.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Reads `/proc/<pid>/stat`. `ESRCH` or `ENOENT` if there is no such process.
    pub(crate) fn of(pid: u32) -> io::Result<Stat> {
        let mut buffer = [0; 512];
        let text = read(format_args!("/proc/{pid}/stat"), &mut buffer)?;
        Stat::parse(text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Reads the same of one thread.
    pub(crate) fn of_thread(pid: u32, thread: u32) -> io::Result<Stat> {
        let mut buffer = [0; 512];
        let text = read(format_args!("/proc/{pid}/task/{thread}/stat"), &mut buffer)?;
        Stat::parse(text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// True if the process has ended; it may still be a zombie.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// True if the process is ending or has ended: its resources are being released.
    pub(crate) fn is_ending(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        self.is_dead() || self.flags & PF_EXITING != 0
    }

    /// Stopped by a signal or by a tracer.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        // The command may contain blanks and parentheses: fields are counted from the last one.
        let end = text.iter().rposition(|&byte| byte == b')')?;
        let rest = str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let flags = fields.nth(3)?.parse().ok()?;
        let user: u64 = fields.nth(4)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(6)?.parse().ok()?;
        Some(Stat {
            state,
            parent,
            group,
            flags,
            cpu_ticks: user.saturating_add(system),
            start_ticks,
        })
    }
}

/// How a process ended that was not reaped, as wait(2) encodes it; `None` if it runs or does not exist.
pub(crate) fn exit_status(pid: u32) -> Option<i32> {
    const AFTER_STATE: usize = 48;
    let mut buffer = [0; 1024];
    let text = read(format_args!("/proc/{pid}/stat"), &mut buffer).ok()?;
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = str::from_utf8(text.get(end + 1..)?)
        .ok()?
        .split_ascii_whitespace();
    fields.next().filter(|state| *state == "Z")?;
    fields.nth(AFTER_STATE)?.parse().ok()
}

/// Reads the beginning of a file into `buffer` with one `read`.
pub(crate) fn read<'b>(path: std::fmt::Arguments<'_>, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let mut name = [0; 64];
    let mut rest = &mut name[..];
    rest.write_fmt(path)?;
    let unused = rest.len();
    let len = name.len() - unused;
    let file = open(&name[..len], OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buffer))?;
    Ok(&buffer[..len])
}

/// The process of a thread.
pub(crate) fn process_of(thread: u32) -> io::Result<u32> {
    let mut buffer = [0; 512];
    let text = read(format_args!("/proc/{thread}/status"), &mut buffer)?;
    let mut lines = text.split(|&byte| byte == b'\n');
    let number = lines.find_map(|line| {
        str::from_utf8(line.strip_prefix(b"Tgid:")?)
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The flags of a descriptor as fcntl(2) returns them, with `O_CLOEXEC`; `None` if there is no such descriptor or no permission.
pub(crate) fn fd_flags(pid: u32, number: i32) -> Option<i32> {
    let mut buffer = [0; 128];
    let text = read(format_args!("/proc/{pid}/fdinfo/{number}"), &mut buffer).ok()?;
    let mut lines = str::from_utf8(text).ok()?.lines();
    let flags = lines.find_map(|line| line.strip_prefix("flags:"))?;
    i32::from_str_radix(flags.trim(), 8).ok()
}

/// The entries of a directory that are numbers; none if it cannot be read.
pub(crate) fn numbers_in(path: &str) -> impl Iterator<Item = u32> + use<> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_command_with_blanks_and_parentheses() {
        let text = b"42 (a ) b) (c) T 7 42 42 0 -1 4194560 1 2 3 4 11 22 0 0 20 0 5 0 987654 1000 20 \n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: 'T',
                parent: 7,
                group: 42,
                flags: 4_194_560,
                cpu_ticks: 33,
                start_ticks: 987_654
            }
        );
        assert!(stat.is_stopped() && !stat.is_dead() && !stat.is_ending());
        let ending = Stat {
            flags: 4_194_560 | 4,
            ..stat
        };
        assert!(!ending.is_dead() && ending.is_ending());
    }

    #[test]
    fn truncated_stat_is_no_stat() {
        for text in [
            &b""[..],
            b"42",
            b"42 (x)",
            b"42 (x) S 1 2",
            b"42 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14",
        ] {
            assert_eq!(Stat::parse(text), None);
        }
    }

    #[test]
    fn stat_of_this_process() {
        let stat = Stat::of(std::process::id()).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        assert!(!stat.is_dead());
    }
}
