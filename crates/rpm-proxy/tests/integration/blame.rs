//! What counts against a worker, and what does not.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpm_proxy::{Address, Credentials, Settings, Target, UpstreamId};

use crate::both::{BOTH, GET_ROOT, ask, ejections, serve};
use crate::site::{BOUND, Site};

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

/// The process has no descriptor left for a connection.
#[derive(Debug)]
pub struct Shortage {
    /// How often a connection was tried.
    pub tried: AtomicUsize,
}

impl Shortage {
    pub const fn new() -> Shortage {
        Shortage {
            tried: AtomicUsize::new(0),
        }
    }

    /// An upstream that it keeps from being reached.
    pub fn before(&'static self, socket: SocketAddr) -> Target {
        Target {
            id: UpstreamId(7),
            addr: Address {
                socket,
                credentials: Some(self),
            },
            weight: 1,
            key: 7,
            reserved: false,
        }
    }
}

impl Credentials for Shortage {
    fn show(&self, _: BorrowedFd<'_>, _: SocketAddr) -> io::Result<()> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::from_raw_os_error(
            rustix::io::Errno::MFILE.raw_os_error(),
        ))
    }

    fn shown(&self, _: BorrowedFd<'_>) {}
}

#[test]
fn a_shortage_of_the_proxy_is_not_the_workers_fault() {
    static SHORTAGE: Shortage = Shortage::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = SHORTAGE.before(listener.local_addr().expect("an address"));
    for over in BOTH {
        let site = Site::with(Settings {
            retries: 1,
            ..Settings::default()
        });
        site.front.set_upstreams(&[target]);
        for _ in 0..FAILURES {
            let before = SHORTAGE.tried.load(Ordering::SeqCst);
            let got = ask(&site, over, GET_ROOT);
            assert_eq!(
                (got.status, got.body.as_str()),
                (503, "the proxy cannot open a connection\n"),
                "{over:?}"
            );
            assert_eq!(
                SHORTAGE.tried.load(Ordering::SeqCst),
                before + 2,
                "it is tried again"
            );
        }
        assert_eq!(ejections(&site), 0, "{over:?}");
    }
    let site = Site::with(Settings {
        tcp: true,
        ..Settings::default()
    });
    site.front.set_upstreams(&[target]);
    for _ in 0..FAILURES {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port)).expect("it listens");
        client.set_read_timeout(Some(BOUND)).expect("a deadline");
        assert_eq!(client.read(&mut [0]).expect("it is ended"), 0);
    }
    assert_eq!(ejections(&site), 0, "TCP");
}
