//! Sums over the workers of an app, which never go backwards.

use super::*;

fn page(id: u32, worker: &str, text: &str) -> ScrapedPage {
    ScrapedPage {
        app: "web".to_owned(),
        id,
        worker: worker.to_owned(),
        page: Some(text.to_owned()),
        ..ScrapedPage::default()
    }
}

fn counter(value: u32) -> String {
    format!("# TYPE hits_total counter\nhits_total {value}\n")
}

fn add(sums: &mut Sums, pages: Vec<ScrapedPage>) -> Vec<String> {
    let apps = vec!["web".to_owned()];
    sums.add(&Scrape { apps, pages })
}

fn rendered(sums: &Sums) -> String {
    let mut page = String::new();
    sums.render(&mut page);
    page
}

fn hits(sums: &Sums) -> Option<String> {
    let page = rendered(sums);
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("hits_total{app=\"web\"} "));
    line.map(str::to_owned)
}

#[test]
fn sums_never_go_backwards() {
    let mut sums = Sums::default();
    let mut step = |pages: Vec<ScrapedPage>, expected: &str| {
        add(&mut sums, pages);
        assert_eq!(hits(&sums).as_deref(), Some(expected));
    };
    step(
        vec![page(0, "1-10", &counter(5)), page(1, "2-11", &counter(7))],
        "12",
    );
    // One of them does not answer.
    let silent = |id, worker| ScrapedPage {
        page: None,
        error: Some("late".to_owned()),
        ..page(id, worker, "")
    };
    step(vec![page(0, "1-10", &counter(6)), silent(1, "2-11")], "13");
    // A reload: the old one is still there, and says its last.
    let leaving = |value| ScrapedPage {
        leaving: true,
        ..page(0, "1-10", &counter(value))
    };
    step(
        vec![leaving(8), page(0, "3-12", &counter(1)), silent(1, "2-11")],
        "16",
    );
    let ended = |value| ScrapedPage {
        ended: true,
        ..page(0, "1-10", &counter(value))
    };
    for _ in 0..2 {
        // It is told again and again, and counts once.
        step(
            vec![
                ended(9),
                page(0, "3-12", &counter(2)),
                page(1, "2-11", &counter(7)),
            ],
            "18",
        );
    }
    step(
        vec![page(0, "3-12", &counter(2)), page(1, "2-11", &counter(7))],
        "18",
    );
    // A crash: what was counted since the last time is lost, and nothing else.
    step(
        vec![page(0, "4-13", &counter(0)), page(1, "2-11", &counter(7))],
        "18",
    );
    // The program has set its counter back.
    step(
        vec![page(0, "4-13", &counter(3)), page(1, "2-11", &counter(1))],
        "22",
    );
    // All are stopped.
    step(Vec::new(), "22");
}

#[test]
fn one_that_came_and_went_between_two_looks_is_counted_once() {
    let mut sums = Sums::default();
    let short = || ScrapedPage {
        ended: true,
        ..page(0, "9-9", &counter(4))
    };
    add(&mut sums, vec![short(), page(0, "10-10", &counter(1))]);
    assert_eq!(hits(&sums).as_deref(), Some("5"));
}

#[test]
fn kinds_are_treated_as_they_must_be() {
    let text = "# HELP took_seconds How long\n# TYPE took_seconds histogram\n\
                took_seconds_bucket{le=\"2\",app=\"mine\",instance=\"0\"} 2\n\
                took_seconds_bucket{le=\"10\",app=\"mine\",instance=\"0\"} 2\ntook_seconds_bucket{le=\"+Inf\",app=\"mine\",instance=\"0\"} 3\n\
                took_seconds_sum{app=\"mine\",instance=\"0\"} 1.5\ntook_seconds_count{app=\"mine\",instance=\"0\"} 3\n\
                # TYPE size summary\nsize{quantile=\"0.5\"} 7\nsize_sum 10\nsize_count 2\n\
                # TYPE heat gauge\nheat{where=\"in\"} 1.5\nuntyped 1\n# TYPE rpm_up gauge\nrpm_up 0\n";
    let other = text.replace("instance=\"0\"", "instance=\"1\"");
    let mut sums = Sums::default();
    assert_eq!(
        add(&mut sums, vec![page(0, "1-1", text), page(1, "2-2", &other)]),
        [""; 0]
    );
    let page = rendered(&sums);
    for line in [
        "# HELP took_seconds How long",
        "# TYPE took_seconds histogram",
        r#"took_seconds_bucket{app="web",exported_app="mine",le="2"} 4"#,
        r#"took_seconds_bucket{app="web",exported_app="mine",le="+Inf"} 6"#,
        r#"took_seconds_sum{app="web",exported_app="mine"} 3"#,
        r#"took_seconds_count{app="web",exported_app="mine"} 6"#,
        r#"size{app="web",id="0",quantile="0.5"} 7"#,
        r#"size_sum{app="web"} 20"#,
        r#"size_count{app="web"} 4"#,
        r#"heat{app="web",id="1",where="in"} 1.5"#,
        r#"untyped{app="web",id="0"} 1"#,
        r#"rpm_app_scrape_errors_total{app="web"} 0"#,
    ] {
        assert_eq!(
            page.lines().filter(|shown| *shown == line).count(),
            1,
            "{line} in\n{page}"
        );
    }
    assert!(!page.contains("rpm_up"), "{page}");
    let bounds: Vec<&str> = page
        .split(",le=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(bounds, ["2", "10", "+Inf"], "they ascend");
}

#[test]
fn a_bad_page_costs_that_worker_alone() {
    let mut sums = Sums::default();
    let troubles = add(
        &mut sums,
        vec![
            page(0, "1-1", &counter(1)),
            page(1, "2-2", "<html>"),
            page(2, "3-3", "# TYPE hits_total gauge\nhits_total 1\n"),
        ],
    );
    assert_eq!(
        troubles,
        ["no metrics of web 1: line 1 is not in the text format of Prometheus"]
    );
    assert_eq!(hits(&sums).as_deref(), Some("1"));
    assert!(rendered(&sums).contains("rpm_app_scrape_errors_total{app=\"web\"} 1\n"));
    let leaving = ScrapedPage {
        page: None,
        error: Some("it takes no connection".to_owned()),
        leaving: true,
        ..page(1, "2-2", "")
    };
    assert_eq!(add(&mut sums, vec![leaving]), Vec::<String>::new());
    assert!(rendered(&sums).contains("rpm_app_scrape_errors_total{app=\"web\"} 1\n"));
    sums.add(&Scrape::default());
    assert_eq!(rendered(&sums), "", "the app is gone");
}
