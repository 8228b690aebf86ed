//! The daemon's own log: bounded, and never waited for. All threads write to it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rpm_sys::daemonize::redirect_stdio;

use crate::home::private_file;
use crate::logs::rotation::rotate;

/// The file is rotated when it has so many bytes, and so many of those before are kept.
const LIMIT_BYTES: u64 = 10 << 20;
const KEPT_FILES: u32 = 2;

/// `$RPM_HOME/rpm.log`.
#[derive(Debug)]
pub(crate) struct OwnLog {
    path: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Lines that a full disk, or a pipe that nobody reads, did not take.
    lost: u64,
    /// Standard output and error are this file too: what the process says when it panics.
    has_stdio: bool,
}

impl OwnLog {
    /// Opens it.
    ///
    /// # Errors
    /// As `open(2)`.
    pub(crate) fn open(path: &Path) -> io::Result<OwnLog> {
        Ok(OwnLog {
            path: path.to_owned(),
            limit: LIMIT_BYTES,
            state: Mutex::new(State {
                file: private_file(path)?,
                lost: 0,
                has_stdio: false,
            }),
        })
    }

    /// Standard output and error are this file from now on; `leave` is what makes them so.
    ///
    /// # Errors
    /// Those of `leave`.
    pub(crate) fn take_stdio(&self, leave: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        leave(&state.file)?;
        state.has_stdio = true;
        Ok(())
    }
}

impl State {
    fn begin_anew(&mut self, path: &Path) -> io::Result<()> {
        match rotate(path, KEPT_FILES) {
            // Somebody has removed it, or it was renamed the last time and nothing could be opened in its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            rotated => rotated?,
        }
        self.file = private_file(path)?;
        if self.has_stdio {
            redirect_stdio(Some(self.file.as_fd()))?;
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8]) {
        if self.lost > 0 {
            let mark = format!("[rpm: {} lines of this log were lost here]\n", self.lost);
            if self.file.write_all(mark.as_bytes()).is_ok() {
                self.lost = 0;
            }
        }
        if self.lost > 0 || self.file.write_all(line).is_err() {
            self.lost += 1;
        }
    }
}

impl Write for &OwnLog {
    /// Takes a line, and says so whatever becomes of it: there is no other place to complain.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = state.file.metadata();
        if meta.is_ok_and(|meta| meta.is_file() && meta.len() >= self.limit) {
            // One that cannot be rotated goes on growing.
            let _ = state.begin_anew(&self.path);
        }
        state.write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rpm-own-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn it_is_rotated_at_its_limit_and_few_are_kept() {
        let dir = scratch("limit");
        let path = dir.join("rpm.log");
        let mut log = OwnLog::open(&path).unwrap();
        log.limit = 10;
        for number in 0..9 {
            (&log).write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let names = ["rpm.log.2", "rpm.log.1", "rpm.log"];
        assert_eq!(
            names.map(read),
            ["line 4\nline 5\n", "line 6\nline 7\n", "line 8\n"]
        );
        assert!(!dir.join("rpm.log.3").exists());
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            (&log).write_all(b"after it was removed\n").unwrap();
        }
        assert_eq!(
            names.map(read)[1..],
            ["line 6\nline 7\n", "after it was removed\n"]
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
        let dir = scratch("pipe");
        let path = dir.join("rpm.log");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let mut reader = File::from(rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap());
        let log = OwnLog::open(&path).unwrap();
        for _ in 0..100 {
            (&log).write_all(&[b'x'; 4096]).unwrap();
        }
        let mut text = vec![0; 1 << 20];
        let kept = reader.read(&mut text).unwrap() / 4096;
        (&log).write_all(b"last\n").unwrap();
        let count = reader.read(&mut text).unwrap();
        let expected = format!("[rpm: {} lines of this log were lost here]\nlast\n", 100 - kept);
        assert_eq!(String::from_utf8_lossy(&text[..count]), expected);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
