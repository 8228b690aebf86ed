//! Health checks: a version that listens but does not work never serves a client.

use rpm_e2e::app::App;
use rpm_e2e::clients::Clients;
use rpm_e2e::place::Place;
use rpm_e2e::site::Site;
use rpm_e2e::steering::Path;
use rpm_testkit::{Port, Rpm, get};

/// Clients of each kind.
const CLIENTS: usize = 4;
/// Responses between two events.
const SOME: u64 = 50;
/// For a worker to start, listen and be checked, on a busy machine.
const ENOUGH: &str = "15s";

/// A release that logs who sent which request, and answers its health check with this expression.
fn release(name: &str, health: &str) -> String {
    format!(
        "let asked = 0; require('http').createServer((req, res) => {{
            if (req.url === '/health') {{ asked += 1; res.statusCode = {health};
                console.log('{name} health', req.headers['user-agent'], res.statusCode); return res.end(); }}
            console.log('{name} client'); res.end('{name}'); }}).listen(process.env.PORT);\n"
    )
}

fn lines_with(site: &Site, wanted: &str) -> usize {
    // It returns when what was printed is in the files.
    let _ = site.rpm.ok(["logs", "--nostream", "--lines", "0"]);
    let logs = site.rpm.list().into_iter().map(|process| process.out_log);
    let texts = logs.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    texts
        .map(|text| text.lines().filter(|line| line.contains(wanted)).count())
        .sum()
}

fn refuses_an_unhealthy_version(rpm: Rpm) {
    let options = [
        "--health-check",
        "/health",
        "--health-interval",
        "50ms",
        "--reload-timeout",
        ENOUGH,
    ];
    let site = Site::start(rpm, &release("one", "200"), &options);
    let before = site.rpm.pids("site");
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.write(&release("two", "500"));
    let error = site.rpm.fails(["reload", "site"]);
    assert!(
        error.contains(
            "was not ready within 15000 ms: its last answer to the health check /health was: status 500"
        ),
        "{error}"
    );
    clients.wait_ok(SOME);
    assert_eq!(site.rpm.pids("site"), before, "the old workers serve");
    clients.finish_clean(&site.rpm);
    assert!(
        lines_with(&site, "two health rpm-health-check 500") > 2,
        "it was asked"
    );
    assert_eq!(lines_with(&site, "two client"), 0, "no client has reached it");
}

#[test]
fn a_version_that_answers_badly_never_serves() {
    refuses_an_unhealthy_version(Rpm::new());
}

#[test]
fn a_version_that_answers_badly_never_serves_without_privileges() {
    if let Some(rpm) = Path::Classic.rpm("a_version_that_answers_badly_never_serves_without_privileges") {
        refuses_an_unhealthy_version(rpm);
    }
}

#[test]
fn one_that_becomes_healthy_takes_over_then() {
    let options = [
        "--health-check",
        "/health",
        "--health-status",
        "204",
        "--health-interval",
        "20ms",
        // A check that is given up is asked again, and counts.
        "--health-timeout",
        "15s",
    ];
    let threshold = ["--health-threshold", "3"];
    let site = Site::start(
        Rpm::new(),
        &release("one", "204"),
        &[&options[..], &threshold].concat(),
    );
    let clients = Clients::begin(&site.port, "/", CLIENTS);
    clients.wait_ok(SOME);
    site.write(&release("two", "asked === 4 || asked < 3 ? 503 : 204"));
    site.rpm.ok(["reload", "site"]);
    clients.wait_ok(SOME);
    assert_eq!(get(site.port.number(), "/").expect("an answer").body, "two");
    clients.finish_clean(&site.rpm);
    // Bad, bad, good, bad, and three good ones in a row, of each worker.
    assert_eq!(lines_with(&site, "two health"), 14);
}

#[test]
fn a_version_that_hangs_and_one_that_speaks_no_http() {
    // A connection that it cuts when it is terminated is not a response.
    let hangs = "const server = require('http').createServer(() => {}).listen(process.env.PORT);
        process.on('SIGINT', () => { server.closeAllConnections(); setTimeout(() => process.exit(), 300) })";
    let talks = "require('net').createServer((socket) => socket.end('220 mail')).listen(process.env.PORT)";
    // An answer that is not HTTP has to come before it is given up.
    for (body, timeout, says) in [
        (hangs, "200ms", "no answer within 200 ms"),
        (talks, "5s", "no HTTP response"),
    ] {
        let options = [
            "--health-check",
            "/health",
            "--health-timeout",
            timeout,
            "--health-interval",
            "10ms",
            "--reload-timeout",
            ENOUGH,
        ];
        let site = Site::start(Rpm::new(), &release("one", "200"), &options);
        let before = site.rpm.pids("site");
        site.write(body);
        let error = site.rpm.fails(["reload", "site"]);
        assert!(error.contains(says), "{error}");
        assert_eq!(site.rpm.pids("site"), before);
    }
}

/// There each worker has its own address, in whatever language it is written.
#[test]
fn behind_the_proxy_any_program_can_be_asked() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let program = |status: &str| {
        let text = format!(
            "import http.server, os\nclass Handler(http.server.BaseHTTPRequestHandler):\n  def do_GET(self):\n    \
             self.send_response({status} if self.path == '/health' else 200)\n    self.send_header('content-length', '0')\n    \
             self.end_headers()\n  def log_message(self, *_): pass\n\
             http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n"
        );
        place.write("site.py", &text)
    };
    let script = program("200");
    let reload_timeout = |time: &str| {
        let app = serde_json::json!({
            "name": "site", "script": script, "instances": 2, "balance": "proxy", "health_check": "/health",
            "reload_timeout": time, "env": { "PORT": port.number() },
        });
        place.write("site.json", &app.to_string());
    };
    reload_timeout(ENOUGH);
    place.ok(&rpm, ["start", "site.json"]);
    let before = rpm.pids("site");
    let clients = Clients::fresh(&port, 4);
    clients.wait_ok(50);
    program("503");
    let error = rpm.fails(["reload", "site"]);
    assert!(error.contains("status 503") || error.contains("503"), "{error}");
    assert_eq!(rpm.pids("site"), before);
    program("200");
    reload_timeout("30s");
    place.ok(&rpm, ["reload", "site.json"]);
    assert_ne!(rpm.pids("site"), before);
    clients.wait_ok(50);
    clients.finish_clean(&rpm);
}

#[test]
fn it_is_refused_where_no_single_worker_can_be_asked() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let check = ["--name", "web", "--health-check", "/"];
    let fork = App::new("hello.js").args(check).port(&port).try_start(&rpm);
    assert!(
        fork.code == Some(1) && fork.stderr.contains("started with -i"),
        "{fork:?}"
    );
    let address = port.to_string();
    let passed = App::cluster("listen-fds.py", "2")
        .args(check)
        .args(["--listen", &address]);
    let passed = passed.try_start(&rpm);
    assert!(
        passed.code == Some(1) && passed.stderr.contains("Node program"),
        "{passed:?}"
    );
}
