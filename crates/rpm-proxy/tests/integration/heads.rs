//! How large the head of a message may be: the same over both versions of HTTP.

use std::fs::File;
use std::time::Instant;

use rpm_proxy::{Front, LogSettings, Opener, Settings, Unusable};

use crate::answers::{Has, by_http1_with, by_http2_with};
use crate::site::{BOUND, Site};

const LIMIT: usize = 8 * 1024;

fn settings(max_head: usize) -> Settings {
    Settings {
        retries: 0,
        max_head,
        ..Settings::default()
    }
}

/// The status that a client gets over HTTP/1.1 and over HTTP/2, for a request with a field and a query of these sizes.
fn statuses(site: &Site, path: &str, field: usize, query: usize) -> [u16; 2] {
    let value = "x".repeat(field);
    let path = match query {
        0 => path.to_owned(),
        _ => format!("{path}?{}", "q".repeat(query)),
    };
    let fields = [("x-large", value.as_str())];
    [
        by_http1_with(site, &path, &fields).0,
        by_http2_with(site, &path, &fields).0,
    ]
    .map(|has| match has {
        Has::Answer(status, _) => status,
        Has::Broken => 0,
    })
}

#[test]
fn a_head_may_be_as_large_as_the_settings_say() {
    for (max_head, field, query, expected) in [
        (LIMIT, LIMIT / 2, 1, 200),
        (LIMIT, 1, LIMIT / 2, 200),
        (LIMIT, LIMIT, 1, 431),
        (LIMIT, LIMIT * 3 / 2, 1, 431),
        (LIMIT, 1, LIMIT, 414),
        // Together they are too large.
        (LIMIT, LIMIT * 3 / 5, LIMIT * 3 / 5, 431),
        (Settings::default().max_head, 60_000, 1, 200),
        (Settings::default().max_head, 70_000, 1, 431),
        (1024 * 1024, 500_000, 1, 200),
        (1024 * 1024, 1_100_000, 1, 431),
    ] {
        let site = Site::with(settings(max_head));
        let got = statuses(&site, "/", field, query);
        assert_eq!(got, [expected; 2], "limit {max_head}: {field} and {query}");
        let figures = site.front.figures();
        let of_class = figures.answers[usize::from(expected / 100) - 1];
        assert_eq!(of_class, 2, "both are counted: {:?}", figures.answers);
        let reached = site.upstream.seen.try_iter().count();
        assert_eq!(reached, if expected == 200 { 2 } else { 0 });
    }
}

#[test]
fn so_may_the_head_of_a_response() {
    let response = |size: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nx-large: {}\r\ncontent-length: 2\r\n\r\nok",
            "x".repeat(size)
        )
    };
    for (max_head, size, expected) in [
        (LIMIT, LIMIT / 2, 200),
        (LIMIT, LIMIT, 502),
        (1024 * 1024, 500_000, 200),
    ] {
        let site = Site::with(settings(max_head));
        let path = site.upstream.says(response(size).as_bytes());
        assert_eq!(
            statuses(&site, &path, 1, 0),
            [expected; 2],
            "limit {max_head}: {size}"
        );
    }
}

/// A connection to a worker that was opened with the old limit is not used with the new one.
#[test]
fn a_limit_that_is_changed_holds_for_the_next_request() {
    let site = Site::with(settings(LIMIT));
    assert_eq!(statuses(&site, "/", LIMIT * 2, 1), [431; 2]);
    site.front.set(settings(4 * LIMIT)).expect("it is in bounds");
    assert_eq!(statuses(&site, "/", LIMIT * 2, 1), [200; 2]);
}

#[test]
fn a_limit_out_of_bounds_is_an_error() {
    for size in [0, 1000, 2 * 1024 * 1024] {
        let error = Front::new().set(settings(size)).expect_err("it is out of bounds");
        assert!(matches!(error, Unusable::MaxHead(_)), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("max_head must be between 4096 and 1048576 bytes, not {size}")
        );
    }
}

#[test]
fn a_request_that_is_too_large_is_logged_like_others() {
    let path = std::env::temp_dir().join(format!("rpm-large-heads-{}", std::process::id()));
    let site = Site::with(Settings {
        access_log: Some(LogSettings {
            path: path.clone(),
            json: false,
            every: 1,
            opener: Opener::new(None, |path| File::options().create(true).append(true).open(path)),
        }),
        ..settings(LIMIT)
    });
    assert_eq!(statuses(&site, "/logged", LIMIT, 0), [431; 2]);
    let deadline = Instant::now() + BOUND;
    let lines = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.lines().count() >= 2 {
            break text;
        }
        assert!(Instant::now() < deadline, "it is not logged: {text:?}");
        std::thread::yield_now();
    };
    for version in ["1.1", "2"] {
        let line = format!("\"GET /logged HTTP/{version}\" 431 ");
        assert!(lines.contains(&line), "{lines}");
    }
    std::fs::remove_file(&path).expect("it is there");
}
