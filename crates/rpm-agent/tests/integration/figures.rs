//! Figures of a process, while somebody asks for them.

use std::cell::Cell;

use crate::support::{App, Client, Daemon, NODES, PATIENCE, on_every_node};
use rpm_agent::{Figures, ToAgent};
use rpm_testkit::wait_until;

/// Longer than a test takes.
const LONG: ToAgent = ToAgent::Measure {
    for_ms: 600_000,
    first: true,
};
/// One report, and no more.
const ONCE: ToAgent = ToAgent::Measure {
    for_ms: 0,
    first: false,
};

fn responses(figures: &Figures) -> u64 {
    figures.answers.iter().sum()
}

fn they_tell_how_it_does(node: u32) {
    let daemon = Daemon::start();
    let mut app = App::start(&mut daemon.command(node, "app.js"));
    let (mut agent, port) = (daemon.agent(), app.port());
    Client::connect(port).get("/");
    agent.say(LONG);
    let idle = agent.wait_figures(|_| true);
    assert_eq!(responses(&idle), 0, "node {node}: from the request on");
    assert!(
        0 < idle.heap_used && idle.heap_used < idle.heap_limit,
        "node {node}: {idle:?}"
    );
    let mut client = Client::connect(port);
    for _ in 0..20 {
        client.get("/");
    }
    client.get("/missing");
    let figures = agent.wait_figures(|figures| responses(figures) == 21);
    assert_eq!(figures.answers, [0, 20, 0, 1, 0], "node {node}");
    assert_eq!(figures.times.iter().sum::<u64>(), 21, "node {node}: {figures:?}");
    assert!(figures.time_us > 0, "node {node}: {figures:?}");
    client.get("/busy");
    // A delay may be in the report after the one that has the time itself.
    let most = Cell::new((0, 0));
    agent.wait_figures(|figures| {
        let (delay, busy) = most.get();
        most.set((delay.max(figures.delay_us[2]), busy.max(figures.busy_ppm)));
        most.get() > (200_000, 0) && most.get().1 > 200_000
    });
    let later = agent.wait_figures(|figures| responses(figures) == 22);
    let slow = later.times[9..].iter().sum::<u64>();
    assert!(slow >= 1, "node {node}: within 1000 ms or more: {later:?}");
}
on_every_node!(they_tell_how_a_process_does, they_tell_how_it_does);

#[test]
fn they_cost_nothing_before_and_after() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "app.js"));
        let (mut agent, port) = (daemon.agent(), app.port());
        let followed = || Client::connect(port).get("/followed").body;
        assert_eq!(followed(), "false", "node {node}: before");
        for _ in 0..2 {
            agent.say(LONG);
            wait_until("it is followed", PATIENCE, followed, |said| said == "true");
            agent.say(ONCE);
            wait_until("it is over", PATIENCE, followed, |said| said == "false");
        }
        // One report or more for each time: the totals go on.
        let first = responses(&agent.wait_figures(|_| true));
        agent.wait_figures(|figures| responses(figures) > first);
    }
}

#[test]
fn they_keep_no_process_alive() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "brief.js"));
        let mut agent = daemon.agent();
        app.port();
        agent.say(LONG);
        agent.wait_figures(|_| true);
        app.tell();
        assert!(app.ended(PATIENCE).success(), "node {node}");
    }
}
