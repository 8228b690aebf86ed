//! How `rpm` becomes `rpm-observe`. What is rich (screens, exporters) has a program of its own, so that the one that runs for months, and is
//! copied into images, stays small.
//!
//! `rpm` is executed in place: the process, its name and its terminal stay. The arguments are the version and the path of `rpm`, then the
//! words of the command line, which both programs read by the same grammar.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, anyhow, bail, ensure};

/// The file of the other program.
pub const PROGRAM: &str = "rpm-observe";

/// Where packages have it: below the parent of the directory of `rpm`, among the programs that nobody types.
const PACKAGED: &str = "lib/rpmx";

/// Both programs are of one version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Executes `rpm-observe` with the arguments of this process. Returns only if it cannot.
///
/// # Errors
/// It is not installed, or cannot be executed.
pub fn become_it() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let companion = find(&program)?;
    let mut words = std::env::args_os();
    let mut command = Command::new(&companion);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    let failed: io::Error = command.arg(VERSION).arg(program).args(words).exec();
    Err(failed).with_context(|| format!("cannot execute {}", companion.display()))
}

/// Beside `rpm`, or where packages have it.
fn find(program: &Path) -> anyhow::Result<PathBuf> {
    let beside = program
        .parent()
        .context("this program's own file has no directory")?;
    let packaged = beside.parent().map(|above| above.join(PACKAGED));
    let places = || [Some(beside), packaged.as_deref()].into_iter().flatten();
    let found = places()
        .map(|place| place.join(PROGRAM))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        let places: Vec<String> = places().map(|place| place.display().to_string()).collect();
        anyhow!(
            "this command needs the program {PROGRAM}, which is not in {}; put it there, from the same release as {} \
             (in a checkout, cargo build makes both)",
            places.join(" or "),
            program.display()
        )
    })
}

/// What `rpm` says to `rpm-observe`.
#[derive(Debug, PartialEq, Eq)]
pub struct Called {
    /// The path of `rpm`, which is started as the daemon if none runs.
    pub program: PathBuf,
    /// The words of the command line of `rpm`, with its name.
    pub words: Vec<OsString>,
}

/// Reads the arguments of `rpm-observe`.
///
/// # Errors
/// They are not those of [`become_it`], or of another version.
pub fn called(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<Called> {
    let mut args = args.into_iter();
    let (name, version, program) = (args.next(), args.next(), args.next());
    let (Some(name), Some(version), Some(program)) = (name, version, program.map(PathBuf::from)) else {
        bail!("{PROGRAM} is a part of rpm, which runs it: `rpm monit`, `rpm observe`");
    };
    ensure!(
        program.is_absolute(),
        "{PROGRAM} is a part of rpm, which runs it: `rpm monit`, `rpm observe`"
    );
    ensure!(
        version == VERSION,
        "{PROGRAM} is of version {VERSION}, {} of version {}; install both of the same version",
        program.display(),
        version.display()
    );
    let words = [name].into_iter().chain(args).collect();
    Ok(Called { program, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_beside_the_program_and_then_where_packages_have_it() {
        let place = std::env::temp_dir().join(format!("rpm-companion-{}", std::process::id()));
        let (beside, packaged) = (place.join("bin"), place.join("lib/rpmx"));
        let program = beside.join("rpm");
        let missing = find(&program).expect_err("there is nothing").to_string();
        for directory in [&beside, &packaged] {
            assert!(missing.contains(&*directory.to_string_lossy()), "{missing}");
        }
        for directory in [&packaged, &beside] {
            std::fs::create_dir_all(directory).expect("a directory");
            let file = directory.join(PROGRAM);
            std::fs::write(&file, "").expect("a file");
            assert_eq!(find(&program).expect("it is there"), file);
        }
        std::fs::remove_dir_all(place).expect("it is ours");
    }

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_words_are_those_of_the_command_line() {
        let read = called(args(&[
            "rpmx",
            VERSION,
            "/usr/bin/rpmx",
            "observe",
            "--listen",
            "0",
        ]));
        let read = read.expect("it is called");
        assert_eq!(read.program, Path::new("/usr/bin/rpmx"));
        assert_eq!(read.words, args(&["rpmx", "observe", "--listen", "0"]));
    }

    #[test]
    fn what_nobody_but_rpm_says_is_refused() {
        for words in [
            &["rpm-observe"][..],
            &["rpm-observe", "--listen", "0"],
            &["rpm-observe", VERSION, "rpm", "observe"],
        ] {
            let refused = called(args(words))
                .expect_err("it is not called by rpm")
                .to_string();
            assert!(refused.contains("`rpm observe`"), "{words:?}: {refused}");
        }
        let other = called(args(&["rpm", "0.0.9", "/usr/bin/rpm", "monit"])).expect_err("of another version");
        for part in [VERSION, "/usr/bin/rpm", "0.0.9"] {
            assert!(other.to_string().contains(part), "{other}");
        }
    }
}
