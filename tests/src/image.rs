//! Trees of files that become the root of a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Copies a program to `path` below `root`, without symbols, and the libraries that it is linked with to where they are here.
///
/// # Panics
/// It cannot be copied.
pub fn copy_program(program: &Path, root: &Path, path: &str) {
    let copy = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(copy.parent().expect("it has one")).expect("a directory");
    let mut strip = Command::new("objcopy");
    strip.arg("--strip-all").args([program, &copy]);
    assert!(strip.status().expect("objcopy runs").success());
    for library in libraries(program) {
        let copy = root.join(library.strip_prefix("/").expect("ldd prints absolute paths"));
        fs::create_dir_all(copy.parent().expect("it has one")).expect("a directory");
        fs::copy(&library, &copy).expect("the library is copied");
    }
}

/// The files that ld.so(8) loads for a program; none for a static one.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let ran = Command::new("ldd").arg(program).output().expect("ldd runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}
