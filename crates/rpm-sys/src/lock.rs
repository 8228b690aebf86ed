//! A lock file (flock(2)): one holder at a time, released by the kernel when the holder dies.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// Pause between two attempts of [`LockFile::lock_within`]; holders keep the lock for longer.
const RETRY: Duration = Duration::from_millis(5);

/// A held lock. The file is never removed: otherwise two processes could lock two files of the same name.
#[derive(Debug)]
pub struct LockFile {
    file: OwnedFd,
}

impl LockFile {
    /// Another descriptor of the same lock. The lock is held until the last one is closed.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }

    /// A lock that was passed to this process.
    #[must_use]
    pub fn passed(file: OwnedFd) -> LockFile {
        LockFile { file }
    }

    /// Locks `path`, which is created with mode 0600 if needed. `None` if another process holds the lock.
    ///
    /// # Errors
    /// The file cannot be created: `EACCES`, `ENOENT` (no such directory), `ENOSPC`, `EROFS`.
    pub fn try_lock(path: &Path) -> io::Result<Option<LockFile>> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::io::retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(LockFile { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tries for as long as `within`; `None` if another process held the lock all the time.
    ///
    /// # Errors
    /// As [`LockFile::try_lock`].
    pub fn lock_within(path: &Path, within: Duration) -> io::Result<Option<LockFile>> {
        let began = Instant::now();
        loop {
            if let Some(lock) = LockFile::try_lock(path)? {
                return Ok(Some(lock));
            }
            let left = within.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(left.min(RETRY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_free_when_dropped() {
        let path = std::env::temp_dir().join(format!("rpm-sys-lock-{}", std::process::id()));
        let first = LockFile::try_lock(&path).unwrap().unwrap();
        assert!(LockFile::try_lock(&path).unwrap().is_none());
        let began = Instant::now();
        assert!(
            LockFile::lock_within(&path, Duration::from_millis(20))
                .unwrap()
                .is_none()
        );
        assert!(began.elapsed() >= Duration::from_millis(20));
        drop(first);
        assert!(
            LockFile::lock_within(&path, Duration::from_secs(5))
                .unwrap()
                .is_some()
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let error = LockFile::try_lock(Path::new("/nonexistent/lock")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
