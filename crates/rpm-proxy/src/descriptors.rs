//! Limits how many descriptors clients take. Some must be left for connections to workers and for the rest of the process.

use std::os::fd::{AsRawFd as _, RawFd};

use rustix::process::{Resource, getrlimit};

/// Fewest descriptors that are kept free.
const SPARE: u64 = 64;

/// The first descriptor that counts as one of the last: three quarters of the limit, and at least [`SPARE`] below it. (The kernel assigns
/// the lowest free number.)
pub(crate) fn crowded_from() -> RawFd {
    within(getrlimit(Resource::Nofile).current)
}

fn within(limit: Option<u64>) -> RawFd {
    let Some(limit) = limit else { return RawFd::MAX };
    let spare = (limit / 4).max(SPARE).min(limit / 2);
    RawFd::try_from(limit - spare).unwrap_or(RawFd::MAX)
}

/// The next descriptor would be one of the last.
pub(crate) fn is_crowded(from: RawFd) -> bool {
    std::fs::File::open("/dev/null").map_or(true, |next| next.as_raw_fd() >= from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_and_at_least_sixty_four() {
        for (limit, expected) in [
            (Some(1024), 768),
            (Some(128), 64),
            (Some(100), 50),
            (Some(0), 0),
            (None, RawFd::MAX),
        ] {
            assert_eq!(within(limit), expected, "{limit:?}");
        }
        assert_eq!(within(Some(u64::MAX)), RawFd::MAX);
        assert!(!is_crowded(RawFd::MAX) && is_crowded(0));
    }
}
