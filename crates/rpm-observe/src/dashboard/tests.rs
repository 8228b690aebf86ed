//! Who gets in, without a daemon.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::*;
use crate::alerts::now_ms;

/// Nothing ends.
static WATCH: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(false).0);

const HOST: &str = "127.0.0.1:9209";
const ORIGIN: &str = "http://127.0.0.1:9209";
/// Every path with something to hide.
const HIDDEN: [(&str, &str); 5] = [
    ("GET", "/dashboard/session"),
    ("GET", "/dashboard/live"),
    ("GET", "/dashboard/history"),
    ("POST", "/dashboard/actions"),
    ("POST", "/dashboard/logout"),
];

fn home(name: &str) -> PathBuf {
    let home = std::env::temp_dir().join(format!("rpm-board-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir(&home).expect("a directory");
    home
}

fn board(home: &Path, channel: Channel) -> Router {
    let daemon = Arc::new(Daemon::new(home.join("nowhere")));
    router(Dashboard::new(daemon, home, channel, WATCH.subscribe()))
}

/// What is sent with a request.
#[derive(Clone, Copy, Default)]
struct Sent<'a> {
    host: Option<&'a str>,
    origin: Option<&'a str>,
    cookie: Option<&'a str>,
    key: Option<&'a str>,
    body: &'a str,
}

const OURS: Sent<'_> = Sent {
    host: Some(HOST),
    origin: Some(ORIGIN),
    cookie: None,
    key: None,
    body: "",
};

async fn ask(board: &Router, method: &str, path: &str, sent: Sent<'_>) -> Response {
    let body = Body::from(sent.body.to_owned());
    ask_with(board, method, path, sent, body).await
}

/// As [`ask`], with this body.
async fn ask_with(board: &Router, method: &str, path: &str, sent: Sent<'_>, body: Body) -> Response {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).expect("a method"))
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json");
    let cookie = sent
        .cookie
        .map(|cookie| format!("other=1; rpm-session-9209={cookie}"));
    for (name, value) in [
        ("host", sent.host),
        ("origin", sent.origin),
        ("cookie", cookie.as_deref()),
        ("x-rpm-key", sent.key),
    ] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let mut request = request.body(body).expect("a request");
    let from = SocketAddr::from(([10, 0, 0, 1], 40_000));
    request.extensions_mut().insert(ConnectInfo(from));
    board.clone().oneshot(request).await.expect("an answer")
}

async fn status(board: &Router, method: &str, path: &str, sent: Sent<'_>) -> u16 {
    ask(board, method, path, sent).await.status().as_u16()
}

/// Opens a session. Returns its two secrets.
async fn login(board: &Router, home: &Path, role: Role) -> (String, String) {
    let link = Keys::new(home).link(role, now_ms()).expect("it is stored");
    let body = format!(r#"{{"link":"{link}"}}"#);
    let sent = Sent { body: &body, ..OURS };
    let answer = ask(board, "POST", "/dashboard/login", sent).await;
    assert_eq!(answer.status(), 200);
    let cookie = answer.headers()[header::SET_COOKIE]
        .to_str()
        .expect("text")
        .to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let secrets = secrets(answer).await;
    let again = status(board, "POST", "/dashboard/login", sent).await;
    assert!([401, 429].contains(&again), "{again} a second time");
    secrets
}

/// The cookie and the key that an answer opens a session with.
async fn secrets(answer: Response) -> (String, String) {
    let cookie = answer.headers()[header::SET_COOKIE].to_str().expect("text");
    let cookie = cookie.split([';', '=']).nth(1).expect("a value").to_owned();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    (cookie, body["key"].as_str().expect("a key").to_owned())
}

#[tokio::test]
async fn nothing_is_told_without_both_secrets() {
    let home = home("secrets");
    let board = board(&home, Channel::Loopback);
    let (cookie, key) = login(&board, &home, Role::Operator).await;
    let (other, _) = login(&board, &home, Role::Operator).await;
    for (method, path) in HIDDEN {
        for (cookie, key) in [
            (None, None),
            (Some(&cookie), None),
            (None, Some(&key)),
            (Some(&key), Some(&cookie)),
            (Some(&other), Some(&key)),
            (Some(&cookie), Some(&cookie)),
        ] {
            let (cookie, key) = (cookie.map(String::as_str), key.map(String::as_str));
            let sent = Sent { cookie, key, ..OURS };
            assert_eq!(status(&board, method, path, sent).await, 401, "{method} {path}");
        }
    }
    let sent = Sent {
        cookie: Some(&cookie),
        key: Some(&key),
        ..OURS
    };
    assert_eq!(status(&board, "GET", "/dashboard/session", sent).await, 200);
    // There is no daemon.
    let body = r#"{"do":"reload","app":"api"}"#;
    assert_eq!(
        status(&board, "POST", "/dashboard/actions", Sent { body, ..sent }).await,
        503
    );
    assert_eq!(status(&board, "GET", "/dashboard/history", sent).await, 200);
    assert_eq!(
        status(&board, "GET", "/dashboard/history?app=api&points=0", sent).await,
        400
    );
    // A browser has one cookie of a name for all ports: another dashboard has another name.
    let elsewhere = Sent {
        host: Some("127.0.0.1:9210"),
        ..sent
    };
    assert_eq!(status(&board, "GET", "/dashboard/session", elsewhere).await, 401);
    let mut open = ask(&board, "GET", "/dashboard/live?logs=api", sent)
        .await
        .into_body();
    open.frame().await.expect("a piece").expect("it is read");
    assert_eq!(status(&board, "POST", "/dashboard/logout", sent).await, 204);
    assert_eq!(status(&board, "GET", "/dashboard/session", sent).await, 401);
    // What was open ends with the session.
    open.collect().await.expect("it ends");
    std::fs::remove_dir_all(home).expect("it is ours");
}

#[tokio::test]
async fn other_web_sites_get_nothing_and_change_nothing() {
    let home = home("sites");
    let board = board(&home, Channel::Loopback);
    let (cookie, key) = login(&board, &home, Role::Operator).await;
    let good = Sent {
        cookie: Some(&cookie),
        key: Some(&key),
        ..OURS
    };
    for host in [
        "evil.example",
        "evil.example:9209",
        "127.0.0.1.evil.example",
        "10.0.0.1:9209",
    ] {
        let sent = Sent {
            host: Some(host),
            ..good
        };
        for path in ["/", "/dashboard/main.js", "/dashboard/session"] {
            assert_eq!(status(&board, "GET", path, sent).await, 403, "{host} {path}");
        }
    }
    assert_eq!(
        status(&board, "HEAD", "/", Sent { origin: None, ..good }).await,
        200
    );
    for host in ["localhost:9209", "[::1]:9209", "127.0.0.1"] {
        assert_eq!(
            status(
                &board,
                "GET",
                "/",
                Sent {
                    host: Some(host),
                    ..good
                }
            )
            .await,
            200,
            "{host}"
        );
    }
    let body = r#"{"do":"reload","app":"api"}"#;
    for origin in [
        None,
        Some("null"),
        Some("http://evil.example"),
        Some("http://127.0.0.1:3000"),
        Some("https://127.0.0.1:9209"),
        Some("http://localhost:9209"),
    ] {
        let sent = Sent { origin, body, ..good };
        for path in [
            "/dashboard/actions",
            "/dashboard/login",
            "/dashboard/password",
            "/dashboard/logout",
        ] {
            assert_eq!(status(&board, "POST", path, sent).await, 403, "{origin:?} {path}");
        }
    }
    std::fs::remove_dir_all(home).expect("it is ours");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_given_up() {
    let home = home("body");
    let board = board(&home, Channel::Loopback);
    for (path, pause) in [
        ("/dashboard/login", None),
        ("/dashboard/password", Some(Duration::from_secs(5))),
        ("/dashboard/actions", Some(Duration::from_millis(500))),
    ] {
        let (pieces, carrier) = streams::lines(StatusCode::OK);
        let sends = tokio::spawn(async move {
            while let Some(pause) = pause {
                // tidy: sleep because the clock is not the real one
                sleep(pause).await;
                if pieces.send("[".into()).await.is_err() {
                    return;
                }
            }
            pieces.closed().await;
        });
        let began = Instant::now();
        let answer = ask_with(&board, "POST", path, OURS, carrier.into_body());
        let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
        let status = answer.expect("it is answered").status();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{path}");
        assert_eq!(began.elapsed().as_secs(), 20, "{path}");
        // The body is not held any longer.
        sends.await.expect("it ends");
    }
    std::fs::remove_dir_all(home).expect("it is ours");
}

#[tokio::test]
async fn by_tls_any_name_of_the_server_will_do() {
    let home = home("tls");
    let board = board(&home, Channel::Tls);
    let ours = Sent {
        host: Some("ops.example:9209"),
        origin: Some("https://ops.example:9209"),
        ..OURS
    };
    assert_eq!(status(&board, "GET", "/", ours).await, 200);
    let link = Keys::new(&home)
        .link(Role::Viewer, now_ms())
        .expect("it is stored");
    let body = format!(r#"{{"link":"{link}"}}"#);
    for origin in ["http://ops.example:9209", "https://evil.example:9209"] {
        let sent = Sent {
            origin: Some(origin),
            body: &body,
            ..ours
        };
        assert_eq!(
            status(&board, "POST", "/dashboard/login", sent).await,
            403,
            "{origin}"
        );
    }
    let answer = ask(&board, "POST", "/dashboard/login", Sent { body: &body, ..ours }).await;
    let cookie = answer.headers()[header::SET_COOKIE].to_str().expect("text");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    std::fs::remove_dir_all(home).expect("it is ours");
}

#[tokio::test]
async fn a_viewer_does_not_act_and_guesses_are_few() {
    let home = home("viewer");
    let board = board(&home, Channel::Loopback);
    let (cookie, key) = login(&board, &home, Role::Viewer).await;
    let sent = Sent {
        cookie: Some(&cookie),
        key: Some(&key),
        body: r#"{"do":"stop","app":"api"}"#,
        ..OURS
    };
    assert_eq!(status(&board, "GET", "/dashboard/session", sent).await, 200);
    assert_eq!(status(&board, "POST", "/dashboard/actions", sent).await, 403);
    let guess = Sent {
        body: r#"{"link":"0123"}"#,
        ..OURS
    };
    // One wrong link was sent by `login`.
    for _ in 0..9 {
        assert_eq!(status(&board, "POST", "/dashboard/login", guess).await, 401);
    }
    assert_eq!(status(&board, "POST", "/dashboard/login", guess).await, 429);
    login(&board, &home, Role::Viewer).await;
    std::fs::remove_dir_all(home).expect("it is ours");
}

#[tokio::test]
async fn a_user_signs_in_with_a_password_and_guesses_are_few() {
    let home = home("password");
    let board = board(&home, Channel::Loopback);
    let ways = async || {
        let answer = ask(&board, "GET", "/dashboard/login", OURS).await;
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    };
    assert_eq!(ways().await, r#"{"passwords":false}"#);
    let enter = async |user: &str, password: &str| {
        let body = json!({ "user": user, "password": password }).to_string();
        ask(
            &board,
            "POST",
            "/dashboard/password",
            Sent { body: &body, ..OURS },
        )
        .await
    };
    assert_eq!(
        enter("bob", "battery staple").await.status(),
        401,
        "there is nobody"
    );
    Users::add(&home, "bob", Role::Viewer, "battery staple").expect("it is written");
    assert_eq!(ways().await, r#"{"passwords":true}"#);
    let answer = enter("bob", "battery staple").await;
    assert_eq!(answer.status(), 200);
    let (cookie, key) = secrets(answer).await;
    let sent = Sent {
        cookie: Some(&cookie),
        key: Some(&key),
        body: r#"{"do":"stop","app":"api"}"#,
        ..OURS
    };
    assert_eq!(status(&board, "GET", "/dashboard/session", sent).await, 200);
    assert_eq!(status(&board, "POST", "/dashboard/actions", sent).await, 403);
    // One wrong password was sent before there was a user.
    for guess in 0..9 {
        assert_eq!(enter("bob", "another").await.status(), 401, "{guess}");
    }
    assert_eq!(enter("bob", "battery staple").await.status(), 429);
    Users::remove(&home, "bob").expect("it is written");
    assert_eq!(status(&board, "GET", "/dashboard/session", sent).await, 401);
    std::fs::remove_dir_all(home).expect("it is ours");
}

#[tokio::test]
async fn every_answer_has_the_policy_and_other_machines_get_no_page() {
    let home = home("policy");
    let (near, far) = (board(&home, Channel::Loopback), board(&home, Channel::Open));
    for asset in ASSETS {
        let answer = ask(&near, "GET", asset.path, OURS).await;
        assert_eq!(answer.status(), 200, "{}", asset.path);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], asset.kind);
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .expect("text");
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(status(&far, "GET", asset.path, OURS).await, 403);
    }
    let refused = ask(&near, "GET", "/dashboard/session", OURS).await;
    assert_eq!(refused.headers()[header::X_FRAME_OPTIONS], "DENY");
    let length: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
    assert!(length < 200_000, "{length} bytes");
    std::fs::remove_dir_all(home).expect("it is ours");
}
