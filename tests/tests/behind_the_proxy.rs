//! Everything that a client can be, behind the proxy, while workers are replaced and killed.

use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::kill;
use rpm_testkit::{Kind, Load, Port, Process, Rpm, Status, wait_until};

const BOUND: Duration = Duration::from_secs(30);
/// Good answers between two events.
const SOME: u64 = 40;
/// How long a connection that lives long is left open when its worker is replaced.
const HOLDS: Duration = Duration::from_millis(1500);

fn everything(port: &Port) -> App {
    App::cluster("everything.js", "2")
        .args(["--name", "web", "--balance", "proxy", "--drain-timeout", "2s"])
        .port(port)
}

fn settled(list: &[Process]) -> bool {
    let fine = |process: &Process| process.status == Status::Online && process.others.is_empty();
    list.iter().all(fine)
}

#[test]
fn whatever_a_client_is_a_reload_loses_nothing() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    everything(&port).start(&rpm);
    // HTTP/2 in clear text comes to the same port.
    let clients = Clients::everything(&port, &port, 2, HOLDS);
    clients.wait_ok(SOME);
    for _ in 0..2 {
        clients.mark();
        rpm.ok(["reload", "web"]);
        clients.wait_ok(SOME);
        wait_until(
            "the old workers are gone",
            BOUND,
            || rpm.list(),
            |list| settled(list),
        );
    }
    clients.finish_clean(&rpm);
}

#[test]
fn hundreds_of_clients_see_neither_reloads_nor_killed_workers() {
    const RELOADS: usize = 10;
    const KILLS: usize = 5;
    let (rpm, port) = (Rpm::new(), Port::reserve());
    everything(&port).start(&rpm);
    let load = |kind, clients| Load {
        kind,
        clients,
        ..Load::local(port.number())
    };
    // 200 connections of HTTP/1.1, and 25 of HTTP/2 with four streams each.
    let clients = Clients::of(&[load(Kind::KeepAlive, 200), load(Kind::Http2, 25)]);
    let sockets = Clients::of(&[Load {
        holds: HOLDS,
        ..load(Kind::WebSocket, 50)
    }]);
    for _ in 0..RELOADS {
        clients.wait_ok(SOME);
        sockets.wait_ok(SOME);
        sockets.mark();
        rpm.ok(["reload", "web"]);
        wait_until(
            "the old workers are gone",
            BOUND,
            || rpm.list(),
            |list| settled(list),
        );
    }
    sockets.finish_clean(&rpm);
    for _ in 0..KILLS {
        clients.wait_ok(SOME);
        let victim = rpm.process(1).pid.expect("it runs");
        kill(victim);
        let replaced = |it: &Process| it.status == Status::Online && it.pid != Some(victim);
        wait_until("it is replaced", BOUND, || rpm.process(1), replaced);
        // The next crash is to wait no longer than this one.
        rpm.ok(["reset", "web"]);
    }
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
}
