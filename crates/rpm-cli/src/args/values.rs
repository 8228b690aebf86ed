//! Parsers of values that are not options of an app.

use std::net::SocketAddr;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp, Zoned};

/// `n`, `max` (one per CPU, 0) or `-n` (that many fewer).
pub(super) fn instances(text: &str) -> Result<i32, String> {
    if text == "max" {
        return Ok(0);
    }
    let bad = |_| "expected a number, `max`, or -n for all CPUs but n".to_owned();
    text.parse().map_err(bad)
}

/// An element of a list that may have blanks after its commas.
#[expect(clippy::unnecessary_wraps, reason = "a parser of a value may fail")]
pub(super) fn trimmed(text: &str) -> Result<String, String> {
    Ok(text.trim().to_owned())
}

/// Milliseconds: `1500`, `1500ms`, `90s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Result<u64, String> {
    rpm_spec::time(text).map_err(|error| format!("expected {error}"))
}

/// A point in time, in milliseconds since 1970: an age (`10m`), a date with or without a time and a zone, or seconds since 1970.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    moment_at(text, &Zoned::now()).ok_or_else(|| {
        "expected how long ago (10m, 1h, 2d), or a time such as 2026-11-29T10:00 or 2026-11-29T10:00:00Z"
            .to_owned()
    })
}

fn moment_at(text: &str, now: &Zoned) -> Option<u64> {
    let moment = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Timestamp::from_second(text.parse().ok()?).ok()?
    } else if let Ok(ago) = rpm_spec::time(text) {
        let ago = SignedDuration::from_millis(i64::try_from(ago).ok()?);
        now.timestamp().checked_sub(ago).ok()?
    } else if let Ok(time) = text.parse::<Timestamp>() {
        time
    } else {
        let local: DateTime = text.parse().ok()?;
        local.to_zoned(now.time_zone().clone()).ok()?.timestamp()
    };
    u64::try_from(moment.as_millisecond()).ok()
}

/// `ADDRESS:PORT`, or a port of this machine alone.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    rpm_wire::api::listen_address(text)
        .ok_or_else(|| "expected ADDRESS:PORT, such as 127.0.0.1:9209 or [::1]:9209, or a port".to_owned())
}

/// `n`, `+n`, `-n` or `max`, as it is.
pub(super) fn count(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if text == "max"
        || digits
            .parse::<u32>()
            .is_ok_and(|_| digits.starts_with(|c: char| c.is_ascii_digit()))
    {
        return Ok(text.to_owned());
    }
    Err("expected n, +n, -n or max".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now: Zoned = "2026-11-29T12:00:00+01:00[+01:00]".parse().unwrap();
        let ms = |text: &str| {
            moment_at(text, &now).map(|ms| Timestamp::from_millisecond(ms.cast_signed()).unwrap().to_string())
        };
        for (text, expected) in [
            ("10m", "2026-11-29T10:50:00Z"),
            ("1h", "2026-11-29T10:00:00Z"),
            ("2d", "2026-11-27T11:00:00Z"),
            ("90s", "2026-11-29T10:58:30Z"),
            ("2026-11-29T10:00", "2026-11-29T09:00:00Z"),
            ("2026-11-29 10:00:05", "2026-11-29T09:00:05Z"),
            ("2026-11-29", "2026-11-28T23:00:00Z"),
            ("2026-11-29T10:00:00Z", "2026-11-29T10:00:00Z"),
            ("2026-11-29T10:00:00.250-02:00", "2026-11-29T12:00:00.25Z"),
            ("1764410400", "2025-11-29T10:00:00Z"),
        ] {
            assert_eq!(ms(text).as_deref(), Some(expected), "{text}");
        }
        for bad in ["", "soon", "-1h", "2026-13-01", "99999999999d", "1e9s"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        for (text, expected) in [
            ("127.0.0.1:9209", "127.0.0.1:9209"),
            ("9300", "127.0.0.1:9300"),
            ("localhost:9300", "127.0.0.1:9300"),
            ("[::1]:9300", "[::1]:9300"),
            ("0.0.0.0:9300", "0.0.0.0:9300"),
        ] {
            assert_eq!(listen(text), Ok(expected.parse().expect("an address")), "{text}");
        }
        for wrong in ["", "host", "host:9300", "70000", "[::1]", "-1"] {
            let error = listen(wrong).expect_err(wrong);
            assert!(error.starts_with("expected ADDRESS:PORT"), "{wrong}: {error}");
        }
    }
}
