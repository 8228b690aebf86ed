//! The daemon's side of the protocol, and programs that carry an agent.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rpm_agent::{
    Decoder, Figures, FromAgent, Open, SOCKET_ENV, TOKEN_ENV, ToAgent, bun_options, bun_preload, node_options,
};

/// Every major version that the agent supports.
pub const NODES: [u32; 5] = [18, 20, 22, 24, 26];

/// Defines a test for each of [`NODES`], where one for all would take long.
macro_rules! on_every_node {
    ($name:ident, $test:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn node_18() {
                ($test)(18);
            }

            #[test]
            fn node_20() {
                ($test)(20);
            }

            #[test]
            fn node_22() {
                ($test)(22);
            }

            #[test]
            fn node_24() {
                ($test)(24);
            }

            #[test]
            fn node_26() {
                ($test)(26);
            }
        }
    };
}
pub(crate) use on_every_node;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The token that every program here gets.
pub const TOKEN: &str = "a-token";

/// Listens for agents in a directory of its own.
pub struct Daemon {
    directory: PathBuf,
    listener: Option<UnixListener>,
}

impl Daemon {
    pub fn start() -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("rpm-agent-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the socket");
        let mut daemon = Daemon {
            directory,
            listener: None,
        };
        daemon.come_back();
        daemon
    }

    /// Closes the listener; the path stays, as after a crash.
    pub fn die(&mut self) {
        self.listener = None;
    }

    pub fn come_back(&mut self) {
        let path = self.socket();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket for agents");
        listener.set_nonblocking(true).expect("a mode");
        self.listener = Some(listener);
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("agents.sock")
    }

    /// The next process that connects, after its greeting.
    pub fn agent(&self) -> Agent {
        let listener = self.listener.as_ref().expect("alive");
        let accept = || listener.accept().ok();
        let (stream, _) = rpm_testkit::wait_for("a connection of an agent", PATIENCE, accept);
        stream.set_nonblocking(false).expect("a mode");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut agent = Agent {
            stream,
            decoder: Decoder::new(),
            token: String::new(),
            pid: 0,
        };
        match agent.next() {
            FromAgent::Hello { token, pid, .. } => (agent.token, agent.pid) = (token, pid),
            other => panic!("the first message is {other:?}"),
        }
        agent
    }

    /// True if no other process has connected so far.
    pub fn is_alone(&self) -> bool {
        self.listener.as_ref().expect("alive").accept().is_err()
    }

    /// A program of `tests/apps` with an agent that connects here.
    pub fn command(&self, major: u32, app: &str) -> Command {
        let mut command = plain(major, app);
        command
            .env("NODE_OPTIONS", node_options(None))
            .env(TOKEN_ENV, TOKEN)
            .env(SOCKET_ENV, self.socket());
        command
    }

    /// As [`Daemon::command`], for Bun.
    pub fn bun(&self, app: &str) -> Command {
        let (text, name) = bun_preload();
        let preload = self.directory.join(name);
        std::fs::write(&preload, text).expect("a file for the preload");
        let options = bun_options(None, preload.to_str().expect("UTF-8"));
        let mut command = Command::new(rpm_testkit::bun());
        command
            .arg(apps().join(app))
            .env("BUN_OPTIONS", options.expect("a path without blanks"))
            .env(TOKEN_ENV, TOKEN)
            .env(SOCKET_ENV, self.socket());
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A program of `tests/apps` without an agent.
pub fn plain(major: u32, app: &str) -> Command {
    let mut command = Command::new(rpm_testkit::node(major));
    command.arg(apps().join(app)).env_remove("NODE_OPTIONS");
    command
}

pub fn apps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps")
}

/// The connection of an agent.
pub struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    pub token: String,
    pub pid: u32,
}

impl Agent {
    pub fn say(&mut self, message: ToAgent) {
        self.stream
            .write_all(message.line().as_bytes())
            .expect("the agent listens");
    }

    pub fn next(&mut self) -> FromAgent {
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next() {
                return message.expect("a message");
            }
            let count = self.stream.read(&mut bytes).expect("a message in time");
            assert_ne!(count, 0, "the agent is gone");
            self.decoder.feed(&bytes[..count]);
        }
    }

    /// True if its process lives for this time. It sends nothing meanwhile.
    pub fn stays(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a limit");
        let read = self.stream.read(&mut [0; 64]);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Drains, and waits for the acknowledgement.
    pub fn drain(&mut self) {
        self.say(ToAgent::Drain { deadline_ms: 30_000 });
        while self.next() != (FromAgent::Draining {}) {}
    }

    /// Reads reports until one is `wanted`.
    pub fn wait_open(&mut self, wanted: impl Fn(&Open) -> bool) -> Open {
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.next();
            match message {
                FromAgent::Open(open) if wanted(&open) => return open,
                FromAgent::Open(_) => assert!(Instant::now() < until, "last report: {message:?}"),
                other => panic!("{other:?} instead of a report"),
            }
        }
    }
}

impl Agent {
    /// Reports up to one that is as wanted.
    pub fn wait_figures(&mut self, wanted: impl Fn(&Figures) -> bool) -> Figures {
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.next();
            match message {
                FromAgent::Figures(figures) if wanted(&figures) => return *figures,
                FromAgent::Figures(_) => assert!(Instant::now() < until, "last report: {message:?}"),
                other => panic!("{other:?} instead of figures"),
            }
        }
    }
}

/// A program that runs; killed when dropped.
pub struct App {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl App {
    pub fn start(command: &mut Command) -> App {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be executed");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        App { child, lines }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line of output.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// Its next line, as the port it listens on.
    pub fn port(&mut self) -> u16 {
        let line = self.line();
        line.parse().unwrap_or_else(|_| panic!("{line:?} is not a port"))
    }

    /// Sends it a line of input.
    pub fn tell(&mut self) {
        self.child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(b"\n")
            .expect("it reads");
    }

    /// Sends it SIGINT.
    pub fn interrupt(&self) {
        let mut kill = Command::new("kill");
        let done = kill.args(["-INT", &self.pid().to_string()]).status();
        assert!(done.is_ok_and(|status| status.success()));
    }

    /// Waits for its end.
    pub fn ended(&mut self, bound: Duration) -> ExitStatus {
        let child = &mut self.child;
        rpm_testkit::wait_for("the end of the program", bound, || {
            child.try_wait().expect("a child")
        })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the clients of `client.js` report.
#[derive(Debug)]
pub struct Outcomes(String);

impl Outcomes {
    /// The numbers of good responses, of responses or sessions that said close, and of resent requests.
    ///
    /// # Panics
    /// There was another outcome.
    pub fn counts(&self) -> [u32; 3] {
        let mut counts = [0; 3];
        let fields =
            self.0
                .trim_matches(['{', '}'])
                .split(',')
                .zip(["\"ok\":", "\"closes\":", "\"resent\":", ""]);
        for (index, (field, name)) in fields.enumerate() {
            let count = field.strip_prefix(name).and_then(|count| count.parse().ok());
            counts[index] = count.unwrap_or_else(|| panic!("failures: {self:?}"));
        }
        counts
    }
}

/// Sends the traffic of `client.js` to a server, and meanwhile drains it to its end. The client is the newest Node, because Node 18 cancels
/// streams by itself when any GOAWAY arrives.
pub fn outcomes_of_a_drain(kind: &str, port: u16, agent: &mut Agent) -> Outcomes {
    let mut clients = App::start(plain(26, "client.js").args([kind, &port.to_string()]));
    assert_eq!(clients.line(), "more");
    agent.drain();
    agent.wait_open(|open| open.connections > 0);
    // A draining process takes no stream of a new session over TLS (`retire` in `node.js`).
    if kind != "h2" {
        assert_eq!(clients.line(), "more");
    }
    clients.tell();
    let outcomes = std::iter::repeat_with(|| clients.line()).find(|line| line != "more");
    agent.wait_open(|open| open.connections == 0);
    Outcomes(outcomes.expect("it is endless"))
}

/// A client's connection, byte by byte.
pub struct Client(TcpStream);

/// What came back for one request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn says_close(&self) -> bool {
        self.head.matches("\r\nconnection:").count() == 1 && self.head.contains("\r\nconnection: close\r\n")
    }

    pub fn keeps_alive(&self) -> bool {
        self.head.contains("\r\nconnection: keep-alive\r\n")
    }
}

impl Client {
    pub fn connect(port: u16) -> Client {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        Client(stream)
    }

    pub fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the server reads");
    }

    pub fn ask(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }

    /// Reads one response, and not a byte more.
    pub fn answer(&mut self) -> Answer {
        let head = self.read_to("\r\n\r\n").to_lowercase();
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length: "));
        let body = match length {
            Some(length) => self.read(length.parse().expect("a length")),
            None => self.read_to("0\r\n\r\n"),
        };
        Answer { head, body }
    }

    /// Sends a request and reads the response.
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask(path);
        self.answer()
    }

    /// Everything up to the end of the connection. A reset is a failure.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).expect("an orderly end");
        bytes
    }

    pub fn read_to(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push_str(&self.read(1));
        }
        text
    }

    fn read(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("an answer");
        String::from_utf8(bytes).expect("ASCII")
    }
}
