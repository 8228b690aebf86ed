//! `observe status`: who gets logs, alerts, metrics and spans, a line for each, and below it what went wrong.

use rpm_wire::receivers::{Going, Receiving};

use super::table::{columns_of, cut, visible, wrapped};
use super::units::{bytes, duration};

/// Between the columns.
const GAP: &str = "  ";
/// In front of what went wrong.
const INDENT: &str = "    ";
/// Longer names are cut.
const WIDEST_NAME: usize = 32;
const HEAD: [&str; 5] = ["what", "receiver", "state", "behind", "last taken"];

/// The receivers at this time, on a terminal with so many columns, if it is one.
pub(crate) fn receivers(receivers: &[Receiving], now_ms: u64, columns: Option<usize>) -> Vec<String> {
    let rows: Vec<[String; 5]> = receivers.iter().map(|it| row(it, now_ms)).collect();
    let wide = |column: usize| {
        let cells = rows.iter().map(|row| columns_of(&row[column]));
        cells.fold(columns_of(HEAD[column]), usize::max)
    };
    let widths: [usize; 5] = std::array::from_fn(wide);
    let aligned = |cells: [&str; 5]| {
        let cells = cells.iter().zip(widths);
        let padded = cells.map(|(cell, width)| format!("{cell}{}", " ".repeat(width - columns_of(cell))));
        padded.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    let mut lines = vec![aligned(HEAD)];
    for (receiver, row) in receivers.iter().zip(&rows) {
        lines.push(aligned(row.each_ref().map(String::as_str)));
        let room = columns.map(|columns| columns.saturating_sub(INDENT.len()));
        let failure = failure(receiver, now_ms);
        let failure = failure.iter().flat_map(|text| wrapped(text, room));
        lines.extend(failure.map(|line| format!("{INDENT}{line}")));
    }
    lines
}

fn row(receiver: &Receiving, now_ms: u64) -> [String; 5] {
    let behind = match (receiver.behind_bytes, receiver.behind_messages) {
        (Some(count), _) => bytes(count),
        (_, Some(1)) => "1 message".to_owned(),
        (_, Some(count)) => format!("{count} messages"),
        (None, None) => "-".to_owned(),
    };
    [
        receiver.what.as_str().to_owned(),
        cut(&visible(&receiver.name), WIDEST_NAME),
        state(receiver, now_ms),
        behind,
        receiver
            .last_taken_ms
            .map_or_else(|| "never".to_owned(), |at| ago(at, now_ms)),
    ]
}

fn state(receiver: &Receiving, now_ms: u64) -> String {
    match (receiver.state, receiver.retry_at_ms) {
        (Going::Waiting, Some(at)) if at > now_ms => {
            format!("waiting {}", duration((at - now_ms).next_multiple_of(1_000)))
        }
        (state, _) => state.as_str().to_owned(),
    }
}

/// What went wrong last, and what was given up.
fn failure(receiver: &Receiving, now_ms: u64) -> Option<String> {
    let why = receiver.failure.as_ref()?;
    let lost = match receiver.given_up {
        0 => String::new(),
        count => format!(" (given up so far: {count})"),
    };
    Some(format!("{}: {}{lost}", ago(why.at_ms, now_ms), visible(&why.why)))
}

fn ago(at_ms: u64, now_ms: u64) -> String {
    format!("{} ago", duration(now_ms.saturating_sub(at_ms)))
}

#[cfg(test)]
mod tests {
    use rpm_wire::receivers::{Failure, Sent};

    use super::*;

    const NOW: u64 = 1_000_000;

    fn receiver(what: Sent, name: &str, state: Going) -> Receiving {
        Receiving {
            what,
            name: name.to_owned(),
            to: String::new(),
            state,
            retry_at_ms: None,
            behind_bytes: None,
            behind_messages: None,
            taken: 0,
            given_up: 0,
            last_taken_ms: None,
            failure: None,
        }
    }

    #[test]
    fn a_line_for_each_and_below_it_what_went_wrong() {
        let failure = |ago: u64, why: &str| {
            let (at_ms, why) = (NOW - ago, why.to_owned());
            Some(Failure { at_ms, why })
        };
        let all = [
            Receiving {
                behind_bytes: Some(0),
                last_taken_ms: Some(NOW - 2_000),
                ..receiver(Sent::Logs, "loki logs.test:3100", Going::Idle)
            },
            Receiving {
                behind_bytes: Some(1_300_000),
                last_taken_ms: Some(NOW - 200_000),
                retry_at_ms: Some(NOW + 11_001),
                failure: failure(
                    4_000,
                    "no connection: connection refused by the machine that has this address",
                ),
                ..receiver(Sent::Logs, "elasticsearch search.test", Going::Waiting)
            },
            Receiving {
                behind_messages: Some(1),
                given_up: 3,
                failure: failure(61_000, "it answered 404"),
                ..receiver(Sent::Alerts, "https://hooks.test", Going::Refused)
            },
            receiver(Sent::Traces, "http://otel.test:4318", Going::Idle),
        ];
        let expected = "\
what    receiver                   state        behind     last taken
logs    loki logs.test:3100        idle         0 B        2s ago
logs    elasticsearch search.test  waiting 12s  1.2 MB     3m 20s ago
    4s ago: no connection: connection refused by the machine that has this
    address
alerts  https://hooks.test         refused      1 message  never
    1m 1s ago: it answered 404 (given up so far: 3)
traces  http://otel.test:4318      idle         -          never";
        assert_eq!(receivers(&all, NOW, Some(80)).join("\n"), expected);
        let wide = receivers(&all, NOW, None);
        assert_eq!(wide.len(), 7, "{wide:#?}");
    }
}
