//! Whether a request that failed before its response began is sent again.

use std::io;

use rustix::io::Errno;

/// How an attempt failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered {
    /// The upstream cannot have processed the request.
    pub(crate) unsent: bool,
    /// A part of the request's body is gone.
    pub(crate) body_taken: bool,
    /// The connection had been idle before.
    pub(crate) reused: bool,
}

impl Unanswered {
    /// No connection could be made.
    pub(crate) const UNCONNECTED: Unanswered = Unanswered {
        unsent: true,
        body_taken: false,
        reused: false,
    };
}

/// Errors of a connection that say nothing about the upstream: the proxy is short of descriptors, ports, buffers or memory, or a rule of the
/// system forbids it (`EPERM`: a packet filter, `EACCES`: a security module).
const LOCAL: [Errno; 8] = [
    Errno::MFILE,
    Errno::NFILE,
    Errno::ADDRNOTAVAIL,
    Errno::AGAIN,
    Errno::NOBUFS,
    Errno::NOMEM,
    Errno::PERM,
    Errno::ACCESS,
];

/// No connection could be made, and that is not the upstream's fault. Every other one would fail in the same way.
pub(crate) fn is_local(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| LOCAL.contains(&errno))
}

/// What follows from a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another attempt, which costs nothing: the upstream had closed an idle connection, which is no failure.
    Free,
    /// Another attempt, if the limits allow one.
    Limited,
    /// None.
    GiveUp,
}

/// What is known about the attempts of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    /// The upstream may process the request twice.
    replayable: bool,
    /// A closed idle connection was met before. Only one is free: a request that ends workers must not reach all of them.
    was_stale: bool,
}

impl Retry {
    pub(crate) fn new(replayable: bool) -> Retry {
        Retry {
            replayable,
            was_stale: false,
        }
    }

    /// Decides after a failed attempt.
    pub(crate) fn next(&mut self, failed: Unanswered) -> Next {
        if failed.body_taken || !(failed.unsent || self.replayable) {
            return Next::GiveUp;
        }
        if failed.reused && !std::mem::replace(&mut self.was_stale, true) {
            return Next::Free;
        }
        Next::Limited
    }
}

/// The method is idempotent (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: Unanswered = Unanswered {
        unsent: false,
        body_taken: false,
        reused: false,
    };

    #[test]
    fn what_may_have_been_processed_is_sent_again_only_if_it_may_be_processed_twice() {
        for (replayable, failed, expected) in [
            (false, Unanswered::UNCONNECTED, Next::Limited),
            (true, Unanswered::UNCONNECTED, Next::Limited),
            (false, ENDED, Next::GiveUp),
            (true, ENDED, Next::Limited),
            (
                false,
                Unanswered {
                    unsent: true,
                    ..ENDED
                },
                Next::Limited,
            ),
            (
                true,
                Unanswered {
                    unsent: true,
                    body_taken: true,
                    ..ENDED
                },
                Next::GiveUp,
            ),
        ] {
            assert_eq!(
                Retry::new(replayable).next(failed),
                expected,
                "{replayable} {failed:?}"
            );
        }
    }

    #[test]
    fn a_shortage_here_is_not_the_upstreams_fault() {
        for (errno, expected) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::NOBUFS, true),
            (Errno::PERM, true),
            (Errno::CONNREFUSED, false),
            (Errno::CONNRESET, false),
            (Errno::HOSTUNREACH, false),
            (Errno::TIMEDOUT, false),
        ] {
            assert_eq!(is_local(&errno.into()), expected, "{errno:?}");
        }
        assert!(!is_local(&io::Error::from(io::ErrorKind::TimedOut)));
    }

    #[test]
    fn one_closed_idle_connection_is_free() {
        let stale = Unanswered {
            reused: true,
            ..ENDED
        };
        let mut retry = Retry::new(true);
        let all = [stale, stale, ENDED, stale].map(|failed| retry.next(failed));
        assert_eq!(all, [Next::Free, Next::Limited, Next::Limited, Next::Limited]);
        assert_eq!(Retry::new(false).next(stale), Next::GiveUp);
    }

    #[test]
    fn some_methods_may_be_processed_twice() {
        for (method, expected) in [
            ("GET", true),
            ("HEAD", true),
            ("PUT", true),
            ("DELETE", true),
            ("OPTIONS", true),
            ("POST", false),
            ("PATCH", false),
            ("SEARCH", false),
        ] {
            assert_eq!(is_idempotent(method), expected, "{method}");
        }
    }
}
