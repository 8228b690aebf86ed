//! An app moves behind the proxy by a reload, and back by another, without a failed request.

use std::path::PathBuf;
use std::time::Duration;

use rpm_e2e::clients::{Clients, one_of};
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::place::Place;
use rpm_e2e::steering::Path;
use rpm_testkit::{Kind, Load, Port, Process, Rpm, Status, fixture, wait_until};

const BOUND: Duration = Duration::from_secs(30);
/// Good answers between two events.
const SOME: u64 = 5;
/// The same for clients with simple requests only.
const MANY: u64 = 300;
/// How long a long-lived connection is left open when its worker is replaced.
const HOLDS: Duration = Duration::from_millis(1500);

/// An app, and the file that configures its data path.
struct Site {
    rpm: Rpm,
    port: Port,
    place: Place,
    script: PathBuf,
    /// It serves all kinds of clients; otherwise only simple requests.
    answers_all: bool,
}

impl Site {
    fn start(rpm: Rpm, script: PathBuf, answers_all: bool) -> Site {
        let site = Site {
            rpm,
            port: Port::reserve(),
            place: Place::new(),
            script,
            answers_all,
        };
        site.write("direct");
        site.place.ok(&site.rpm, ["start", "site.json"]);
        site
    }

    fn write(&self, balance: &str) {
        let app = serde_json::json!({
            "name": "web", "script": self.script, "instances": 2, "balance": balance, "drain_timeout": "2s",
            "env": { "PORT": self.port.number() },
        });
        self.place.write("site.json", &app.to_string());
    }

    fn steering(&self) -> String {
        let info = self.rpm.describe("web");
        info.listeners
            .into_iter()
            .next()
            .map(|it| it.steering)
            .unwrap_or_default()
    }

    /// All kinds of clients that both data paths serve at one port.
    fn clients(&self) -> Clients {
        if !self.answers_all {
            return Clients::fresh(&self.port, 2);
        }
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Http2);
        let load = |kind| Load {
            kind,
            path: if kind == Kind::EventStream { "/events" } else { "/" }.to_owned(),
            holds: HOLDS,
            ..one_of(2 * Kind::ALL.len(), &self.port, 2)
        };
        Clients::of(&kinds.map(load).collect::<Vec<_>>())
    }

    /// Clients with simple requests.
    fn busy(&self) -> Clients {
        match self.answers_all {
            true => Clients::begin(&self.port, "/", 4),
            false => Clients::fresh(&self.port, 4),
        }
    }

    /// Reloads the file under load, and checks how the listener is steered then.
    fn moves_to(&self, balance: &str, steering: &str) {
        let before = self.rpm.pids("web");
        let (clients, busy) = (self.clients(), self.busy());
        clients.wait_ok(SOME);
        self.write(balance);
        clients.through(|| self.place.ok(&self.rpm, ["reload", "site.json"]));
        clients.wait_ok(SOME);
        assert_eq!(self.steering(), steering, "{}", self.rpm.log());
        wait_until(
            "the old workers are gone",
            BOUND,
            || self.rpm.list(),
            |list| settled(list),
        );
        busy.wait_ok(MANY);
        clients.wait_ok(SOME);
        busy.finish_clean(&self.rpm);
        clients.finish_clean(&self.rpm);
        let after = self.rpm.pids("web");
        assert!(
            after.len() == 2 && !after.iter().any(|pid| before.contains(pid)),
            "{before:?} {after:?}"
        );
    }

    /// There and back, and once more with new daemons.
    fn wanders(&self, kernel: &str) {
        assert_eq!(self.steering(), kernel);
        self.moves_to("proxy", "proxy");
        self.moves_to("direct", kernel);
        kill_daemon(&self.rpm);
        self.moves_to("proxy", "proxy");
        kill_daemon(&self.rpm);
        self.moves_to("direct", kernel);
    }
}

fn settled(list: &[Process]) -> bool {
    let fine = |process: &Process| process.status == Status::Online && process.others.is_empty();
    list.iter().all(fine)
}

#[test]
fn workers_of_node_go_behind_the_proxy_and_come_back() {
    Site::start(Rpm::new(), fixture("everything.js"), true).wanders(Path::Ebpf.name());
}

#[test]
fn so_they_do_without_privileges() {
    if let Some(rpm) = Path::Classic.rpm("so_they_do_without_privileges") {
        Site::start(rpm, fixture("everything.js"), true).wanders(Path::Classic.name());
    }
}

#[test]
fn so_does_a_program_that_knows_nothing_of_it() {
    Site::start(Rpm::new(), fixture("hello.py"), false).wanders(Path::Ebpf.name());
}
