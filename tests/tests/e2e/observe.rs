//! `observe`: the metrics over HTTP, for Prometheus.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::certificate::certificate;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, get, wait_for, wait_until};

/// Prometheus needs several seconds to start on a busy machine.
const PROMETHEUS_WITHIN: Duration = Duration::from_secs(80);

/// The exporter of a daemon, at a port of its own.
struct Exporter {
    child: Child,
    port: u16,
}

impl Exporter {
    fn start(rpm: &Rpm, args: &[&str]) -> Exporter {
        let mut command: Command = rpm.command(["observe", "--listen", "0"].iter().chain(args));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        said.read_line(&mut line).expect("it says where");
        let port = line
            .trim_end()
            .strip_suffix("/metrics")
            .and_then(|url| url.rsplit(':').next());
        let port = port.and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("it says where: {line}"));
        // What it says later must not stop it.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Exporter { child, port }
    }

    fn page(&self) -> String {
        let answer = get(self.port, "/metrics").expect("it answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The page when both workers have been measured, too: what they answered before that is not counted.
    fn measured(&self) -> String {
        let page = || self.page();
        wait_until("the agents have reported", BOUND, page, |page| {
            let both = |metric: &str| page.matches(metric).count() == 2;
            both("rpm_node_heap_used_bytes{") && both("rpm_node_response_seconds_count{")
        })
    }

    /// The value of a figure, named with its labels.
    fn figure(&self, name: &str) -> Option<f64> {
        let page = self.page();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn figures_are_served_while_daemons_come_and_go() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    let exporter = Exporter::start(&rpm, &[]);
    assert_eq!(exporter.figure("rpm_up"), Some(0.0));
    assert_eq!(rpm.daemon_pid(), None, "it starts none");
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let up = || exporter.figure("rpm_up");
    wait_until("the daemon is seen", BOUND, up, |up| *up == Some(1.0));
    let page = exporter.page();
    for line in [
        r#"rpm_workers{app="hello",state="online"} 2"#,
        r#"pm2_up{id="0",name="hello",version="N/A",instance="0",interpreter="node",node_version="22."#,
        r#"pm2_instances{id="1",name="hello",version="N/A",instance="1","#,
        r#"pm2_restarts{id="1","#,
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    let held = rpm.daemon_pid().expect("it runs");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(held.cast_signed()).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("it is there");
    wait_until("its death is seen", BOUND, up, |up| *up == Some(0.0));
    assert_eq!(rpm.list().len(), 2, "the next daemon has them");
    wait_until("the next one is seen", BOUND, up, |up| *up == Some(1.0));
    let restarts = || {
        let page = exporter.page();
        page.lines()
            .any(|line| line.starts_with(r#"pm2_restarts{id="0","#) && line.ends_with("} 1"))
    };
    rpm.ok(["restart", "0", "--hard"]);
    wait_until("the restart is counted", BOUND, restarts, |counted| *counted);
}

/// An app that knows nothing of metrics has them all the same.
#[test]
fn node_is_measured_while_somebody_scrapes() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    assert!(get(port.number(), "/").is_ok(), "before anybody looks");
    let exporter = Exporter::start(&rpm, &[]);
    exporter.measured();
    let responses = || {
        let of = |id| {
            exporter.figure(&format!(
                r#"rpm_node_responses_total{{app="hello",id="{id}",status="2xx"}}"#
            ))
        };
        of(0).unwrap_or_default() + of(1).unwrap_or_default()
    };
    let before = responses();
    for _ in 0..20 {
        assert_eq!(get(port.number(), "/").expect("it answers").status, 200);
    }
    wait_until("they are counted", BOUND, responses, |count| {
        *count == before + 20.0
    });
    let of_first = |name: &str| exporter.figure(&format!(r#"rpm_node_{name}{{app="hello",id="0"}}"#));
    // Figures of now are left out while the last report is old.
    let fresh = |name: &str| wait_for(name, BOUND, || of_first(name));
    let [used, limit] = ["heap_used_bytes", "heap_limit_bytes"].map(fresh);
    assert!(0.0 < used && used < limit, "{used} of {limit}");
    let busy = fresh("event_loop_busy_ratio");
    assert!((0.0..=1.0).contains(&busy), "{busy}");
    rpm.ok(["reload", "hello"]);
    fresh("heap_used_bytes");
}

/// A Prometheus that scrapes this port every three seconds, and waits as long for the page, at a port and in a place of its own.
fn prometheus(place: &Place, own: &Port, scraped: u16) -> Child {
    let config = place.write(
        "prometheus.yml",
        &format!(
            "scrape_configs:\n- job_name: rpm\n  scrape_interval: 3s\n  static_configs: [{{targets: ['127.0.0.1:{scraped}']}}]\n"
        ),
    );
    Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            place.path().join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{own}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus, of Debian's package, runs")
}

#[test]
fn prometheus_scrapes_it() {
    let (rpm, place, port, own) = (Rpm::new(), Place::new(), Port::reserve(), Port::reserve());
    App::cluster("hello.js", "2").port(&port).start(&rpm);
    let exporter = Exporter::start(&rpm, &[]);
    let mut prometheus = prometheus(&place, &own, exporter.port);
    let query = |query: &str| {
        let answer = get(own.number(), &format!("/api/v1/query?query={query}"));
        answer.map_or_else(|error| error.to_string(), |answer| answer.body)
    };
    let known = || ["rpm_up", "sum(pm2_up)"].map(query);
    wait_until(
        "it has scraped",
        PROMETHEUS_WITHIN,
        known,
        |[daemon, processes]| daemon.contains(r#","1"]"#) && processes.contains(r#","2"]"#),
    );
    prometheus.kill().expect("it is ours");
    prometheus.wait().expect("it ends");
}

/// What Prometheus itself has to say of the page.
#[test]
fn the_page_is_as_prometheus_wants_it() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--name", "a \"b\" \\c", "--balance", "proxy"])
        .port(&port)
        .start(&rpm);
    assert_eq!(get(port.number(), "/").expect("it answers").status, 200);
    let exporter = Exporter::start(&rpm, &[]);
    let page = exporter.measured();
    assert!(page.contains("rpm_proxy_answer_seconds_bucket{"), "{page}");
    check_page(&page);
}

/// Prometheus's own tool finds nothing wrong with a page.
pub(crate) fn check_page(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus, runs");
    let mut input = promtool.stdin.take().expect("it is piped");
    input.write_all(page.as_bytes()).expect("it reads");
    drop(input);
    let said = promtool.wait_with_output().expect("it ends");
    let [out, err] = [&said.stdout, &said.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(said.status.success(), "{out}{err}\n{page}");
}

/// What a board asks for and nobody gives is an empty panel.
#[test]
fn the_board_asks_for_figures_that_there_are() {
    let (rpm, port) = (Rpm::new(), Port::reserve());
    App::cluster("hello.js", "2")
        .args(["--balance", "proxy"])
        .port(&port)
        .start(&rpm);
    assert_eq!(get(port.number(), "/").expect("it answers").status, 200);
    let exporter = Exporter::start(&rpm, &[]);
    let board = include_str!("../../../docs/grafana.json");
    let board: serde_json::Value = serde_json::from_str(board).expect("JSON");
    let targets = board["panels"].as_array().expect("panels").iter();
    let targets = targets.filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut names = BTreeSet::new();
    for expression in targets.map(|target| target["expr"].as_str().expect("a query")) {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        names.extend(words.filter(|word| word.starts_with("rpm_")));
    }
    assert!(names.len() > 20, "{names:?}");
    // Only eBPF counts what was steered, which not every machine permits.
    names.remove("rpm_steered_connections_total");
    let missing = || {
        let page = exporter.measured();
        let known =
            |name: &&&str| page.contains(&format!("\n{name} ")) || page.contains(&format!("\n{name}{{"));
        let missing: Vec<&str> = names.iter().filter(|name| !known(name)).copied().collect();
        (missing, page)
    };
    wait_until("all are on the page", BOUND, missing, |(missing, _)| {
        missing.is_empty()
    });
}

#[test]
fn others_get_nothing_without_the_token() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let open = rpm.run(["observe", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(1), "{open:#?}");
    for part in [
        "0.0.0.0 can be reached from other machines",
        "--token-file",
        "127.0.0.1",
    ] {
        assert!(open.stderr.contains(part), "{part}: {open:#?}");
    }
    let token = place.write("token", "correct-horse-battery\n");
    let token = token.to_str().expect("a path");
    let exporter = Exporter::start(&rpm, &["--token-file", token]);
    assert_eq!(get(exporter.port, "/metrics").expect("it answers").status, 401);
    let with_token = || {
        let mut stream = TcpStream::connect(("127.0.0.1", exporter.port))?;
        stream.write_all(
            b"GET /metrics HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer correct-horse-battery\r\n\r\n",
        )?;
        std::io::read_to_string(stream)
    };
    let page = with_token().expect("it answers");
    assert!(
        page.starts_with("HTTP/1.0 200") && page.contains("rpm_up 0"),
        "{page}"
    );
    let short = place.write("short", "guess");
    let refused = rpm.run(["observe", "--token-file", short.to_str().expect("a path")]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.stderr.contains("at least 16"), "{refused:#?}");
    let missing = rpm.run(["observe", "--token-file", "/nowhere"]);
    assert!(
        missing.stderr.contains("cannot read the token in /nowhere"),
        "{missing:#?}"
    );
}

/// Installs a program there.
/// What curl gets of the exporter by HTTPS, trusting this certificate: the status, or 0.
fn by_https(exporter: &Exporter, trusted: &Path, options: &[&str]) -> u16 {
    let ran = Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"])
        .args(["--noproxy", "*", "--max-time", "20", "--cacert"])
        .arg(trusted)
        .args(options)
        .arg(format!("https://localhost:{}/metrics", exporter.port))
        .output()
        .expect("curl runs");
    let code = String::from_utf8_lossy(&ran.stdout);
    code.parse().unwrap_or_else(|_| panic!("a status: {code}"))
}

#[test]
fn https_is_for_clients_with_a_certificate() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let [cert, key] = certificate(&place, "site", "localhost");
    let [client, client_key] = certificate(&place, "client", "prometheus.test");
    let [new, new_key] = certificate(&place, "new", "localhost");
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let files = [&cert, &key, &client].map(|path| text(path));
    let [cert_text, key_text, ca] = files.each_ref().map(String::as_str);
    let https = ["--tls-cert", cert_text, "--tls-key", key_text];
    let exporter = Exporter::start(&rpm, &[&https[..], &["--tls-client-ca", ca]].concat());
    let own = ["--cert", ca, "--key", &text(&client_key)];
    assert_eq!(by_https(&exporter, &cert, &own), 200);
    assert_eq!(by_https(&exporter, &cert, &[]), 0, "without a certificate");
    let other = ["--cert", cert_text, "--key", key_text];
    assert_eq!(by_https(&exporter, &cert, &other), 0, "of another authority");
    let old = [&own[..], &["--tls-max", "1.1"]].concat();
    assert_eq!(by_https(&exporter, &cert, &old), 0, "TLS 1.1");
    assert!(get(exporter.port, "/metrics").is_err(), "in clear text");
    for (from, to) in [(&new, &cert), (&new_key, &key)] {
        std::fs::copy(from, to).expect("it is copied");
    }
    let status = || by_https(&exporter, &new, &own);
    wait_until("the new certificate is used", BOUND, status, |status| {
        *status == 200
    });
    let half = rpm.run(["observe", "--tls-cert", cert_text]);
    assert!(half.stderr.contains("--tls-key"), "{half:#?}");
    let wrong = rpm.run(["observe", "--tls-cert", key_text, "--tls-key", key_text]);
    assert!(wrong.stderr.contains("contains no certificate"), "{wrong:#?}");
}

fn install(program: &Path, place: &Path) {
    std::fs::create_dir_all(place.parent().expect("it has one")).expect("a directory");
    std::fs::hard_link(program, place)
        .or_else(|_| std::fs::copy(program, place).map(drop))
        .expect("it is installed");
}

#[test]
fn without_its_program_it_says_where_that_belongs() {
    let (rpm, place) = (Rpm::new(), Place::new());
    let program = place.path().join("bin/rpmx");
    let packaged = place.path().join("lib/rpmx/rpm-observe");
    install(rpm.binary(), &program);
    let refusal = |command: &str| {
        let mut refused = Command::new(&program);
        refused
            .args([command])
            .args((command == "observe").then_some("--listen=0.0.0.0:0"))
            .env("RPM_HOME", rpm.home())
            .stdin(Stdio::null());
        let refused = refused.output().expect("it runs");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        String::from_utf8_lossy(&refused.stderr).into_owned()
    };
    for command in ["observe", "monit"] {
        let missing = refusal(command);
        for part in [
            "needs the program rpm-observe",
            &format!("{}/bin or ", place.path().display()),
            &format!("{}/lib/rpmx;", place.path().display()),
        ] {
            assert!(missing.contains(part), "{command}, {part}: {missing}");
        }
    }
    // Where packages have it.
    install(&rpm.binary().with_file_name("rpm-observe"), &packaged);
    assert!(refusal("observe").contains("--token-file"));
    let monit = refusal("monit");
    assert!(
        monit.contains("needs a terminal") && monit.contains("bin/rpmx list --json"),
        "messages name the command as it was called: {monit}"
    );
}

#[test]
fn a_port_that_is_taken_is_named_with_the_way_out() {
    let rpm = Rpm::new();
    let exporter = Exporter::start(&rpm, &[]);
    let taken = rpm.run(["observe", "--listen", &exporter.port.to_string()]);
    assert_eq!(taken.code, Some(1), "{taken:#?}");
    for part in [
        &format!("cannot listen on 127.0.0.1:{}", exporter.port),
        "--listen",
        "in use",
    ] {
        assert!(taken.stderr.contains(part), "{part}: {taken:#?}");
    }
}
