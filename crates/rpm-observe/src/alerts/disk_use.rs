//! How much of the disk logs take, and how full it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

/// The most files of a directory that are looked at.
const FILES: usize = 50_000;
/// Bytes of a block, as `st_blocks` counts.
const BLOCK: u64 = 512;

/// How many bytes of the disk each of these logs takes, with its rotated files, compressed ones too. A link is what it leads to, once.
pub(crate) fn sizes(logs: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, u64> {
    let (mut sizes, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let directories: BTreeSet<&Path> = logs.iter().filter_map(|log| log.parent()).collect();
    for directory in directories {
        let Ok(entries) = fs::read_dir(directory) else {
            continue;
        };
        for entry in entries.flatten().take(FILES) {
            let path = entry.path();
            let Some(log) = log_of(&path, logs) else { continue };
            let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
            if let Some(meta) = meta.filter(|meta| seen.insert((meta.dev(), meta.ino(), log.clone()))) {
                *sizes.entry(log).or_default() += meta.blocks() * BLOCK;
            }
        }
    }
    sizes
}

/// The log that a file is of: the one that has its name, or the one whose name its own begins with if it is a rotated file.
fn log_of(file: &Path, logs: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    if logs.contains(file) {
        return Some(file.to_owned());
    }
    let name = file.file_name().and_then(OsStr::to_str)?;
    let ends = name.match_indices(['.', '-']).map(|(at, _)| at);
    // The longest: another log may be named after the first.
    let of = ends
        .rev()
        .map(|at| (file.with_file_name(&name[..at]), &name[at + 1..]));
    of.filter(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()) || rest.starts_with("old"))
        .map(|(log, _)| log)
        .find(|log| logs.contains(log))
}

/// How full the disk with this file is, in percent of what a user can have, as `df` says it.
pub(crate) fn fullness(path: &Path) -> Option<f64> {
    let disk = statvfs(path.parent()?).ok()?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let all = used + disk.f_bavail;
    (all > 0).then(|| 100.0 * used as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_log_is_all_its_files() {
        let directory = std::env::temp_dir().join(format!("rpm-sizes-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        for (name, blocks) in [
            ("a.log", 1),
            ("a.log.1", 2),
            ("a.log-20260101.gz", 4),
            ("a.log.old", 8),
            // Logs of others.
            ("a.log-2", 16),
            ("a.log-2.1", 32),
            ("a.log.txt", 64),
            ("ba.log", 64),
            (".a.log.times", 64),
        ] {
            fs::write(directory.join(name), vec![1; blocks * 4096]).expect("a file");
        }
        fs::write(directory.join("elsewhere"), vec![1; 4096]).expect("a file");
        for (link, to) in [
            ("far.log", "elsewhere"),
            ("far.log.1", "elsewhere"),
            ("far.log.2", "gone"),
        ] {
            symlink(to, directory.join(link)).expect("a link");
        }
        let logs = ["a.log", "a.log-2", "none.log", "far.log"].map(|name| directory.join(name));
        let sizes = sizes(&BTreeSet::from(logs.clone()));
        let of = |log: &PathBuf| sizes.get(log).copied();
        assert_eq!(of(&logs[0]), Some(15 * 4096));
        assert_eq!(of(&logs[1]), Some(48 * 4096));
        assert_eq!(of(&logs[2]), None);
        assert_eq!(of(&logs[3]), Some(4096), "what the links lead to, once");
        let full = fullness(&logs[0]).expect("it lies on a disk");
        assert!((0.0..=100.0).contains(&full), "{full}");
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
