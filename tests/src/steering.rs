//! The steering mechanism that a test is about, and whether this machine permits it.

use std::collections::BTreeSet;
use std::time::Duration;

use rpm_testkit::{Rpm, skip, wait_for};

/// A mechanism, and the daemon that uses it.
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

    /// A daemon that uses this mechanism. `None` if the machine forbids it; in CI that fails.
    ///
    /// # Panics
    /// In CI, if it is not possible.
    #[must_use]
    pub fn rpm(self, test: &str) -> Option<Rpm> {
        match self {
            Path::Ebpf => Some(Rpm::new()),
            Path::Capable => Rpm::capable(test, "cap_bpf,cap_perfmon+ep"),
            Path::Classic => Rpm::unprivileged(test),
        }
    }

    /// True if the first listener of `app`, which may not have opened it yet, is steered by this mechanism. Only a machine that forbids eBPF
    /// may return false.
    ///
    /// # Panics
    /// In CI, or if an unprivileged daemon uses another mechanism than it must.
    #[must_use]
    pub fn is_used(self, rpm: &Rpm, app: &str, test: &str) -> bool {
        let first = || rpm.describe(app).listeners.into_iter().next();
        let listener = wait_for("the app listens", BOUND, first);
        if listener.steering == self.name() {
            return true;
        }
        assert_eq!(self, Path::Ebpf, "{listener:?}");
        skip(test, &format!("no eBPF here: {}", listener.reason));
        false
    }
}

/// How long to wait for an undisturbed measurement.
const BOUND: Duration = Duration::from_secs(60);

/// A daemon that logs each time a worker leaves steering, for [`undisturbed`].
#[must_use]
pub fn talkative(rpm: Rpm) -> Rpm {
    rpm.with_env("RPM_LOG", "info,rpm_daemon=debug")
}

/// A measurement during which no worker counted as frozen. On a machine that gives a worker no CPU for 15 ms, the daemon rightly steers
/// around it, and then the measurement proves nothing: neither if that begins during the measurement nor if it began before.
///
/// # Panics
/// The daemon is not [`talkative`], or no measurement is undisturbed within a minute.
pub fn undisturbed<T: std::fmt::Debug>(rpm: &Rpm, measure: impl Fn() -> T) -> T {
    assert!(rpm.log().contains(" DEBUG "), "the daemon notes every detail");
    wait_for("a measurement without a worker out of steering", BOUND, || {
        let (before, all_in) = times_out(rpm);
        if !all_in {
            return None;
        }
        let measured = measure();
        (times_out(rpm).0 == before).then_some(measured)
    })
}

/// How often a worker went out of steering so far, and whether all are in it now. The daemon answers after it has noted what came before.
fn times_out(rpm: &Rpm) -> (usize, bool) {
    let names: BTreeSet<String> = rpm.list().into_iter().map(|process| process.name).collect();
    let slots = names.iter().flat_map(|name| rpm.describe(name).listeners);
    let all_in = slots
        .flat_map(|listener| listener.slots)
        .all(|slot| slot.eligible);
    (rpm.log().matches("out of steering").count(), all_in)
}
