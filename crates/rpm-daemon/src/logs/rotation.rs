//! Files that have grown large get a number, by renaming: nothing is copied, and nothing lost.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// `<file>.<number>`.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// The file becomes number 1, that one number 2, and so on; at most `keep` remain.
pub(crate) fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return fs::remove_file(path);
    }
    // Those before it stay where they are if there is nothing to come before them.
    path.symlink_metadata()?;
    // As far as there are any: the first gap takes what is before it.
    let last = (1..keep)
        .find(|number| !numbered(path, *number).exists())
        .unwrap_or(keep);
    for number in (1..last).rev() {
        fs::rename(numbered(path, number), numbered(path, number + 1))?;
    }
    fs::rename(path, numbered(path, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_kept() {
        let dir = std::env::temp_dir().join(format!("rpm-numbered-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.log");
        for text in ["one", "two", "three", "four"] {
            fs::write(&path, text).unwrap();
            rotate(&path, 3).unwrap();
        }
        let read = |number| fs::read_to_string(numbered(&path, number)).ok();
        assert_eq!(
            [1, 2, 3, 4].map(read),
            [
                Some("four".into()),
                Some("three".into()),
                Some("two".into()),
                None
            ]
        );
        assert!(rotate(&path, 3).is_err(), "there is none");
        assert_eq!(read(1).as_deref(), Some("four"), "the others stay");
        fs::write(&path, "five").unwrap();
        rotate(&path, 0).unwrap();
        assert!(!path.exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
