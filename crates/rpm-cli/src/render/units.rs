//! Numbers with units, short enough for a column.

/// The largest unit that fits, and for minutes to days the next one too: `5s`, `3m 20s`, `2h 5m`, `12d 3h`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        (_, _, _) => format!("{days}d {}h", hours % 24),
    }
}

/// Three digits or so: `0 B`, `512 kB`, `49.5 MB`, `1.2 GB` (powers of 1024).
pub(crate) fn bytes(bytes: u64) -> String {
    const KB: u64 = 1 << 10;
    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    // Tenths of a unit are exact enough as a float below 2^53.
    let tenths = |unit: u64| bytes as f64 / unit as f64;
    match bytes {
        0 => "0 B".to_owned(),
        1..MB => format!("{} kB", bytes.div_ceil(KB)),
        MB..GB => format!("{:.1} MB", tenths(MB)),
        GB.. => format!("{:.1} GB", tenths(GB)),
    }
}

/// `1.5%`
pub(crate) fn percent(percent: f64) -> String {
    format!("{percent:.1}%")
}

/// A time in milliseconds since the Unix epoch, in this machine's time zone: `2026-11-29 23:05:10 +01:00`. `None` beyond the year 9999.
pub(crate) fn local_time(ms: u64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    Some(zoned.strftime("%Y-%m-%d %H:%M:%S %:z").to_string())
}

/// The value, or a dash.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (0, "0s"),
            (59_999, "59s"),
            (200_000, "3m 20s"),
            (7_500_000, "2h 5m"),
            (1_047_600_000, "12d 3h"),
        ];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            (0, "0 B"),
            (1, "1 kB"),
            (524_288, "512 kB"),
            (51_896_320, "49.5 MB"),
            (1 << 31, "2.0 GB"),
        ];
        for (size, text) in cases {
            assert_eq!(bytes(size), text);
        }
    }
}
