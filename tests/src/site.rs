//! An app whose script the test rewrites.

use std::path::PathBuf;

use rpm_testkit::{Port, Rpm, fixture, node};

/// Two workers named `site`.
#[derive(Debug)]
pub struct Site {
    /// Their daemon.
    pub rpm: Rpm,
    /// Where they listen.
    pub port: Port,
    script: PathBuf,
}

impl Site {
    /// Starts two workers with this program and these options.
    ///
    /// # Panics
    /// They do not start.
    #[must_use]
    pub fn start(rpm: Rpm, body: &str, args: &[&str]) -> Site {
        let site = Site {
            script: rpm.home().join("site.js"),
            port: Port::reserve(),
            rpm,
        };
        site.write(body);
        let started = site
            .rpm
            .command(["start"])
            .arg(&site.script)
            .args(["-i", "2", "--interpreter"])
            .arg(node(22))
            .args(args)
            .env("PORT", site.port.to_string())
            .output()
            .expect("rpm runs");
        assert!(started.status.success(), "{started:?}\n{}", site.rpm.log());
        site
    }

    /// Replaces the program on disk.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, body: &str) {
        std::fs::write(&self.script, body).expect("the script is written");
    }
}

/// A program that answers `GET /`.
#[must_use]
pub fn hello() -> String {
    format!("require({:?})\n", fixture("hello.js"))
}
