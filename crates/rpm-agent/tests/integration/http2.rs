//! A drain as the clients of HTTP/2 see it.

use crate::support::{App, Daemon, NODES, outcomes_of_drains};

#[test]
fn no_stream_fails_when_sessions_are_told_to_go() {
    for kind in ["h2c", "h2"] {
        for node in NODES {
            let daemon = Daemon::start();
            let mut app = App::start(daemon.command(node, "app.js").env("KIND", kind));
            let mut agent = daemon.agent();
            let outcomes = outcomes_of_drains(kind, app.port(), &mut agent);
            let [_, closes, resent] = outcomes.counts();
            eprintln!("node {node} {kind}: {outcomes:?}");
            assert!(closes > 0, "node {node} {kind}: {outcomes:?}");
            // At most what all clients have in flight when a session is told.
            assert!(resent <= closes * 16, "node {node} {kind}: {outcomes:?}");
        }
    }
}
