//! Which processes greet, when, and that a process notices nothing else of its agent.

use crate::support::{App, Client, Daemon, NODES, PATIENCE, TOKEN, apps, plain};

#[test]
fn a_process_says_hello_when_it_listens_and_not_before() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "late.js"));
        assert_eq!(
            daemon.agent().token,
            "marker",
            "node {node}: somebody was here before it listened"
        );
        let agent = daemon.agent();
        assert_eq!(
            (agent.token.as_str(), agent.pid),
            (TOKEN, app.pid()),
            "node {node}"
        );
        app.port();
        assert!(daemon.is_alone(), "node {node}: twice");
    }
}

#[test]
fn worker_threads_and_processes_that_never_listen_are_silent() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "silent.js"));
        assert_eq!(app.line(), "done", "node {node}");
        assert_eq!(daemon.agent().token, "marker", "node {node}");
        assert!(app.ended(PATIENCE).success(), "node {node}");
        assert!(daemon.is_alone(), "node {node}");
    }
}

#[test]
fn a_forked_child_speaks_for_itself_and_its_channel_is_its_own() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "parent.js"));
        let child = daemon.agent().pid;
        let expected = format!("{{\"sent\":[{child}],\"pid\":{child},\"code\":0}}");
        assert_eq!(app.line(), expected, "node {node}");
        assert!(app.ended(PATIENCE).success(), "node {node}");
        assert!(daemon.is_alone(), "node {node}: the parent never listened");
    }
}

#[test]
fn a_program_ends_when_nothing_of_its_own_is_left() {
    for node in NODES {
        let mut daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "brief.js"));
        let mut agent = daemon.agent();
        app.port();
        agent.drain();
        app.tell();
        assert!(
            app.ended(PATIENCE).success(),
            "node {node}: connected and draining"
        );

        daemon.die();
        let mut app = App::start(&mut daemon.command(node, "brief.js"));
        app.port();
        app.tell();
        assert!(app.ended(PATIENCE).success(), "node {node}: no daemon");
    }
}

#[test]
fn a_daemon_that_comes_back_is_greeted_again() {
    let mut daemon = Daemon::start();
    let mut app = App::start(&mut daemon.command(22, "app.js"));
    let agent = daemon.agent();
    let port = app.port();
    daemon.die();
    drop(agent);
    assert!(
        Client::connect(port).get("/").keeps_alive(),
        "it serves without a daemon"
    );
    daemon.come_back();
    let mut agent = daemon.agent();
    assert_eq!(agent.pid, app.pid());
    agent.drain();
    assert!(Client::connect(port).get("/").says_close());
}

#[test]
fn nothing_that_a_program_sees_is_disturbed() {
    for node in NODES {
        let own = format!("--require \"{}\"", apps().join("a directory/own.js").display());
        let mut bare = App::start(plain(node, "surroundings.js").env("NODE_OPTIONS", &own));
        bare.port();
        bare.tell();
        let bare = bare.line();
        assert!(
            bare.starts_with("{\"main\":true,\"own\":true,"),
            "node {node}: {bare}"
        );
        let daemon = Daemon::start();
        let both = rpm_agent::node_options(Some(&own));
        let mut with = App::start(daemon.command(node, "surroundings.js").env("NODE_OPTIONS", both));
        with.port();
        let _connected = daemon.agent();
        with.tell();
        assert_eq!(with.line(), bare, "node {node}");
    }
}

#[test]
fn es_modules_have_an_agent_too() {
    for node in NODES {
        let daemon = Daemon::start();
        let mut app = App::start(&mut daemon.command(node, "esm.mjs"));
        let port = app.port();
        daemon.agent().drain();
        assert!(Client::connect(port).get("/").says_close(), "node {node}");
    }
}

#[test]
fn a_stack_trace_names_the_agent_and_does_not_contain_it() {
    for node in NODES {
        let daemon = Daemon::start();
        let stack = App::start(&mut daemon.command(node, "badly.js")).line();
        assert!(stack.contains("rpm-agent:"), "node {node}: {stack}");
        assert!(!stack.contains("base64"), "node {node}: {stack}");
    }
}

#[test]
fn without_a_socket_in_the_environment_it_does_nothing() {
    let daemon = Daemon::start();
    let mut app = App::start(daemon.command(22, "app.js").env_remove(rpm_agent::SOCKET_ENV));
    let port = app.port();
    assert!(Client::connect(port).get("/").keeps_alive());
    assert!(daemon.is_alone());
}
