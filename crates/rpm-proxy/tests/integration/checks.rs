//! Active health checks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rpm_proxy::{Check, HealthReports, Settings, Target, UpstreamId};

use crate::blame::Shortage;
use crate::both::{serve, until};
use crate::site::{BOUND, Site};

/// Checks that eject a worker at once, and what is heard of them.
fn settings(timeout: Duration, reports: HealthReports) -> Settings {
    Settings {
        check: Some(Check {
            path: "/health".to_owned(),
            status: 200,
            interval: Duration::from_millis(1),
            timeout,
            good: 1,
            bad: 1,
            reports,
        }),
        ..Settings::default()
    }
}

/// Answers with 500, when all who wait at the barrier have a connection.
fn worker(all: &Arc<Barrier>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let all = Arc::clone(all);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            all.wait();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
        }
    });
    addr
}

#[test]
fn workers_are_checked_at_the_same_time() {
    let all = Arc::new(Barrier::new(8));
    let workers: Vec<SocketAddr> = (0..8).map(|_| worker(&all)).collect();
    let (sender, heard) = channel();
    let reports = HealthReports::new(move |_, why| drop(sender.send(why)));
    let site = Site::with(Settings::default());
    serve(&site, &workers);
    site.front
        .set(settings(BOUND, reports))
        .expect("nothing can fail");
    let begun = Instant::now();
    for _ in &workers {
        let why = heard.recv_timeout(2 * BOUND).expect("a report");
        assert_eq!(why.as_deref(), Some("/health is answered with status 500"));
    }
    assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
}

#[test]
fn a_worker_that_has_left_is_not_reported() {
    let leaving = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (sender, heard) = channel();
    let reports = HealthReports::new(move |id, _| {
        let _ = sender.send(id);
    });
    let site = Site::with(Settings::default());
    site.front.set_upstreams(&[Target {
        id: UpstreamId(7),
        addr: leaving.local_addr().expect("an address").into(),
        weight: 1,
        key: 7,
        reserved: false,
    }]);
    site.front
        .set(settings(BOUND, reports))
        .expect("nothing can fail");
    let (mut checked, _) = leaving.accept().expect("a check");
    serve(&site, &[worker(&Arc::new(Barrier::new(1)))]);
    checked
        .write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        .expect("it is read");
    let first = heard.recv_timeout(BOUND).expect("a report");
    assert_ne!(first, UpstreamId(7));
}

#[test]
fn a_check_that_the_proxy_cannot_make_says_nothing_about_the_worker() {
    static SHORTAGE: Shortage = Shortage::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = SHORTAGE.before(listener.local_addr().expect("an address"));
    let site = Site::with(settings(BOUND, HealthReports::new(|_, _| {})));
    site.front.set_upstreams(&[target]);
    until(&site, |_| SHORTAGE.tried.load(Ordering::SeqCst) > 2);
    assert!(!site.front.figures().upstreams[0].ill);
}
