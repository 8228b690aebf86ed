//! A drain as HTTP/2 clients see it.

use crate::support::{App, Daemon, on_every_node, outcomes_of_a_drain};

fn no_stream_fails(node: u32, kind: &str) {
    let daemon = Daemon::start();
    let mut app = App::start(daemon.command(node, "app.js").env("KIND", kind));
    let mut agent = daemon.agent();
    let outcomes = outcomes_of_a_drain(kind, app.port(), &mut agent);
    let [_, closes, resent] = outcomes.counts();
    assert!(closes > 0, "{outcomes:?}");
    // At most what all clients have in flight when a session gets GOAWAY.
    assert!(resent <= closes * 16, "{outcomes:?}");
}

on_every_node!(no_stream_fails_when_sessions_are_told_to_go, |node| {
    no_stream_fails(node, "h2c");
});
on_every_node!(nor_does_one_over_tls, |node| no_stream_fails(node, "h2"));
