//! Traffic that runs during a test.

use std::time::Duration;

use rpm_loadtest::{Load, Report, Running, Stop};
use tokio::runtime::Runtime;

/// A load that is sent from a thread of its own.
#[derive(Debug)]
pub struct Traffic {
    runtime: Runtime,
    running: Running,
    stop: Stop,
}

impl Traffic {
    /// Starts the load.
    ///
    /// # Panics
    /// No thread can be created.
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

    /// From now on the server may end long-lived connections.
    pub fn mark(&self) {
        self.running.mark();
    }

    /// From now on the server must not end connections that are opened.
    pub fn mark_end(&self) {
        self.running.mark_end();
    }

    /// The report so far.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.running.so_far()
    }

    /// Waits until `count` more requests have succeeded.
    ///
    /// # Panics
    /// Not within 40 s.
    pub fn wait_ok(&self, count: u64) {
        self.wait_total(self.ok() + count);
    }

    /// The number of requests that have succeeded so far.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.so_far().outcomes.ok()
    }

    /// Waits until `goal` requests in total have succeeded.
    ///
    /// # Panics
    /// Not within 40 s.
    pub fn wait_total(&self, goal: u64) {
        let answered = |ok: &u64| *ok >= goal;
        crate::wait_until(
            "answers to the clients",
            Duration::from_secs(40),
            || self.ok(),
            answered,
        );
    }

    /// Stops the load: no new request is sent, and every request that was sent has an outcome.
    #[must_use]
    pub fn finish(self) -> Report {
        self.stop.stop();
        self.runtime.block_on(self.running.finish())
    }

    /// Waits until the load ends by itself, at its duration or count.
    #[must_use]
    pub fn wait(self) -> Report {
        self.runtime.block_on(self.running.finish())
    }
}
