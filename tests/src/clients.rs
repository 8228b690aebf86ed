//! Clients of several kinds at once.

use std::time::Duration;

use rpm_testkit::{Kind, Load, Pace, Port, Report, Rpm, Traffic};

/// Pause of a client, times the number of clients: some 500 requests per second, however many clients send them.
const PAUSE: Duration = Duration::from_millis(4);
/// A client may wait in a queue until a worker has booted, which takes seconds on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// This many clients that request `/` on a new connection each time, beside something that happens to the server. They pause: a loop
/// without pauses takes all CPUs from other tests, and from what it observes. Tests that measure, or want saturated servers, use [`Load`]
/// itself.
///
/// # Panics
/// There are more than 2³² clients.
#[must_use]
pub fn beside(port: &Port, clients: usize) -> Load {
    one_of(1, port, clients)
}

/// One of several such loads, which share that rate.
///
/// # Panics
/// There are more than 2³² clients.
#[must_use]
pub fn one_of(loads: usize, port: &Port, clients: usize) -> Load {
    let count = u32::try_from(loads * clients).expect("a few clients");
    Load {
        clients,
        pace: Pace::Pausing { most: PAUSE * count },
        timeout: TIMEOUT,
        ..Load::local(port.number())
    }
}

/// Loads of several kinds.
#[derive(Debug)]
pub struct Clients {
    kinds: Vec<(Kind, Traffic)>,
}

impl Clients {
    /// Starts to send `GET path`: from `clients` clients with a new connection for each request, and as many with a kept one.
    #[must_use]
    pub fn begin(port: &Port, path: &str, clients: usize) -> Clients {
        let load = |kind| Load {
            kind,
            path: path.to_owned(),
            ..one_of(2, port, clients)
        };
        Clients::of(&[load(Kind::NewConnection), load(Kind::KeepAlive)])
    }

    /// The same with new connections only, for servers that keep none.
    #[must_use]
    pub fn fresh(port: &Port, clients: usize) -> Clients {
        Clients::of(&[beside(port, clients)])
    }

    /// Starts to send everything that the fixture `everything.js` answers, from this many clients of each kind: HTTP/1 to `port`, HTTP/2 to
    /// `port2`. Long-lived connections must stay open for `holds` after [`Clients::through`] began.
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

    /// Starts these loads.
    #[must_use]
    pub fn of(loads: &[Load]) -> Clients {
        let start = |load: &Load| (load.kind, Traffic::start(load));
        Clients {
            kinds: loads.iter().map(start).collect(),
        }
    }

    /// Runs `act`, during which the server may end long-lived connections: those that are open, and new ones, which may still reach a
    /// worker that leaves.
    pub fn through<T>(&self, act: impl FnOnce() -> T) -> T {
        self.kinds.iter().for_each(|(_, traffic)| traffic.mark());
        let done = act();
        self.kinds.iter().for_each(|(_, traffic)| traffic.mark_end());
        done
    }

    /// Waits until each kind has had `count` more good responses. For uploads, which take half a second each, it is a fifth.
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

    /// Failed requests so far, by kind of client.
    #[must_use]
    pub fn failures(&self) -> Vec<u64> {
        let failed = |(_, traffic): &(Kind, Traffic)| traffic.so_far().outcomes.failures();
        self.kinds.iter().map(failed).collect()
    }

    /// Stops the clients, with an outcome for each request.
    #[must_use]
    pub fn finish(self) -> Vec<(Kind, Report)> {
        let finish = |(kind, traffic): (Kind, Traffic)| (kind, traffic.finish());
        self.kinds.into_iter().map(finish).collect()
    }

    /// Stops the clients, of which no request may have failed.
    ///
    /// # Panics
    /// A request failed.
    pub fn finish_clean(self, rpm: &Rpm) {
        let reports = self.finish();
        let unclean = reports.iter().filter(|(_, report)| report.check_clean().is_err());
        let told: Vec<String> = unclean
            .map(|(kind, report)| format!("{}: {report}", kind.as_str()))
            .collect();
        assert!(told.is_empty(), "{}\n{}", told.join("\n"), rpm.log());
    }
}
