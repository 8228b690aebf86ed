//! `rpm mcp`: what a model sees and does by the Model Context Protocol, in its own bytes.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rpm_e2e::ask::BOUND;
use rpm_e2e::clients::Clients;
use rpm_e2e::outside::{kill_daemon, terminate};
use rpm_e2e::site::{Site, hello};
use rpm_testkit::{Rpm, get, wait_until};
use serde_json::{Value, json};

/// Time between two messages of a call, on a loaded machine: that of a version which takes its time, and of those that work.
const HEARD_WITHIN: Duration = Duration::from_secs(60);
/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 30;
/// In the environment; the app prints it.
const TOKEN: &str = "marked-token-4711";
/// In the environment, under a name that says nothing.
const PLAIN: &str = "marked-value-4712";
/// Among the arguments.
const ARGUMENT: &str = "marked-argument-4713";

/// A program that prints its secret, and does so once more when it crashes.
const LEAKY: &str = "
console.error(`connecting with ${process.env.API_TOKEN}`);
require('node:http').createServer((request, response) => {
  if (request.url === '/crash') throw new Error(`refused: ${process.env.API_TOKEN}`);
  response.end('ok');
}).listen(process.env.PORT);
";

/// A client of `rpm mcp`.
struct Client {
    server: Child,
    input: Option<Box<dyn Write>>,
    lines: Receiver<String>,
    /// Everything that was heard.
    heard: String,
    /// Of the last request.
    notifications: Vec<Value>,
    last: u64,
}

impl Client {
    /// With pipes, as most clients have them.
    fn begin(rpm: &Rpm, args: &[&str]) -> Client {
        let mut command = rpm.command(["mcp"]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().expect("rpm runs");
        let input = Box::new(server.stdin.take().expect("a pipe"));
        let output = server.stdout.take().expect("a pipe");
        Client::of(server, input, output)
    }

    /// With sockets, as clients on Node have them.
    fn with_sockets(rpm: &Rpm, args: &[&str]) -> Client {
        let pair = || UnixStream::pair().expect("two sockets");
        let [(input, its_input), (output, its_output)] = [pair(), pair()];
        let [its_input, its_output] = [its_input, its_output].map(OwnedFd::from);
        let mut command = rpm.command(["mcp"]);
        command.args(args).stdin(its_input).stdout(its_output);
        let server = command.spawn().expect("rpm runs");
        Client::of(server, Box::new(input), output)
    }

    fn of(server: Child, input: Box<dyn Write>, output: impl Read + Send + 'static) -> Client {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut client = Client {
            server,
            input: Some(input),
            lines,
            heard: String::new(),
            notifications: Vec::new(),
            last: 0,
        };
        let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let server = client.request("initialize", &hello);
        assert_eq!(server["result"]["protocolVersion"], "2025-06-18", "{server}");
        assert_eq!(server["result"]["serverInfo"]["name"], "rpm", "{server}");
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn send(&mut self, message: &Value) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "{message}").expect("it is read");
    }

    /// The response to a request. Whatever comes before is a notification.
    fn request(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params}));
        self.notifications.clear();
        loop {
            let line = self.lines.recv_timeout(HEARD_WITHIN);
            let line = line.unwrap_or_else(|error| panic!("no answer to {method}: {error}\n{}", self.heard));
            self.heard.push_str(&line);
            let message: Value = serde_json::from_str(&line).expect("nothing but the protocol");
            assert_eq!(message["jsonrpc"], "2.0", "{message}");
            if message["id"] == self.last {
                return message;
            }
            assert!(message["id"].is_null(), "{message}");
            self.notifications.push(message);
        }
    }

    fn tools(&mut self) -> Vec<Value> {
        let answer = self.request("tools/list", &json!({}));
        let tools = answer["result"]["tools"].as_array();
        tools.unwrap_or_else(|| panic!("{answer}")).clone()
    }

    /// What a tool answers. The text is the same.
    fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let token = json!({"progressToken": "p"});
        let answer = self.request(
            "tools/call",
            &json!({"name": tool, "arguments": arguments, "_meta": token}),
        );
        let result = &answer["result"];
        assert_eq!(result["isError"], false, "{tool}: {answer}");
        let text = result["content"][0]["text"].as_str().expect("text");
        let structured = &result["structuredContent"];
        assert_eq!(&serde_json::from_str::<Value>(text).expect("JSON"), structured);
        structured.clone()
    }

    /// What a tool says when it fails.
    fn fails(&mut self, tool: &str, arguments: &Value) -> String {
        let answer = self.request("tools/call", &json!({"name": tool, "arguments": arguments}));
        let result = &answer["result"];
        assert_eq!(result["isError"], true, "{tool}: {answer}");
        result["content"][0]["text"].as_str().expect("text").to_owned()
    }

    /// Waits until the server has ended by itself.
    fn ended(&mut self) -> ExitStatus {
        let server = &mut self.server;
        let status = || server.try_wait().expect("it is ours");
        wait_until("the server ends", BOUND, status, Option::is_some).expect("it has ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A test that fails leaves no process.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn names(tools: &[Value]) -> Vec<&str> {
    tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
}

/// One of the two workers crashes, and the next one serves.
fn crash(site: &Site) {
    let _ = get(site.port.number(), "/crash");
    let course = || {
        let events = site.rpm.ok(["events", "site", "--json"]);
        let events = events
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events
            .filter_map(|event| event["kind"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    wait_until("another worker is ready", BOUND, course, |kinds| {
        let crashed = kinds.iter().position(|kind| kind == "crashed");
        crashed.is_some_and(|at| kinds[at..].contains(&"ready".to_owned()))
    });
}

fn it_sees_the_apps(client: &mut Client, site: &Site) {
    let list = client.call("list", &json!({}));
    let processes = list["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 2, "{list}");
    let url = format!("http://localhost:{}", site.port);
    assert_eq!(processes[0]["serves"][0], *url, "{list}");
    assert_eq!(processes[1]["status"], "online", "{list}");

    let described = client.call("describe", &json!({"app": "site"}));
    let limit = &described["settings"]["max_memory_restart"];
    assert_eq!(*limit, 1_u64 << 30, "{described}");
    assert_eq!(described["arguments"], 1, "{described}");
    let slots = described["listeners"][0]["slots"].as_array().expect("slots");
    assert_eq!(slots.len(), 2, "{described}");

    let metrics = client.call("metrics", &json!({"app": "0", "name": "workers"}));
    let sample = json!({"labels": {"app": "site", "state": "online"}, "value": 2.0});
    let samples = metrics["metrics"][0]["samples"].as_array().expect("samples");
    assert!(samples.contains(&sample), "{metrics}");
}

fn it_sees_the_past(client: &mut Client) {
    let wanted = json!({"app": "site", "lines": 1, "stream": "err", "contains": "CONNECTING"});
    let logs = client.call("logs", &wanted);
    let line = &logs["lines"][0];
    assert_eq!(line["line"], "connecting with [value of API_TOKEN]", "{logs}");
    assert_eq!(line["stream"], "err", "{logs}");
    assert_eq!(logs["older_left_out"], true, "{logs}");

    let guessed = client.call("logs", &json!({"app": "site", "contains": &TOKEN[..8]}));
    assert_eq!(guessed["lines"], json!([]), "no part of a secret is found");

    let events = client.call("events", &json!({"app": "site"}));
    let events = events["events"].as_array().expect("a list");
    let crash = events.iter().find(|event| event["kind"] == "crashed");
    let crash = crash.unwrap_or_else(|| panic!("{events:?}"));
    let last_lines = crash["last_lines"].to_string();
    assert!(last_lines.contains("refused: [value of API_TOKEN]"), "{crash}");
    let after = client.call("events", &json!({"after": crash["seq"], "lines": 1}));
    let next = crash["seq"].as_u64().expect("a number") + 1;
    assert_eq!(after["events"][0]["seq"], next, "{after}");
    assert_eq!(after["more"], true, "{after}");
}

#[test]
fn a_model_sees_everything_but_secrets() {
    let rpm = Rpm::new().with_env("API_TOKEN", TOKEN).with_env("PLAIN", PLAIN);
    let site = Site::start(rpm, LEAKY, &["--max-memory-restart", "1G", "--", ARGUMENT]);
    let mut client = Client::begin(&site.rpm, &[]);

    let tools = client.tools();
    assert_eq!(names(&tools), ["list", "describe", "logs", "events", "metrics"]);
    for tool in &tools {
        assert_eq!(tool["annotations"]["readOnlyHint"], true, "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
    }
    let reload = json!({"name": "reload", "arguments": {"app": "site"}});
    let refused = client.request("tools/call", &reload);
    let text = refused["error"]["message"].as_str().expect("an error");
    assert!(text.contains("mcp --allow-actions`"), "{refused}");

    crash(&site);
    it_sees_the_apps(&mut client, &site);
    it_sees_the_past(&mut client);

    let unknown = client.fails("describe", &json!({"app": "sites"}));
    assert!(
        unknown.contains("\"sites\"") && unknown.contains("hint: there are: site"),
        "{unknown}"
    );
    let wrong = client.fails("logs", &json!({"app": "site", "lines": 1000}));
    assert!(wrong.contains("`lines` must be 1 to 500"), "{wrong}");

    for marked in [TOKEN, PLAIN, ARGUMENT] {
        assert!(!client.heard.contains(marked), "{marked}\n{}", client.heard);
    }
    drop(client.input.take());
    assert_eq!(client.ended().code(), Some(0), "it ends with its client");
}

/// A version that takes its time: the call returns before, and the next one waits for the same reload.
fn it_waits_again(client: &mut Client, site: &Site) {
    site.write(&format!("setTimeout(() => {{ {} }}, 5000);", hello()));
    let generation = site.rpm.process(0).generation;
    let slow = client.call("reload", &json!({"app": "site", "wait_seconds": 1}));
    assert_eq!(slow["outcome"], "in_progress", "{slow}");
    let done = client.call("reload", &json!({"app": "site"}));
    assert_eq!(done["outcome"], "done", "{done}");
    assert!(
        done["notes"].to_string().contains("attached to a reload of site"),
        "{done}"
    );
    assert_eq!(site.rpm.process(0).generation, generation + 1, "{done}");
}

/// A version that does not work.
fn it_hears_why_one_fails(client: &mut Client, site: &Site) {
    let serving = site.rpm.pids("site");
    site.write("console.error('no such module'); process.exit(3);");
    let failed = client.fails("reload", &json!({"app": "site"}));
    assert!(failed.contains("its last lines:\n  | no such module"), "{failed}");
    assert_eq!(site.rpm.pids("site"), serving, "the old workers serve");
    site.write(&hello());
}

#[test]
fn a_model_changes_what_it_is_allowed_to() {
    let site = Site::start(Rpm::new(), &hello(), &[]);
    let mut client = Client::with_sockets(&site.rpm, &["--allow-actions"]);
    let tools = client.tools();
    assert_eq!(names(&tools)[5..], ["reload", "restart", "scale", "rollback"]);
    assert_eq!(tools[5]["annotations"]["destructiveHint"], true, "{}", tools[5]);
    assert_eq!(tools[6]["annotations"]["destructiveHint"], true, "{}", tools[6]);

    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    let before = site.rpm.pids("site");
    let reloaded = client.call("reload", &json!({"app": "site"}));
    assert_eq!(reloaded["outcome"], "done", "{reloaded}");
    let after = site.rpm.pids("site");
    assert!(
        before.iter().all(|pid| !after.contains(pid)),
        "{before:?} {after:?}"
    );
    assert_eq!(reloaded["processes"][1]["pid"], after[1], "{reloaded}");
    let steps = &client.notifications;
    let ready = format!("site 1: ready (pid {})", after[1]);
    let told = |step: &Value| step["params"]["message"] == *ready && step["params"]["progressToken"] == "p";
    assert!(steps.iter().any(told), "{steps:?}");

    it_waits_again(&mut client, &site);
    it_hears_why_one_fails(&mut client, &site);

    let scaled = client.call("scale", &json!({"app": "site", "count": "+1"}));
    assert_eq!(
        (scaled["outcome"].as_str(), site.rpm.list().len()),
        (Some("done"), 3),
        "{scaled}"
    );
    let back = client.call("rollback", &json!({"app": "site"}));
    assert_eq!(back["outcome"], "done", "{back}");
    let before = site.rpm.pids("site");
    assert_eq!(client.call("restart", &json!({"app": "all"}))["outcome"], "done");
    assert_ne!(site.rpm.pids("site"), before);
    clients.wait_ok(SOME);
    clients.finish_clean(&site.rpm);

    kill_daemon(&site.rpm);
    let gone = client.fails("list", &json!({}));
    assert!(
        gone.contains("the daemon does not run") && gone.contains(" start app.js`"),
        "{gone}"
    );
    assert_eq!(site.rpm.list().len(), 3, "the next daemon has taken over");
    assert_eq!(
        client.call("list", &json!({"app": "site"}))["processes"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    terminate(client.server.id());
    assert_eq!(client.ended().code(), Some(0), "it ends when it is asked to");
}
