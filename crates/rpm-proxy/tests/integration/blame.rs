//! What counts against a worker, and what does not.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use rpm_proxy::Settings;

use crate::both::{BOTH, GET_ROOT, ask, ejections, serve};
use crate::site::Site;

/// What is meant to end does so after this time.
const SHORT: Duration = Duration::from_millis(50);
/// What is not meant to end takes longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// More failures in a row than eject a worker.
const FAILURES: usize = 6;

#[test]
fn the_time_of_the_whole_request_is_not_the_workers() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = silent.local_addr().expect("an address");
    for (request_timeout, response_timeout, blamed) in [(Some(SHORT), LONG, false), (Some(LONG), SHORT, true)]
    {
        for over in BOTH {
            let site = Site::with(Settings {
                retries: 0,
                request_timeout,
                response_timeout,
                ..Settings::default()
            });
            serve(&site, &[addr]);
            for _ in 0..FAILURES {
                assert_eq!(ask(&site, over, GET_ROOT).status, 504, "{over:?}");
            }
            assert_eq!(ejections(&site) > 0, blamed, "{over:?} {request_timeout:?}");
        }
    }
}
