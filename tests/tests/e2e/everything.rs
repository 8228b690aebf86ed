//! All kinds of clients at once, while workers and the daemon are replaced: the short form of `rpm-loadtest reload`.

use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill_daemon;
use rpm_e2e::steering::Path;
use rpm_testkit::{Port, Process, Rpm, wait_until};

/// Long enough for anything, on a loaded machine.
const BOUND: Duration = Duration::from_secs(20);
/// Clients of each kind.
const CLIENTS: usize = 2;
/// Responses between two events.
const SOME: u64 = 10;
/// `drain_timeout`.
const HOLDS: Duration = Duration::from_secs(3);

/// The app, and all traffic for it.
struct Site {
    rpm: Rpm,
    clients: Clients,
}

impl Site {
    fn start(rpm: Rpm, node: u32, env: &[(&str, &str)]) -> Site {
        let (port, port2) = (Port::reserve(), Port::reserve());
        let app = App::cluster("everything.js", "2")
            .node(node)
            .args(["--name", "web", "--drain-timeout", "3s"])
            .port(&port)
            .env("PORT2", &port2);
        let app = env.iter().fold(app, |app, (key, value)| app.env(key, value));
        let frameworks = env.iter().any(|(key, _)| *key == "FRAMEWORK");
        let app = if frameworks { app.in_checkout() } else { app };
        app.start(&rpm);
        for port in [&port, &port2] {
            let connects = || std::net::TcpStream::connect(("127.0.0.1", port.number())).is_ok();
            wait_until("it listens on both ports", BOUND, connects, |connected| {
                *connected
            });
        }
        let clients = Clients::everything(&port, &port2, CLIENTS, HOLDS);
        clients.wait_ok(SOME);
        Site { rpm, clients }
    }

    /// Runs a command during which workers leave, and waits until both are done.
    fn through(&self, command: &[&str]) {
        self.clients.through(|| self.rpm.ok(command));
        self.clients.wait_ok(SOME);
        let none = |list: &Vec<Process>| list.iter().all(|process| process.others.is_empty());
        wait_until("the old workers are gone", BOUND, || self.rpm.list(), none);
        self.clients.wait_ok(SOME);
    }

    fn reloads(self) {
        for _ in 0..2 {
            self.through(&["reload", "web"]);
        }
        self.clients.finish_clean(&self.rpm);
    }
}

#[test]
fn reloads_lose_nothing() {
    Site::start(Rpm::new(), 22, &[]).reloads();
}

#[test]
fn reloads_lose_nothing_on_the_newest_node_with_a_handler() {
    Site::start(Rpm::new(), 26, &[("HANDLER", "1")]).reloads();
}

#[test]
fn reloads_lose_nothing_without_privileges() {
    if let Some(rpm) = Path::Classic.rpm("reloads_lose_nothing_without_privileges") {
        Site::start(rpm, 20, &[]).reloads();
    }
}

#[test]
fn reloads_of_slow_handlers_and_of_ports_that_open_late_lose_nothing() {
    Site::start(Rpm::new(), 24, &[("DELAY_MS", "200"), ("SECOND_MS", "2000")]).reloads();
}

#[test]
fn reloads_of_express_lose_nothing() {
    Site::start(Rpm::new(), 22, &[("FRAMEWORK", "express")]).reloads();
}

#[test]
fn reloads_of_fastify_lose_nothing() {
    Site::start(Rpm::new(), 24, &[("FRAMEWORK", "fastify")]).reloads();
}

#[test]
fn scaling_loses_nothing() {
    let site = Site::start(Rpm::new(), 24, &[]);
    for count in ["4", "1", "2"] {
        site.through(&["scale", "web", count]);
    }
    site.clients.finish_clean(&site.rpm);
}

#[test]
fn the_death_of_the_daemon_loses_nothing() {
    let site = Site::start(Rpm::new(), 20, &[]);
    kill_daemon(&site.rpm);
    site.clients.wait_ok(SOME);
    site.reloads();
}

#[test]
fn an_update_of_the_daemon_loses_nothing() {
    if let Some(rpm) = Path::Classic.rpm("an_update_of_the_daemon_loses_nothing") {
        let site = Site::start(rpm, 22, &[]);
        site.rpm.ok(["update"]);
        site.clients.wait_ok(SOME);
        site.reloads();
    }
}
