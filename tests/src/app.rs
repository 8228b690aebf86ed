//! A fixture program, and how it is started.

use std::ffi::OsString;
use std::process::Command;

use rpm_testkit::{Port, Ran, Rpm, fixture, node, repository};

/// What [`PRINTING`] prints at once, in bytes: far more than pipes, terminals and the daemon buffer.
pub const PRINTED: usize = 32 * 64 * 1024;

/// Prints that much in lines of 128 bytes, makes the file that it is given when it is done, and prints a line for each SIGUSR2.
pub const PRINTING: &str = "const block = `${'n'.repeat(127)}\\n`.repeat(512); let left = 32;
    (function print() {
      if (left-- > 0) process.stdout.write(block, () => setImmediate(print));
      else require('fs').writeFileSync(process.argv[2], '');
    })();
    process.on('SIGUSR2', () => console.log('again'));
    setInterval(() => {}, 1000);";

/// A `start` command for a fixture: its arguments and environment.
#[derive(Clone, Debug)]
pub struct App {
    args: Vec<OsString>,
    env: Vec<(String, String)>,
}

impl App {
    /// A program in fork mode. If its name ends in `.js`, it runs on Node 22.
    #[must_use]
    pub fn new(name: &str) -> App {
        let app = App {
            args: vec!["start".into(), fixture(name).into()],
            env: Vec::new(),
        };
        if name.ends_with(".js") { app.node(22) } else { app }
    }

    /// A `start` command with these words.
    #[must_use]
    pub fn of(words: impl IntoIterator<Item = impl Into<OsString>>) -> App {
        App {
            args: vec!["start".into()],
            env: Vec::new(),
        }
        .args(words)
    }

    /// The program with `-i`.
    #[must_use]
    pub fn cluster(name: &str, instances: &str) -> App {
        App::new(name).args(["-i", instances])
    }

    /// Runs the program where it lies in the checkout, beside installed npm packages. The daemon must be able to read that.
    ///
    /// # Panics
    /// This was not created from a name.
    #[must_use]
    pub fn in_checkout(mut self) -> App {
        let name = std::path::Path::new(&self.args[1]).file_name().expect("a file");
        self.args[1] = repository().join("tests/fixtures/apps").join(name).into();
        self
    }

    /// Runs it on this version of Node.
    #[must_use]
    pub fn node(mut self, major: u32) -> App {
        if let Some(at) = self.args.iter().position(|arg| arg == "--interpreter") {
            self.args.drain(at..at + 2);
        }
        self.args.extend(["--interpreter".into(), node(major).into()]);
        self
    }

    /// Sets `PORT`.
    #[must_use]
    pub fn port(self, port: &Port) -> App {
        self.env("PORT", port)
    }

    /// Sets a variable.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers and texts are written as they are"
    )]
    pub fn env(mut self, key: &str, value: impl ToString) -> App {
        self.env.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds options of `start`.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> App {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The command that starts it, to be run by the caller. It waits until the program listens, however little CPU that gets, unless it has
    /// another `--listen-timeout`.
    #[must_use]
    pub fn command(&self, rpm: &Rpm) -> Command {
        let mut args = self.args.clone();
        if !args.iter().any(|arg| arg == "--listen-timeout") {
            args.splice(1..1, ["--listen-timeout", "30s"].map(OsString::from));
        }
        let mut command = rpm.command(&args);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Starts it, successfully or not.
    ///
    /// # Panics
    /// The command cannot be run.
    #[must_use]
    pub fn try_start(&self, rpm: &Rpm) -> Ran {
        self.command(rpm).output().expect("rpm runs").into()
    }

    /// Starts it.
    ///
    /// # Panics
    /// It fails.
    pub fn start(&self, rpm: &Rpm) -> Ran {
        let ran = self.try_start(rpm);
        assert_eq!(ran.code, Some(0), "{ran:#?}\n{}", rpm.log());
        ran
    }
}
