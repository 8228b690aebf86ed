//! The routes, with a daemon that is a file of answers.

use std::path::Path;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use rpm_wire::api::{AppSpec, Details, ExecMode, Offer, Process, Status};
use rpm_wire::pm2::Versions;
use serde_json::json;
use tokio::net::UnixListener;
use tower::ServiceExt as _;

use super::*;

const TOKEN: &str = "0123456789abcdef";

fn process(id: u32) -> Process {
    Process {
        id,
        name: "we\"b".into(),
        namespace: "default".into(),
        watching: false,
        instance: id,
        generation: 1,
        exec_mode: ExecMode::Cluster,
        plane: "direct".into(),
        status: Status::Online,
        pid: Some(4711),
        uptime_ms: Some(61_500),
        started_at_ms: 0,
        created_at_ms: 0,
        restarts: 3,
        unstable_restarts: 0,
        cpu_percent: 12.5,
        memory_bytes: 1 << 20,
        connections: None,
        serves: Vec::new(),
        exit_code: None,
        others: Vec::new(),
        out_log: String::new(),
        err_log: String::new(),
        spec: Some(Box::new(AppSpec {
            interpreter: Some("/usr/bin/node".into()),
            env: [("SECRET".to_owned(), "hunter2".to_owned())].into(),
            ..AppSpec::default()
        })),
        details: Some(Box::new(Details {
            offer: Offer {
                monitor: json!({
                    "Heap Size": {"value": "12.5 MiB"}, "HTTP": {"value": 3}, "Word": {"value": "no"}, "UP": {"value": 9}, "p95": 7,
                })
                .as_object()
                .expect("an object")
                .clone(),
                ..Offer::default()
            },
            ..Details::default()
        })),
    }
}

fn versions(_: &AppSpec) -> Versions {
    Versions {
        app: Some("2.0.1".into()),
        node: None,
    }
}

fn observing(socket: &Path, token: Option<&str>) -> Router {
    router(Observed {
        socket: socket.to_owned(),
        access: Access::to([127, 0, 0, 1].into(), token, false).expect("it is good"),
        home: PathBuf::from("/nowhere"),
        channel: Channel::Loopback,
        ending: watch::channel(false).1,
        metrics: Metrics::new(
            socket.to_owned(),
            versions,
            Arc::default(),
            Arc::default(),
            Arc::default(),
        ),
    })
}

async fn ask(router: &Router, path: &str, authorization: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::get(path);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = router.clone().oneshot(request).await.expect("an answer");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// A daemon that answers these questions, at a socket of its own.
async fn daemon(name: &str, processes: Vec<Process>) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rpm-observe-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    let figures = "# TYPE rpm_rescued_connections_total counter\nrpm_rescued_connections_total 2\n\n";
    let app = Router::new()
        .route("/metrics", get(move || async move { figures }))
        .route(
            "/v1/processes",
            get(move || async move { json!(processes).to_string() }),
        );
    tokio::spawn(async move { axum::serve(listener, app).await });
    path
}

#[tokio::test]
async fn what_the_daemon_says_is_there_under_both_names_and_no_secret() {
    let socket = daemon("both", vec![process(0), process(1)]).await;
    let (status, page) = ask(&observing(&socket, None), "/metrics", None).await;
    assert_eq!(status, StatusCode::OK);
    let labels =
        r#"{id="1",name="we\"b",version="2.0.1",instance="1",interpreter="node",node_version="N/A"}"#;
    for line in [
        "rpm_up 1".to_owned(),
        "rpm_rescued_connections_total 2".to_owned(),
        format!("pm2_up{labels} 1"),
        format!("pm2_cpu{labels} 12.5"),
        format!("pm2_memory{labels} 1048576"),
        format!("pm2_uptime{labels} 61"),
        format!("pm2_instances{labels} 2"),
        format!("pm2_restarts{labels} 3"),
        format!("pm2_heap_size{labels} 12.5"),
        format!("pm2_http{labels} 3"),
        format!("pm2_p95{labels} 7"),
        "# HELP pm2_heap_size Heap Size".to_owned(),
    ] {
        assert_eq!(
            page.lines().filter(|shown| **shown == line).count(),
            1,
            "{line} in\n{page}"
        );
    }
    assert!(
        !page.contains("pm2_word") && !page.contains("pm2_prev_restart_delay{"),
        "{page}"
    );
    assert!(!page.contains("hunter2"), "{page}");
    std::fs::remove_file(socket).expect("it is there");
}

#[tokio::test]
async fn a_daemon_that_does_not_run_is_a_figure() {
    let nowhere = std::env::temp_dir().join("rpm-observe-nowhere");
    let observing = observing(&nowhere, None);
    let (status, page) = ask(&observing, "/metrics", None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.ends_with("rpm_up 0\n"), "{page}");
    assert_eq!(ask(&observing, "/-/healthy", None).await.0, StatusCode::OK);
    assert_eq!(
        ask(&observing, "/v1/processes", None).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn who_has_no_token_gets_no_figure() {
    let nowhere = std::env::temp_dir().join("rpm-observe-nowhere");
    let observing = observing(&nowhere, Some(&format!("{TOKEN}\n")));
    for wrong in [
        None,
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(format!("Bearer {TOKEN}0")),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some("Bearer ".to_owned()),
        Some(format!("Bearer {}", TOKEN.to_uppercase())),
    ] {
        let (status, page) = ask(&observing, "/metrics", wrong.as_deref()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{wrong:?}");
        assert!(!page.contains("rpm_up"), "{page}");
    }
    for right in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}")] {
        let (status, page) = ask(&observing, "/metrics", Some(&right)).await;
        assert_eq!(status, StatusCode::OK, "{right}");
        assert!(page.contains("rpm_up 0"), "{page}");
    }
}

#[test]
fn addresses_that_others_reach_need_a_token_that_cannot_be_guessed() {
    let to = |address: &str, token| Access::to(address.parse().expect("an address"), token, false);
    let certified = Access::to([10, 0, 0, 1].into(), None, true);
    assert!(matches!(certified, Ok(Access::Certified)), "{certified:?}");
    let both = Access::to([10, 0, 0, 1].into(), Some("correct-horse-battery"), true);
    assert!(matches!(both, Ok(Access::Bearer(_))), "{both:?}");
    for near in ["127.0.0.1", "127.8.9.1", "::1"] {
        assert!(matches!(to(near, None), Ok(Access::Anyone)), "{near}");
    }
    for far in ["0.0.0.0", "::", "10.0.0.1", "192.168.1.2"] {
        let error = to(far, None).expect_err(far);
        assert_eq!(error, AccessError::Open(far.parse().expect("an address")));
        assert!(error.to_string().contains("--token-file"), "{error}");
        assert!(matches!(to(far, Some(TOKEN)), Ok(Access::Bearer(_))), "{far}");
    }
    assert_eq!(
        to("::1", Some("short")).expect_err("short"),
        AccessError::Short(5)
    );
    assert_eq!(to("::1", Some("")).expect_err("empty"), AccessError::Short(0));
    let spaced = to("::1", Some("0123456789 0123456789"));
    assert_eq!(spaced.expect_err("a blank"), AccessError::NotVisible);
    let shown = format!("{:?}", to("::1", Some(TOKEN)));
    assert!(!shown.contains(TOKEN), "{shown}");
}

#[tokio::test]
async fn a_name_that_is_not_of_this_machine_gets_nothing() {
    let nowhere = std::env::temp_dir().join("rpm-observe-nowhere");
    let (open, guarded) = (observing(&nowhere, None), observing(&nowhere, Some(TOKEN)));
    for (hosts, expected) in [
        (&[][..], StatusCode::OK),
        (&["localhost"], StatusCode::OK),
        (&["LocalHost:9209"], StatusCode::OK),
        (&["127.0.0.1:9209"], StatusCode::OK),
        (&["127.9.9.9"], StatusCode::OK),
        (&["[::1]:9209"], StatusCode::OK),
        (&["[::ffff:127.0.0.1]"], StatusCode::OK),
        (&["example.org"], StatusCode::FORBIDDEN),
        (&["localhost.example.org"], StatusCode::FORBIDDEN),
        (&["127.0.0.1.example.org:9209"], StatusCode::FORBIDDEN),
        (&["localhost@example.org"], StatusCode::FORBIDDEN),
        (&["example.org@localhost"], StatusCode::FORBIDDEN),
        (&["10.0.0.1:9209"], StatusCode::FORBIDDEN),
        (&["0.0.0.0"], StatusCode::FORBIDDEN),
        (&["[::]"], StatusCode::FORBIDDEN),
        (&["2130706433"], StatusCode::FORBIDDEN),
        (&[""], StatusCode::FORBIDDEN),
        (&["localhost", "example.org"], StatusCode::FORBIDDEN),
    ] {
        let ask = async |router: &Router, token: Option<&str>| {
            let request = hosts.iter().fold(Request::get("/metrics"), |request, host| {
                request.header(header::HOST, *host)
            });
            let request = token.into_iter().fold(request, |request, token| {
                request.header(header::AUTHORIZATION, format!("Bearer {token}"))
            });
            let request = request.body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("an answer");
            let status = response.status();
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        let (status, page) = ask(&open, None).await;
        assert_eq!(status, expected, "{hosts:?}: {page}");
        let figures = page.contains("rpm_up");
        assert_eq!(figures, status == StatusCode::OK, "{hosts:?}: {page}");
        assert!(figures || page.contains("ask for localhost"), "{page}");
        // A web site does not know the token, and a proxy before it may give any name.
        assert_eq!(ask(&guarded, Some(TOKEN)).await.0, StatusCode::OK, "{hosts:?}");
    }
}
