//! Files that only their owner can read. Writes are atomic, also with several commands at the same time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// How many names of temporary files are tried: a killed command may have left one whose pid is used again later.
const NAMES: u32 = 100;

/// Replaces a file (0600); its directory (0700) is made if it is absent.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = make_directory(path).and_then(|()| replace(path, text, 0o600));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces a file.
pub(crate) fn replace(path: &Path, text: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
    let (mut file, new) = beside(path, mode)?;
    let written = file
        .write_all(text.as_ref())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The temporary file is not needed any more.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Exclusive right to read a file and replace it.
#[derive(Debug)]
pub(crate) struct Alone {
    _lock: Option<File>,
}

/// Waits until no other command changes the file. Does not wait if the system has no locks.
pub(crate) fn alone(path: &Path) -> anyhow::Result<Alone> {
    let lock = hidden(path, "lock");
    let opened = make_directory(path).and_then(|()| {
        let mut options = OpenOptions::new();
        options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
    });
    let file = opened.with_context(|| format!("cannot open {}", lock.display()))?;
    Ok(Alone {
        _lock: file.lock().is_ok().then_some(file),
    })
}

fn make_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| "/".as_ref());
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Creates a temporary file in the same directory.
fn beside(path: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let mut number = 0;
    loop {
        let new = hidden(path, &format!("{}-{number}.new", std::process::id()));
        let opened = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(&new);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < NAMES => number += 1,
            opened => return Ok((opened?, new)),
        }
    }
}

fn hidden(path: &Path, end: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{end}"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rpm-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[test]
    fn many_may_replace_a_file_at_the_same_time() {
        let directory = directory("many");
        let path = directory.join("a.json");
        let writes = |text: String| {
            let path = path.clone();
            thread::spawn(move || (0..50).try_for_each(|_| replace(&path, &text, 0o600)))
        };
        let texts: Vec<String> = (0..4).map(|number| number.to_string().repeat(9000)).collect();
        let writing: Vec<_> = texts.iter().cloned().map(writes).collect();
        for thread in writing {
            thread.join().expect("it ends").expect("each is written");
        }
        let left = fs::read_to_string(&path).expect("it is there");
        assert!(texts.contains(&left), "it is one of them, whole");
        assert_eq!(
            fs::read_dir(&directory).expect("it is there").count(),
            1,
            "nothing else is left"
        );
        fs::remove_dir_all(&directory).expect("it is ours");
    }

    #[test]
    fn what_a_command_has_left_is_in_nobodys_way() {
        let directory = directory("left");
        let path = directory.join("a.json");
        let (_, left) = beside(&path, 0o600).expect("it is free");
        replace(&path, "whole", 0o600).expect("it is written");
        assert!(left.exists());
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "whole");
        fs::remove_dir_all(&directory).expect("it is ours");
    }

    #[test]
    fn nothing_is_lost_of_what_several_change() {
        let directory = directory("alone");
        let path = directory.join("count");
        let counts = || {
            let path = path.clone();
            thread::spawn(move || {
                for _ in 0..50 {
                    let _alone = alone(&path).expect("a lock");
                    let before = fs::read_to_string(&path).unwrap_or_default();
                    replace(&path, format!("{before}."), 0o600).expect("it is written");
                }
            })
        };
        for thread in [counts(), counts(), counts()] {
            thread.join().expect("it ends");
        }
        assert_eq!(fs::read_to_string(&path).expect("it is there").len(), 150);
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
