//! Connections that would never end by themselves.

use crate::support::{Agent, App, Client, Daemon, NODES, on_every_node};
use rpm_agent::ToAgent;

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A close frame with 1001.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// Opens a WebSocket of `app.js`, then begins a drain: the client and the agent.
fn web_socket(daemon: &Daemon, app: &mut App) -> (Client, Agent) {
    let mut agent = daemon.agent();
    let mut client = Client::connect(app.port());
    client.send(UPGRADE);
    let head = client.read_to("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    agent.drain();
    let open = agent.wait_open(|open| open.connections == 1);
    assert_eq!((open.upgraded, open.requests, open.idle), (1, 0, 0));
    (client, agent)
}

#[test]
fn a_web_socket_is_left_until_the_deadline_and_then_told() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(daemon.command(node, "app.js").env("UPGRADES", "before listen"));
        let (mut client, mut agent) = web_socket(&daemon, &mut app);
        client.send("ping!");
        assert_eq!(client.read_to("!"), "ping!", "node {node}: it goes on");
        agent.say(ToAgent::Close {});
        assert_eq!(client.rest(), GOING_AWAY, "node {node}");
        drop(client);
        agent.wait_open(|open| open.connections == 0 && open.upgraded == 0);
    }
}

/// The program may have written its response to the handshake before our listener ran.
fn quiet_web_sockets_are_told(node: u32) {
    for when in ["before listen", "after listen", "before all others"] {
        let daemon = Daemon::start();
        let mut app = App::start(daemon.command(node, "app.js").env("UPGRADES", when));
        let (mut client, mut agent) = web_socket(&daemon, &mut app);
        agent.say(ToAgent::Close {});
        assert_eq!(client.rest(), GOING_AWAY, "node {node}, listener {when}");
    }
}

on_every_node!(
    a_web_socket_on_which_nothing_was_sent_is_told_too,
    quiet_web_sockets_are_told
);

#[test]
fn a_web_socket_without_an_answer_gets_no_frame() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(daemon.command(node, "app.js").env("UPGRADES", "never answers"));
        let mut agent = daemon.agent();
        let mut client = Client::connect(app.port());
        client.send(UPGRADE);
        agent.drain();
        agent.wait_open(|open| open.upgraded == 1);
        agent.say(ToAgent::Close {});
        assert_eq!(client.rest(), b"", "node {node}: the client expects a response");
    }
}

#[test]
fn an_upgrade_that_nobody_handles_is_an_ordinary_request() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "app.js"));
        let mut agent = daemon.agent();
        let mut client = Client::connect(app.port());
        client.send(UPGRADE);
        assert_eq!(client.answer().body, "ok", "node {node}");
        agent.drain();
        assert_eq!(
            agent.wait_open(|open| open.connections == 1).upgraded,
            0,
            "node {node}"
        );
    }
}

#[test]
fn at_the_deadline_event_streams_end_and_other_answers_are_not_cut() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "app.js"));
        let mut agent = daemon.agent();
        let port = app.port();
        let mut events = Client::connect(port);
        events.ask("/events");
        assert!(
            events.read_to("data: 1\n\n\r\n").contains("event-stream"),
            "node {node}"
        );
        let mut begun = Client::connect(port);
        begun.ask("/begun");
        begun.read_to("\r\n\r\n");
        agent.drain();
        agent.wait_open(|open| open.requests == 2);
        agent.say(ToAgent::Close {});
        assert_eq!(events.rest(), b"0\r\n\r\n", "node {node}: ended as it should");
        agent.wait_open(|open| open.requests == 1);
        Client::connect(port).get("/release");
        assert_eq!(
            begun.read_to("0\r\n\r\n"),
            "1\r\no\r\n2\r\nok\r\n0\r\n\r\n",
            "node {node}: to its last byte"
        );
    }
}
