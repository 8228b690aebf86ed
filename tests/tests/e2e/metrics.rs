//! `GET /metrics`.

use rpm_e2e::app::App;
use rpm_e2e::ask::metric;
use rpm_testkit::{Port, Rpm};

/// The metrics of an app cover all its addresses together, and times are a histogram.
#[test]
fn figures_of_several_addresses_add_up() {
    let (rpm, first, second) = (Rpm::new(), Port::reserve(), Port::reserve());
    App::cluster("two-ports.js", "1")
        .args(["--name", "edge", "--balance", "proxy"])
        .port(&first)
        .env("PORT2", &second)
        .start(&rpm);
    for port in [&first, &first, &second] {
        assert_eq!(
            rpm_testkit::get(port.number(), "/").expect("it answers").status,
            200
        );
    }
    let answers = r#"rpm_proxy_answers_total{app="edge",status="2xx"}"#;
    assert_eq!(metric(&rpm, answers), 3.0);
    let text = rpm.api("GET", "/metrics", "").body;
    assert!(
        text.contains("# TYPE rpm_proxy_answer_seconds histogram\n"),
        "{text}"
    );
    assert_eq!(metric(&rpm, r#"rpm_proxy_answer_seconds_count{app="edge"}"#), 3.0);
    let all = r#"rpm_proxy_answer_seconds_bucket{app="edge",le="+Inf"}"#;
    assert_eq!(metric(&rpm, all), 3.0);
    assert!(metric(&rpm, r#"rpm_proxy_answer_seconds_sum{app="edge"}"#) > 0.0);
}
