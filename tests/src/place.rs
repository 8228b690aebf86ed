//! A directory for one test, and commands that run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rpm_testkit::{Ran, Rpm, fixture};

/// The directory, removed when this is dropped.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// Creates an empty directory.
    ///
    /// # Panics
    /// It cannot be created.
    #[must_use]
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rpm-place-{}-{number}", std::process::id()));
        // A killed test may have left one, if its process had the same pid.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Place(path.canonicalize().expect("its path"))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(&path, text).expect("a file");
        path
    }

    /// Compiles a server in C that answers requests one after the other, and is small enough to run hundreds of it.
    ///
    /// # Panics
    /// There is no `cc`, or it fails.
    #[must_use]
    pub fn small_server(&self) -> PathBuf {
        let program = self.0.join("hello");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).arg(&program).arg(fixture("hello.c"));
        assert!(cc.status().expect("cc runs").success());
        program
    }

    /// The contents of a file; empty if there is none.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// Runs a command in the directory.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn run(&self, rpm: &Rpm, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.pipe(rpm, args, "")
    }

    /// As [`Place::run`], with standard input.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn pipe(&self, rpm: &Rpm, args: impl IntoIterator<Item = impl AsRef<OsStr>>, input: &str) -> Ran {
        let mut command = rpm.command(args);
        command
            .current_dir(&self.0)
            .env("PWD", &self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("it is a pipe");
        // This fails if the command has ended.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command in the directory, which must succeed.
    ///
    /// # Panics
    /// It fails.
    pub fn ok(&self, rpm: &Rpm, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        let ran = self.run(rpm, args);
        assert_eq!(ran.code, Some(0), "{ran:#?}\n{}", rpm.log());
        ran
    }
}

impl Default for Place {
    fn default() -> Place {
        Place::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
