//! Which way of steering a test is about, and whether this machine permits it.

use rpm_testkit::{Rpm, skip};

/// A way to steer connections, and the daemon that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// eBPF, by a daemon of the user that runs the tests.
    Ebpf,
    /// eBPF, by an unprivileged daemon whose binary has the file capabilities for it.
    Capable,
    /// Classic BPF, by an unprivileged daemon.
    Classic,
}

impl Path {
    /// Its name in `describe`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Path::Ebpf | Path::Capable => "ebpf",
            Path::Classic => "cbpf",
        }
    }

    /// A daemon that will steer this way. `None` where that cannot be had; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it cannot be had.
    #[must_use]
    pub fn rpm(self, test: &str) -> Option<Rpm> {
        match self {
            Path::Ebpf => Some(Rpm::new()),
            Path::Capable => Rpm::capable(test, "cap_bpf,cap_perfmon+ep"),
            Path::Classic => Rpm::unprivileged(test),
        }
    }

    /// Whether the first listener of `app` is steered this way. Only a machine that forbids eBPF may say no.
    ///
    /// # Panics
    /// In CI, and if an unprivileged daemon steers in another way than it must.
    #[must_use]
    pub fn is_used(self, rpm: &Rpm, app: &str, test: &str) -> bool {
        let listener = rpm
            .describe(app)
            .listeners
            .into_iter()
            .next()
            .expect("the app listens");
        if listener.steering == self.name() {
            return true;
        }
        assert_eq!(self, Path::Ebpf, "{listener:?}");
        skip(test, &format!("no eBPF here: {}", listener.reason));
        false
    }
}
