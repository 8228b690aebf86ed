//! A drain as HTTP/1 clients see it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::{Agent, App, Client, Daemon, NODES, PATIENCE, on_every_node, outcomes_of_a_drain};
use rpm_agent::ToAgent;
use rpm_testkit::{Kind, Load, Traffic, wait_until};

/// An application with its agent.
struct Served {
    _daemon: Daemon,
    app: App,
    agent: Agent,
    port: u16,
}

fn serve(node: u32, environment: &[(&str, &str)]) -> Served {
    let daemon = Daemon::start();
    let mut app = App::start(daemon.command(node, "app.js").envs(environment.iter().copied()));
    let agent = daemon.agent();
    let port = app.port();
    Served {
        _daemon: daemon,
        app,
        agent,
        port,
    }
}

#[test]
fn every_answer_of_a_draining_process_says_close() {
    for node in NODES {
        let mut served = serve(node, &[]);
        let mut idle = Client::connect(served.port);
        assert!(idle.get("/").keeps_alive(), "node {node}");
        let mut busy = Client::connect(served.port);
        busy.ask("/hold");
        let mut begun = Client::connect(served.port);
        begun.ask("/begun");
        assert!(
            begun.read_to("\r\n\r\n").contains("keep-alive"),
            "node {node}: before the drain"
        );

        served.agent.drain();
        served.agent.wait_open(|open| open.requests == 2);
        assert!(
            idle.get("/").says_close(),
            "node {node}: a connection from before"
        );
        assert!(idle.rest().is_empty(), "node {node}");
        for path in ["/", "/explicit", "/written", "/removed"] {
            let mut fresh = Client::connect(served.port);
            let answer = fresh.get(path);
            assert!(
                answer.says_close() && answer.body == "ok",
                "node {node} {path}: {answer:?}"
            );
            assert!(fresh.rest().is_empty(), "node {node} {path}");
        }
        Client::connect(served.port).get("/release");
        let answer = busy.answer();
        assert!(
            answer.says_close() && answer.body == "ok",
            "node {node}: {answer:?}"
        );
        begun.read_to("0\r\n\r\n");
        assert!(
            begun.get("/").says_close(),
            "node {node}: the next answer after one begun before the drain"
        );
        served.agent.wait_open(|open| open.connections == 0);
    }
}

#[test]
fn of_pipelined_requests_the_last_one_says_close() {
    for node in NODES {
        let mut served = serve(node, &[]);
        let mut client = Client::connect(served.port);
        let request = "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n";
        client.send(&request.repeat(3));
        served.agent.drain();
        served.agent.wait_open(|open| open.requests == 1);
        Client::connect(served.port).get("/release");
        let answers = [client.answer(), client.answer(), client.answer()];
        assert!(
            answers.iter().all(|answer| answer.body == "ok"),
            "node {node}: {answers:?}"
        );
        let closes = answers.each_ref().map(crate::support::Answer::says_close);
        assert_eq!(closes, [false, false, true], "node {node}");
        assert!(client.rest().is_empty(), "node {node}");
    }
}

/// If the rest of the request were not read, closing would reset the connection, and the client might lose the response.
#[test]
fn a_request_that_is_answered_early_is_read_to_its_end() {
    for node in NODES {
        let mut served = serve(node, &[]);
        served.agent.drain();
        let mut client = Client::connect(served.port);
        client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n");
        let answer = client.answer();
        assert!(
            answer.says_close() && answer.body == "ok",
            "node {node}: {answer:?}"
        );
        for _ in 0..300 {
            client.send(&"x".repeat(1000));
        }
        assert!(client.rest().is_empty(), "node {node}: closed when it was read");

        let mut client = Client::connect(served.port);
        client.send(&format!(
            "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 16384\r\n\r\n{}",
            "x".repeat(16384)
        ));
        assert!(client.answer().says_close(), "node {node}");
        assert!(client.rest().is_empty(), "node {node}");
    }
}

on_every_node!(an_idle_connection_lives_as_long_as_the_server_lets_it, |node| {
    let mut served = serve(node, &[("KEEP_ALIVE_MS", "5000")]);
    let mut idle = Client::connect(served.port);
    let begun = std::time::Instant::now();
    idle.get("/");
    let fresh = Client::connect(served.port);
    served.agent.drain();
    let open = served.agent.wait_open(|open| open.connections == 2);
    assert_eq!((open.idle, open.requests, open.upgraded), (2, 0, 0));
    drop(fresh);
    served.agent.wait_open(|open| open.connections == 0);
    let lived = begun.elapsed();
    assert!(lived > Duration::from_millis(4500), "closed after {lived:?}");
    assert!(idle.rest().is_empty());
});

#[test]
fn keep_alive_clients_lose_nothing_when_a_drain_begins() {
    for node in NODES {
        let mut served = serve(node, &[]);
        let load = |kind| Load {
            kind,
            clients: 16,
            ..Load::new(SocketAddr::from(([127, 0, 0, 1], served.port)))
        };
        let kept = Traffic::start(&load(Kind::KeepAlive));
        let new = Traffic::start(&load(Kind::NewConnection));
        kept.wait_ok(200);
        served.agent.drain();
        let before = kept.so_far().connections;
        kept.wait_ok(100);
        assert!(
            kept.so_far().connections > before + 50,
            "node {node}: it says close to each"
        );
        for (name, traffic) in [("kept", kept), ("new", new)] {
            let report = traffic.finish();
            assert_eq!(report.check_clean(), Ok(()), "node {node}, {name}");
        }
    }
}

on_every_node!(keep_alive_clients_of_https_lose_nothing_either, |node| {
    let mut served = serve(node, &[("KIND", "https")]);
    let outcomes = outcomes_of_a_drain("https", served.port, &mut served.agent);
    let [_, closes, resent] = outcomes.counts();
    assert!(closes > 0 && resent == 0, "{outcomes:?}");
});

#[test]
fn clients_that_are_kept_have_their_next_answer_after_others_are_refused() {
    for node in NODES {
        let mut served = serve(node, &[]);
        let mut idle = [(); 2].map(|()| Client::connect(served.port));
        for client in &mut idle {
            assert!(client.get("/").keeps_alive(), "node {node}");
        }
        served.agent.drain();
        served.agent.say(ToAgent::Refuse { keeps: true });
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, served.port)).map_err(|error| error.kind());
        let refused = |outcome: &Result<TcpStream, ErrorKind>| {
            outcome
                .as_ref()
                .is_err_and(|kind| *kind == ErrorKind::ConnectionRefused)
        };
        drop(wait_until("others are refused", PATIENCE, connect, refused));
        // It would look again, and close them.
        served.agent.drain();
        served.agent.wait_open(|open| open.idle == 2);
        let [first, second] = &mut idle;
        assert!(first.get("/").says_close(), "node {node}");
        served.agent.say(ToAgent::Refuse { keeps: false });
        assert!(second.rest().is_empty(), "node {node}: it is not kept any more");
    }
}

#[test]
fn what_arrives_while_the_program_is_busy_is_answered_though_others_are_refused() {
    for node in NODES {
        let mut served = serve(node, &[("BLOCKS", "1")]);
        let mut fresh = Client::connect(served.port);
        served.agent.drain();
        served.agent.wait_open(|open| open.connections == 1);
        served.agent.say(ToAgent::Refuse { keeps: false });
        assert_eq!(served.app.line(), "blocked", "node {node}");
        fresh.ask("/");
        served.app.tell();
        assert_eq!(fresh.answer().body, "ok", "node {node}");
    }
}
