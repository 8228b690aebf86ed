//! A directory of a test's own, and commands that are typed there.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rpm_testkit::{Ran, Rpm, fixture};

/// It is removed with the value.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// An empty one.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rpm-place-{}-{number}", std::process::id()));
        // A test that was killed has left it, whose process had the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Place(path.canonicalize().expect("its path"))
    }

    /// Where it is.
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

    /// Compiles a server in C that is small enough to have hundreds of it, and answers one request after the other.
    ///
    /// # Panics
    /// There is no `cc`, or it does not compile it.
    #[must_use]
    pub fn small_server(&self) -> PathBuf {
        let program = self.0.join("hello");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).arg(&program).arg(fixture("hello.c"));
        assert!(cc.status().expect("cc runs").success());
        program
    }

    /// What is in a file; nothing if there is none.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    /// Types a command here.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn run(&self, rpm: &Rpm, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.pipe(rpm, args, "")
    }

    /// The same, with something on its standard input.
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
        // One that does not read has ended.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Types a command here that must succeed.
    ///
    /// # Panics
    /// It does not.
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
