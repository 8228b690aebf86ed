//! Conditions that hold or do not, in words.

use rpm_wire::alerts::{Rule, Trigger};
use rpm_wire::api::{Process, Status};

/// What is known of a condition now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reading {
    /// Nothing new: it stays as it was.
    Unknown,
    /// Nothing has been known for a while.
    Lost,
    /// It holds or does not, in words.
    Known {
        /// It holds.
        holds: bool,
        /// What is so now.
        text: String,
    },
}

/// What is known of a rule about an app.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    /// Number of the rule.
    pub rule: usize,
    pub app: String,
    pub reading: Reading,
}

/// Whether the condition of a rule holds for a process, in words; `None` if the rule is not about figures of processes.
pub(crate) fn condition(rule: &Rule, process: &Process) -> Option<(bool, String)> {
    let above = rule.above.unwrap_or_default();
    let lasting = span(rule.for_ms);
    Some(match rule.on {
        Trigger::Memory => {
            let holds = process.memory_bytes as f64 > above;
            let (used, bound) = (mebibytes(process.memory_bytes as f64), mebibytes(above));
            let text = match holds {
                true => format!("uses {used} of memory, more than {bound} for {lasting}"),
                false => format!("uses {used} of memory"),
            };
            (holds, text)
        }
        Trigger::Cpu => {
            let holds = process.cpu_percent > above;
            let used = process.cpu_percent;
            let text = match holds {
                true => format!("uses {used:.0} % of a CPU, more than {above:.0} % for {lasting}"),
                false => format!("uses {used:.0} % of a CPU"),
            };
            (holds, text)
        }
        Trigger::Down => {
            let holds = !matches!(
                process.status,
                Status::Online | Status::Stopped | Status::Stopping
            );
            let status = process.status.as_str();
            let text = match holds {
                true => format!("is {status}, not online for {lasting}"),
                false => format!("is {status}"),
            };
            (holds, text)
        }
        _ => return None,
    })
}

pub(crate) fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}

/// A time in words, as rules have it.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        _ if ms >= 86_400_000 && ms.is_multiple_of(86_400_000) => format!("{} days", ms / 86_400_000),
        _ if ms >= 3_600_000 && ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms >= 60_000 && ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        _ => format!("{ms} ms"),
    }
}
