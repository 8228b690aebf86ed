//! Clients that open a connection for every request, and clients that keep theirs, at the same time.

use rpm_testkit::{Kind, Load, Port, Rpm, Traffic};

/// Both kinds of clients.
#[derive(Debug)]
pub struct Clients {
    /// A new connection per request.
    pub fresh: Traffic,
    /// Kept connections.
    pub kept: Traffic,
}

impl Clients {
    /// Begins to send `GET path`, from so many clients of each kind.
    #[must_use]
    pub fn begin(port: &Port, path: &str, clients: usize) -> Clients {
        let load = |kind| Load {
            kind,
            clients,
            path: path.to_owned(),
            ..Load::local(port.number())
        };
        Clients {
            fresh: Traffic::start(&load(Kind::NewConnection)),
            kept: Traffic::start(&load(Kind::KeepAlive)),
        }
    }

    /// Waits until each kind has had so many good answers more.
    pub fn wait_ok(&self, count: u64) {
        self.fresh.wait_ok(count);
        self.kept.wait_ok(count);
    }

    /// Requests that failed so far, by kind of client.
    #[must_use]
    pub fn failures(&self) -> [u64; 2] {
        [&self.fresh, &self.kept].map(|traffic| traffic.so_far().outcomes.failures())
    }

    /// Ends both.
    ///
    /// # Panics
    /// A request was not answered well.
    pub fn finish_clean(self, rpm: &Rpm) {
        for (kind, traffic) in [("new connections", self.fresh), ("kept connections", self.kept)] {
            let report = traffic.finish();
            assert!(report.check_clean().is_ok(), "{kind}: {report}\n{}", rpm.log());
        }
    }
}
