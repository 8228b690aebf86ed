//! Traffic that runs beside a test.

use std::time::Duration;

use rpm_loadtest::{Load, Report, Running, Stop};
use tokio::runtime::Runtime;

/// A load that is being sent from a thread of its own.
#[derive(Debug)]
pub struct Traffic {
    runtime: Runtime,
    running: Running,
    stop: Stop,
}

impl Traffic {
    /// Begins to send it.
    ///
    /// # Panics
    /// There is no thread to be had.
    #[must_use]
    pub fn start(load: &Load) -> Traffic {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime for the clients");
        let stop = Stop::new();
        let running = {
            let _inside = runtime.enter();
            load.start(&stop)
        };
        Traffic {
            runtime,
            running,
            stop,
        }
    }

    /// From now on the server may have a reason to end connections that live long.
    pub fn mark(&self) {
        self.running.mark();
    }

    /// What is opened from now on has no such reason.
    pub fn mark_end(&self) {
        self.running.mark_end();
    }

    /// The account up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.running.so_far()
    }

    /// Waits until so many requests were answered well since this was called.
    ///
    /// # Panics
    /// Not within 20 s.
    pub fn wait_ok(&self, count: u64) {
        self.wait_total(self.ok() + count);
    }

    /// How many requests were answered well so far.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.so_far().outcomes.ok()
    }

    /// Waits until so many requests in all were answered well.
    ///
    /// # Panics
    /// Not within 20 s.
    pub fn wait_total(&self, goal: u64) {
        let answered = |ok: &u64| *ok >= goal;
        crate::wait_until(
            "answers to the clients",
            Duration::from_secs(20),
            || self.ok(),
            answered,
        );
    }

    /// Ends it: no new request, and an outcome for each one sent.
    #[must_use]
    pub fn finish(self) -> Report {
        self.stop.stop();
        self.runtime.block_on(self.running.finish())
    }

    /// Waits until the load ends by itself (its duration or count is reached).
    #[must_use]
    pub fn wait(self) -> Report {
        self.runtime.block_on(self.running.finish())
    }
}
