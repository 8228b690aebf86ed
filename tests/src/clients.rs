//! Clients of several kinds at the same time.

use std::time::Duration;

use rpm_testkit::{Kind, Load, Pace, Port, Report, Rpm, Traffic};

/// The pause of a client, for each client that there is: some 500 requests per second, however many send them.
const PAUSE: Duration = Duration::from_millis(4);

/// So many clients that ask for `/` on a connection each time, beside something that happens to the server. With pauses: a loop without
/// any takes all CPUs from the other tests and from what it is there to watch. Those that measure, or want the servers saturated, use
/// [`Load`] itself.
///
/// # Panics
/// There are more than 2³² clients.
#[must_use]
pub fn beside(port: &Port, clients: usize) -> Load {
    one_of(1, port, clients)
}

/// One of so many such loads, which have that rate together.
///
/// # Panics
/// There are more than 2³² clients.
#[must_use]
pub fn one_of(loads: usize, port: &Port, clients: usize) -> Load {
    let count = u32::try_from(loads * clients).expect("a few clients");
    Load {
        clients,
        pace: Pace::Pausing { most: PAUSE * count },
        ..Load::local(port.number())
    }
}

/// Traffic of several kinds.
#[derive(Debug)]
pub struct Clients {
    kinds: Vec<(Kind, Traffic)>,
}

impl Clients {
    /// Begins to send `GET path`, from so many clients that open a connection for every request, and as many that keep
    /// theirs.
    #[must_use]
    pub fn begin(port: &Port, path: &str, clients: usize) -> Clients {
        let load = |kind| Load {
            kind,
            path: path.to_owned(),
            ..beside(port, clients)
        };
        Clients::of(&[load(Kind::NewConnection), load(Kind::KeepAlive)])
    }

    /// The same with a connection for every request alone, as for servers that keep none.
    #[must_use]
    pub fn fresh(port: &Port, clients: usize) -> Clients {
        Clients::of(&[beside(port, clients)])
    }

    /// Begins to send everything that the fixture `everything.js` answers, from so many clients of each kind: HTTP/1 at
    /// `port`, HTTP/2 at `port2`. Long-lived connections must be left open for `holds` after a [`Clients::through`] began.
    #[must_use]
    pub fn everything(port: &Port, port2: &Port, clients: usize, holds: Duration) -> Clients {
        let load = |kind| Load {
            kind,
            path: if kind == Kind::EventStream { "/events" } else { "/" }.to_owned(),
            holds,
            ..one_of(
                Kind::ALL.len(),
                if kind == Kind::Http2 { port2 } else { port },
                clients,
            )
        };
        Clients::of(&Kind::ALL.map(load))
    }

    /// Begins to send these.
    #[must_use]
    pub fn of(loads: &[Load]) -> Clients {
        let start = |load: &Load| (load.kind, Traffic::start(load));
        Clients {
            kinds: loads.iter().map(start).collect(),
        }
    }

    /// Does this, which may give the server a reason to end long-lived connections: those that are open, and those that are opened
    /// meanwhile, which may still come to a worker that leaves.
    pub fn through<T>(&self, act: impl FnOnce() -> T) -> T {
        self.kinds.iter().for_each(|(_, traffic)| traffic.mark());
        let done = act();
        self.kinds.iter().for_each(|(_, traffic)| traffic.mark_end());
        done
    }

    /// Waits until each kind has had so many good answers more; a fifth of them to uploads that take half a second each.
    pub fn wait_ok(&self, count: u64) {
        let more = |kind: &Kind| match kind {
            Kind::SlowUpload => count.div_ceil(5),
            _ => count,
        };
        let goals: Vec<u64> = self
            .kinds
            .iter()
            .map(|(kind, traffic)| traffic.ok() + more(kind))
            .collect();
        for ((_, traffic), goal) in self.kinds.iter().zip(goals) {
            traffic.wait_total(goal);
        }
    }

    /// Requests that failed so far, by kind of client.
    #[must_use]
    pub fn failures(&self) -> Vec<u64> {
        let failed = |(_, traffic): &(Kind, Traffic)| traffic.so_far().outcomes.failures();
        self.kinds.iter().map(failed).collect()
    }

    /// Ends them, with an outcome for each request.
    #[must_use]
    pub fn finish(self) -> Vec<(Kind, Report)> {
        let finish = |(kind, traffic): (Kind, Traffic)| (kind, traffic.finish());
        self.kinds.into_iter().map(finish).collect()
    }

    /// Ends them.
    ///
    /// # Panics
    /// A request was not answered well.
    pub fn finish_clean(self, rpm: &Rpm) {
        let reports = self.finish();
        let unclean = reports.iter().filter(|(_, report)| report.check_clean().is_err());
        let told: Vec<String> = unclean
            .map(|(kind, report)| format!("{}: {report}", kind.as_str()))
            .collect();
        assert!(told.is_empty(), "{}\n{}", told.join("\n"), rpm.log());
    }
}
