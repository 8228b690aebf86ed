//! The dashboard, in a real browser.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rpm_e2e::app::App;
use rpm_e2e::ask::BOUND;
use rpm_e2e::certificate::certificate;
use rpm_e2e::clients::Clients;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, browser_script, get, node, wait_until};
use serde_json::{Value, json};

use crate::observing::turn_on;

/// A variable of an app whose value no browser may see.
const MARKED: &str = "marked-1f0c9a";
/// Clients, and responses before and after a change.
const CLIENTS: usize = 4;
const SOME: u64 = 50;
/// A name that is markup.
const STRANGE: &str = "<img src=x onerror=alert(1)>";

/// What the browser saw when these looked, each by this link.
fn look(visits: &[(&str, &str)]) -> Value {
    let ran = Command::new(node(22))
        .arg(browser_script())
        .arg(json!(visits).to_string())
        .env("MARKED", MARKED)
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{error}");
    let seen: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    for kind in ["errors", "secrets", "unsightly"] {
        assert_eq!(seen[kind], json!([]), "{kind}: {seen:#}");
    }
    seen
}

/// The status, and the cookie, when a page of `site` opens a link of the dashboard at `address`, whose certificate this is.
fn login_from(site: &str, address: &str, link: &str, certificate: &str) -> (u16, String) {
    let ran = Command::new("curl")
        .args([
            "--silent",
            "--output",
            "/dev/null",
            "--noproxy",
            "*",
            "--max-time",
            "60",
        ])
        .args(["--write-out", "%{http_code} %header{set-cookie}"])
        .args([
            "--cacert",
            certificate,
            "--json",
            &json!({ "link": link }).to_string(),
        ])
        .args(["--header", &format!("Origin: {site}")])
        .arg(format!("{address}dashboard/login"))
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let (status, cookie) = said.split_once(' ').expect("two words");
    (status.parse().expect("a status"), cookie.to_owned())
}

/// Waits until the log says these, in this order, all of this machine, and asserts that it says none of the secrets.
fn logged(rpm: &Rpm, lines: &[&str], secrets: &[&str]) {
    let log = || rpm.ok(["logs", "rpm-observe", "--nostream", "--lines", "200"]);
    let says = |log: &String| {
        let mut rest = log.lines();
        lines.iter().all(|line| {
            let whole = format!("dashboard: {line} from 127.0.0.1");
            rest.any(|logged| logged.ends_with(&whole))
        })
    };
    let log = wait_until("what is logged", BOUND, log, says);
    for secret in secrets {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
}

/// Asserts that a link opens the dashboard at `address` for a page from there, and for no other, such as the same one in clear text.
fn opens_for_its_own_page_alone(address: &str, link: &str, certificate: &str) {
    let own = address.trim_end_matches('/');
    let clear = own.replace("https:", "http:");
    for site in [&clear, "https://evil.example"] {
        assert_eq!(login_from(site, address, link, certificate).0, 403, "{site}");
    }
    let (status, cookie) = login_from(own, address, link, certificate);
    assert_eq!(status, 200, "nothing has used the link");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
}

/// Sets the password of somebody who may look, and returns what the command says.
fn set_password(rpm: &Rpm, user: &str, password: &str) -> String {
    let mut command: Command = rpm.command(["dashboard", "password", user, "--read-only"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    writeln!(stdin, "{password}").expect("it reads");
    drop(stdin);
    let ran = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&ran.stderr).into_owned()
}

/// Has the dashboard show another daemon, whose app is `far`, and asserts that bad addresses are refused. Returns what must stay.
fn another_host(rpm: &Rpm, place: &Place) -> (Rpm, [Port; 2]) {
    let (other, web, port) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::new("say.js")
        .args(["--name", "far"])
        .port(&web)
        .start(&other);
    // The token is what no browser may see.
    let token = place.write("token", &format!("{MARKED}-of-another-host\n"));
    let token = token.to_str().expect("a path");
    let listen = port.number().to_string();
    let on = other.run(["observe", "on", "--listen", &listen, "--token-file", token]);
    assert_eq!(on.code, Some(0), "{on:#?}");
    let url = format!("http://127.0.0.1:{port}");
    rpm.ok(["dashboard", "host", "db", &url, "--token-file", token]);
    for (url, why) in [
        ("http://10.0.0.2", "in clear text"),
        (
            "https://10.0.0.2:99999",
            "its port must be a number from 1 to 65535",
        ),
    ] {
        let refused = rpm.fails(["dashboard", "host", "x", url, "--token-file", token]);
        assert!(refused.contains(why), "{url}: {refused}");
    }
    (other, [web, port])
}

#[test]
fn a_user_signs_in_with_a_password_by_https() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    let [cert, key] = certificate(&place, "site", "localhost").map(|file| file.display().to_string());
    let listen = port.number().to_string();
    let on = rpm.run([
        "observe",
        "on",
        "--listen",
        &listen,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ]);
    assert_eq!(on.code, Some(0), "{on:#?}\n{}", rpm.log());
    let shown = rpm.ok(["observe", "status"]);
    assert!(
        shown.contains(&format!("https://127.0.0.1:{port}/metrics")),
        "{shown}"
    );
    let short = set_password(&rpm, "alice", "guess");
    assert!(short.contains("a password has 10 characters"), "{short}");
    let set = set_password(&rpm, "alice", "correct horse");
    assert!(set.contains("alice may sign in to look;"), "{set}");
    let _far = another_host(&rpm, &place);
    let link = rpm.ok(["dashboard"]);
    let (address, secret) = link.split_once("#link=").expect("a link");
    assert_eq!(address, format!("https://localhost:{port}/"));
    opens_for_its_own_page_alone(address, secret.trim(), &cert);
    let seen = look(&[("user", address)]);
    assert_eq!(seen["said"], json!(["wrong user or password"]));
    assert_eq!(seen["cookie"], json!([true, true, "Strict"]), "{seen:#}");
    logged(
        &rpm,
        &[
            "an operator with a link has signed in",
            "a wrong user or password",
            "alice has signed in",
            "alice has signed out",
        ],
        &["correct house", "correct horse", secret.trim()],
    );
    assert_eq!(seen["moved"], json!([0, 0]), "no layout shift");
    assert_eq!(seen["far"], json!("far"), "{seen:#}");
    std::fs::write(rpm.home().join("dashboard.users"), "alice\n").expect("it is written");
    let wrong = set_password(&rpm, "alice", "correct horse");
    assert!(wrong.contains("dashboard.users:1: a line is"), "{wrong}");
}

#[test]
fn an_operator_reloads_in_the_browser_and_nothing_is_lost() {
    let (rpm, web, strange, port) = (Rpm::new(), Port::reserve(), Port::reserve(), Port::reserve());
    App::cluster("say.js", "2")
        .args(["--name", "web"])
        .env("MARKED", MARKED)
        .port(&web)
        .start(&rpm);
    App::new("say.js")
        .args(["--name", STRANGE])
        .port(&strange)
        .start(&rpm);
    get(web.number(), "/?out=it+serves+its+port").expect("it serves");
    get(strange.number(), "/?out=%3Cscript%3Ealert(1)%3C/script%3E").expect("it serves");
    turn_on(&rpm, &port);
    let link = |options: &[&str]| {
        let printed = rpm.ok([&["dashboard"], options].concat());
        let link = printed.trim().to_owned();
        let begin = format!("http://127.0.0.1:{port}/#link=");
        assert!(link.starts_with(&begin), "{link}");
        link
    };
    let taken_back = link(&[]);
    rpm.ok(["dashboard", "--sign-out"]);
    let (operator, viewer) = (link(&[]), link(&["--read-only"]));
    let clients = Clients::begin(&web, "/", CLIENTS);
    clients.wait_ok(SOME);
    let seen = look(&[
        ("operator", &operator),
        ("stranger", &operator),
        ("stranger", &taken_back),
        ("viewer", &viewer),
    ]);
    clients.wait_ok(SOME);
    clients.finish_clean(&rpm);
    let address = format!("http://127.0.0.1:{port}/");
    assert_eq!(seen["address"], address, "no secret stays in it");
    assert_eq!(seen["apps"], json!([STRANGE, "web"]));
    let line = seen["strange"].as_str().expect("a line");
    assert!(line.ends_with("<script>alert(1)</script>"), "{line}");
    assert_eq!(seen["reload"], "Done. with steps");
    assert_eq!(seen["scale"], "Done. without steps");
    assert_eq!(seen["cookieAlone"], 401);
    assert_eq!(rpm.list().len(), 4, "it was scaled");
    logged(
        &rpm,
        &[
            "an operator with a link has signed in",
            "an operator with a link has signed out",
            "a wrong link",
            "a wrong link",
            "a viewer with a link has signed in",
        ],
        &[&operator, &taken_back, &viewer].map(|link| link.split_once('=').expect("a link").1),
    );
    let refused = "this link was used already, or is too old: `rpm dashboard` prints a new one";
    assert_eq!(seen["said"], json!([refused, refused]));
    assert_eq!(
        (&seen["buttons"], &seen["acting"]),
        (&json!(0), &json!(403)),
        "{seen:#}"
    );
}
