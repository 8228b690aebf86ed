//! `serve`: static files, as an app.

use std::process::Command;
use std::time::Duration;

use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, Status, wait_until};

const BOUND: Duration = Duration::from_secs(20);

/// Status, type and body of a response; `more` are further arguments of curl.
fn asked(port: &Port, path: &str, more: &[&str]) -> (u16, String, String) {
    let format = "\n%{http_code} %{content_type}";
    let url = format!("http://127.0.0.1:{port}{path}");
    let ran = Command::new("curl")
        .args(["-sS", "--max-time", "60", "--path-as-is", "-w", format])
        .args(more)
        .arg(url)
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let (body, last) = said.rsplit_once('\n').unwrap_or_else(|| panic!("{ran:?}"));
    let (status, kind) = last.split_once(' ').unwrap_or((last, ""));
    (
        status.parse().expect("a status"),
        kind.to_owned(),
        body.to_owned(),
    )
}

fn site() -> Place {
    let place = Place::new();
    place.write("public/index.html", "<h1>front</h1>");
    place.write("public/app.js", "let a = 1;");
    place.write("public/data/list.json", "[1,2,3,4]");
    place.write("secret.txt", "secret");
    place
}

#[test]
fn files_have_their_types_and_ranges_and_nothing_else_is_told() {
    let (rpm, place, port) = (Rpm::new(), site(), Port::reserve());
    let ran = place.ok(&rpm, ["serve", "public", &port.to_string()]);
    assert!(
        ran.stdout.contains(&format!("static-page-server-{port}")),
        "{ran:?}"
    );
    assert_eq!(rpm.list()[0].status, Status::Online);
    for (path, status, kind, body) in [
        ("/", 200, "text/html", "<h1>front</h1>"),
        ("/app.js", 200, "text/javascript", "let a = 1;"),
        ("/data/list.json", 200, "application/json", "[1,2,3,4]"),
        ("/nowhere", 404, "", ""),
        ("/../secret.txt", 404, "", ""),
        ("/%2e%2e/secret.txt", 404, "", ""),
        ("/data/..%2f..%2fsecret.txt", 404, "", ""),
    ] {
        let (found, of, text) = asked(&port, path, &[]);
        assert_eq!(found, status, "{path}");
        assert!(of.starts_with(kind) && text == body, "{path}: {of} {text}");
    }
    let (status, _, part) = asked(&port, "/data/list.json", &["-r", "1-3"]);
    assert_eq!((status, part.as_str()), (206, "1,2"));
    assert_eq!(asked(&port, "/data/list.json", &["-r", "99-"]).0, 416);
    // It is an app like any other.
    let before = rpm.pids(&format!("static-page-server-{port}"));
    rpm.ok(["reload", "all"]);
    assert_ne!(rpm.pids(&format!("static-page-server-{port}")), before);
    assert_eq!(asked(&port, "/", &[]).0, 200);
}

#[test]
fn what_is_not_there_is_the_404_page_where_there_is_one() {
    let (rpm, place, port) = (Rpm::new(), site(), Port::reserve());
    place.write("public/404.html", "<h1>lost</h1>");
    place.ok(&rpm, ["serve", "public", &port.to_string()]);
    for path in ["/nowhere", "/data/nowhere.json", "/../secret.txt"] {
        let (status, kind, body) = asked(&port, path, &[]);
        assert_eq!((status, body.as_str()), (404, "<h1>lost</h1>"), "{path}");
        assert!(kind.starts_with("text/html"), "{path}: {kind}");
    }
    assert_eq!(asked(&port, "/", &[]).2, "<h1>front</h1>");
}

#[test]
fn files_of_pm2_have_directories_served() {
    let (rpm, place) = (Rpm::new(), site());
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    place.write("public/200.html", "<h1>any</h1>");
    let file = format!(
        r#"{{"apps": [
            {{"name": "docs", "script": "serve", "env": {{"PM2_SERVE_PATH": "public", "PM2_SERVE_PORT": {}, "PM2_SERVE_SPA": "true", "PM2_SERVE_HOMEPAGE": "/200.html"}}}},
            {{"name": "closed", "script": "serve", "env": {{
                "PM2_SERVE_PATH": "./public/", "PM2_SERVE_PORT": {},
                "PM2_SERVE_BASIC_AUTH": "true", "PM2_SERVE_BASIC_AUTH_USERNAME": "me", "PM2_SERVE_BASIC_AUTH_PASSWORD": "it's me"
            }}}}
        ], "static": [{{"path": "public", "port": {}, "host": "127.0.0.1"}}]}}"#,
        ports[0], ports[1], ports[2]
    );
    place.write("e.json", &file);
    place.ok(&rpm, ["start", "e.json"]);
    let name = format!("static-page-server-{}", ports[2]);
    let names: Vec<String> = rpm.list().into_iter().map(|process| process.name).collect();
    assert_eq!(names, ["docs", "closed", &name]);
    assert_eq!(asked(&ports[0], "/some/page", &[]).2, "<h1>any</h1>");
    assert_eq!(asked(&ports[1], "/", &[]).0, 401);
    assert_eq!(asked(&ports[1], "/", &["-u", "me:it's me"]).2, "<h1>front</h1>");
    assert_eq!(asked(&ports[2], "/app.js", &[]).2, "let a = 1;");
    assert_eq!(
        rpm.describe(&name).listeners[0].address,
        format!("tcp 127.0.0.1:{}", ports[2])
    );
    let again = place.ok(&rpm, ["reload", "e.json"]);
    assert!(
        again.stderr.contains("docs: configuration unchanged"),
        "{again:?}"
    );
    place.ok(&rpm, ["delete", "e.json"]);
    assert!(rpm.list().is_empty());
}

#[test]
fn what_is_not_for_everybody_is_not_there_unless_it_is_asked_for() {
    let (rpm, place, ports) = (Rpm::new(), site(), [Port::reserve(), Port::reserve()]);
    place.write("public/.env", "KEY=1");
    place.write("public/.git/config", "[core]");
    place.write("public/.well-known/acme-challenge/x", "token");
    place.write("outside/index.html", "outside");
    let link = |to: &str, at: &str| {
        std::os::unix::fs::symlink(to, place.path().join(at)).expect("a link");
    };
    link("../outside", "public/out");
    link("../secret.txt", "public/link.txt");
    link("../../secret.txt", "public/data/index.html");
    link("app.js", "public/same.js");
    let port = ports[0].to_string();
    place.ok(&rpm, ["serve", "public", &port]);
    let port = ports[1].to_string();
    let asked_for = ["serve", "public", &port, "--dotfiles", "--follow-links"];
    place.ok(&rpm, asked_for);
    for (path, status, body) in [
        ("/.env", 404, "KEY=1"),
        ("/%2Eenv", 404, "KEY=1"),
        ("/.git/config", 404, "[core]"),
        ("/out/index.html", 404, "outside"),
        ("/out/", 404, "outside"),
        ("/link.txt", 404, "secret"),
        ("/data/", 404, "secret"),
        ("/same.js", 200, "let a = 1;"),
        ("/.well-known/acme-challenge/x", 200, "token"),
    ] {
        let (found, _, text) = asked(&ports[0], path, &[]);
        assert_eq!(found, status, "{path}");
        assert_eq!(text == body, status == 200, "{path}: {text}");
        let (found, _, text) = asked(&ports[1], path, &[]);
        assert_eq!((found, text.as_str()), (200, body), "{path}");
    }
    link("../secret.txt", "public/404.html");
    assert_eq!(asked(&ports[0], "/nowhere", &[]).2, "");
    let (_, _, head) = asked(&ports[0], "/app.js", &["-D", "-"]);
    assert!(
        head.to_lowercase().contains("x-content-type-options: nosniff"),
        "{head}"
    );
}

#[test]
fn an_application_of_one_page_behind_a_password() {
    let (rpm, place, port) = (Rpm::new(), site(), Port::reserve());
    let port_text = port.to_string();
    let start = [
        "serve",
        "public",
        "--port",
        &port_text,
        "--spa",
        "--name",
        "site",
        "-i",
        "2",
        "--basic-auth-username",
        "me",
        "--basic-auth-password",
        "it's me",
    ];
    place.ok(&rpm, start);
    assert_eq!(rpm.list().len(), 2);
    assert_eq!(asked(&port, "/", &[]).0, 401);
    assert_eq!(asked(&port, "/", &["-u", "me:it's mE"]).0, 401);
    // RFC 9110, 11.1: the scheme is case-insensitive.
    let lower = ["-H", "Authorization: bASIC  bWU6aXQncyBtZQ=="];
    assert_eq!(asked(&port, "/", &lower).0, 200);
    for wrong in [
        "Authorization: Basic bWU6aXQncyBt",
        "Authorization: Basic bWU6aXQncyBtZQ==bWU6aXQncyBtZQ==",
        "Authorization: Basic",
        "Authorization: Basic ",
        "Authorization: Bearer bWU6aXQncyBtZQ==",
    ] {
        assert_eq!(asked(&port, "/", &["-H", wrong]).0, 401, "{wrong}");
    }
    let (status, _, body) = asked(&port, "/some/page", &["-u", "me:it's me"]);
    assert_eq!((status, body.as_str()), (200, "<h1>front</h1>"));
    assert_eq!(asked(&port, "/app.js", &["-u", "me:it's me"]).2, "let a = 1;");
    let words = std::fs::read(format!("/proc/{}/cmdline", rpm.pids("site")[0])).expect("it runs");
    assert!(
        !String::from_utf8_lossy(&words).contains("it's me"),
        "nobody reads it in a list of processes"
    );
    let missing = place.run(&rpm, ["serve", "nowhere"]);
    assert!(
        missing.code == Some(1) && missing.stderr.contains("is not a directory"),
        "{missing:?}"
    );
    rpm.ok(["stop", "site"]);
    wait_until(
        "they end",
        BOUND,
        || rpm.list(),
        |list| list.iter().all(|it| it.status == Status::Stopped),
    );
}
