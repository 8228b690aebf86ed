//! What files of apps are like, for rules about them: how large logs are, how full their disk is, and how long certificates are valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rpm_wire::alerts::{Rule, Source, Trigger};
use rpm_wire::api::Process;

use super::certificate::valid_until;
use super::condition::{Read, Reading, mebibytes, span};
use super::disk_use::{fullness, sizes};

/// Output that is thrown away.
pub(super) const NOWHERE: &str = "/dev/null";
/// Below this a time is told in hours, in seconds.
const HOURS_BELOW: i64 = 3 * 86_400;
/// After this time it is said that files cannot be read, in milliseconds.
const UNREAD_MS: u64 = 5 * 60_000;

/// What is known of the files of each app, for the rules about files.
pub(super) fn readings(rules: &[Rule], processes: &[Process]) -> Vec<Read> {
    let mut apps: BTreeMap<&str, Vec<&Process>> = BTreeMap::new();
    for process in processes {
        apps.entry(&process.name).or_default().push(process);
    }
    let logs: BTreeMap<&str, BTreeSet<PathBuf>> = apps.iter().map(|(app, all)| (*app, logs(all))).collect();
    let sizes = match rules.iter().any(|rule| rule.on == Trigger::LogsSize) {
        true => sizes(&logs.values().flatten().cloned().collect()),
        false => BTreeMap::new(),
    };
    let mut readings = Vec::new();
    for (number, rule) in rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.on.source() == Source::Files)
    {
        for (app, all) in apps.iter().filter(|(app, _)| rule.is_about(app)) {
            let reading = match rule.on {
                Trigger::LogsSize => {
                    let taken = logs[app].iter().filter_map(|log| sizes.get(log)).sum();
                    Some(log_size(rule, taken))
                }
                Trigger::LogsDisk if logs[app].is_empty() => None,
                // A disk that does not say it for once is not there any less.
                Trigger::LogsDisk => {
                    let full = logs[app].iter().filter_map(|log| fullness(log));
                    let full = full.reduce(f64::max).map(|full| disk(rule, full));
                    Some(full.unwrap_or(Reading::Unknown))
                }
                _ => certificates(rule, all),
            };
            readings.extend(reading.map(|reading| Read {
                rule: number,
                app: (*app).to_owned(),
                reading,
            }));
        }
    }
    readings
}

/// The log files of an app.
fn logs(processes: &[&Process]) -> BTreeSet<PathBuf> {
    let both = |process: &&Process| process.details.as_ref()?.both_log.clone();
    let files = processes.iter().flat_map(|process| {
        [
            Some(process.out_log.clone()),
            Some(process.err_log.clone()),
            both(process),
        ]
    });
    let files = files.flatten().filter(|path| !path.is_empty() && path != NOWHERE);
    files.map(PathBuf::from).collect()
}

fn log_size(rule: &Rule, taken: u64) -> Reading {
    let above = rule.above.unwrap_or_default();
    let holds = taken as f64 > above;
    let taken = mebibytes(taken as f64);
    let text = match holds {
        true => format!("its logs take {taken}, more than {}", mebibytes(above)),
        false => format!("its logs take {taken}"),
    };
    Reading::Known { holds, text }
}

fn disk(rule: &Rule, full: f64) -> Reading {
    let above = rule.above.unwrap_or_default();
    let holds = full > above;
    let text = match holds {
        true => format!("the disk with its logs is {full:.0} % full, more than {above} %"),
        false => format!("the disk with its logs is {full:.0} % full"),
    };
    Reading::Known { holds, text }
}

/// The certificate that expires first. An app without any has no reading.
fn certificates(rule: &Rule, processes: &[&Process]) -> Option<Reading> {
    let specs = processes.iter().filter_map(|process| process.spec.as_ref());
    let paths: BTreeSet<&String> = specs.flat_map(|spec| &spec.proxy.tls_cert).collect();
    let now = i64::try_from(super::now_ms() / 1000).unwrap_or(i64::MAX);
    if paths.is_empty() {
        return None;
    }
    let left = |path: &&String| Some((valid_until(Path::new(path)).ok()? - now, path.to_string()));
    let known: Vec<(i64, String)> = paths.iter().filter_map(left).collect();
    Some(first_expiry(rule, known, paths.len()))
}

/// One that is being replaced cannot be read for a moment, and may be the one that expires first.
fn first_expiry(rule: &Rule, known: Vec<(i64, String)>, count: usize) -> Reading {
    let is_all = known.len() == count;
    let first = known.into_iter().min();
    match first.map(|(left, path)| expiry(rule, left, &path)) {
        Some(reading @ Reading::Known { holds: true, .. }) => reading,
        Some(reading) if is_all => reading,
        _ => Reading::Unknown,
    }
}

/// Since when the files of a rule and an app cannot be read, in milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<(usize, String), u64>);

impl Unread {
    /// Takes what was read, and says of whom nothing is known for too long now.
    pub(super) fn note(&mut self, readings: &[Read], now: u64) -> BTreeSet<(usize, String)> {
        let unknown = readings.iter().filter(|read| read.reading == Reading::Unknown);
        let unknown: BTreeSet<(usize, String)> = unknown.map(|read| (read.rule, read.app.clone())).collect();
        self.0.retain(|of, _| unknown.contains(of));
        for of in unknown {
            self.0.entry(of).or_insert(now);
        }
        let is_long = |since: &u64| now.saturating_sub(*since) >= UNREAD_MS;
        let long = self.0.iter().filter(|(_, since)| is_long(since));
        long.map(|(of, _)| of.clone()).collect()
    }

    /// The numbers of the rules are others.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A certificate that is valid for so many seconds yet.
fn expiry(rule: &Rule, left: i64, path: &str) -> Reading {
    let text = match left {
        ..=0 => format!("its certificate {path} has expired"),
        1..HOURS_BELOW => format!("its certificate {path} expires in {} h", left / 3_600),
        _ => format!("its certificate {path} expires in {} days", left / 86_400),
    };
    let holds = left < i64::try_from(rule.for_ms / 1000).unwrap_or(i64::MAX);
    let text = match holds {
        true if left > 0 => format!("{text}, less than {}", span(rule.for_ms)),
        _ => text,
    };
    Reading::Known { holds, text }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_read_is_named_after_a_while() {
        let rule = rule(Trigger::Certificate);
        let (soon, late) = ((7_200, "soon".to_owned()), (30 * 86_400, "late".to_owned()));
        for (known, count, expected) in [
            (vec![late.clone(), soon.clone()], 2, Some(true)),
            (vec![soon], 2, Some(true)),
            (vec![late.clone()], 1, Some(false)),
            (vec![late], 2, None),
            (Vec::new(), 1, None),
        ] {
            let holds = match first_expiry(&rule, known.clone(), count) {
                Reading::Known { holds, .. } => Some(holds),
                _ => None,
            };
            assert_eq!(holds, expected, "{known:?} of {count}");
        }
        let mut unread = Unread::default();
        let read = |reading| {
            let app = "api".to_owned();
            vec![Read {
                rule: 1,
                app,
                reading,
            }]
        };
        let mut named = |reading, after| unread.note(&read(reading), 1_000_000 + after).len();
        assert_eq!(named(Reading::Unknown, 0), 0);
        assert_eq!(named(Reading::Unknown, UNREAD_MS - 1), 0);
        assert_eq!(named(Reading::Unknown, UNREAD_MS), 1);
        assert_eq!(named(expiry(&rule, 1, "a"), UNREAD_MS), 0);
        assert_eq!(named(Reading::Unknown, UNREAD_MS + 1), 0, "it begins again");
    }

    #[test]
    fn files_in_words() {
        let (size, full) = (rule(Trigger::LogsSize), rule(Trigger::LogsDisk));
        let certificate = rule(Trigger::Certificate);
        for (reading, expected, told) in [
            (log_size(&size, 1 << 30), false, "its logs take 1024 MiB"),
            (
                log_size(&size, (1 << 30) + 1),
                true,
                "its logs take 1024 MiB, more than 1024 MiB",
            ),
            (disk(&full, 90.0), false, "the disk with its logs is 90 % full"),
            (
                disk(&full, 91.0),
                true,
                "the disk with its logs is 91 % full, more than 90 %",
            ),
            (
                expiry(&certificate, 14 * 86_400, "a"),
                false,
                "its certificate a expires in 14 days",
            ),
            (
                expiry(&certificate, 14 * 86_400 - 1, "a"),
                true,
                "its certificate a expires in 13 days, less than 14 days",
            ),
            (
                expiry(&certificate, 7_200, "a"),
                true,
                "its certificate a expires in 2 h, less than 14 days",
            ),
            (
                expiry(&certificate, 0, "a"),
                true,
                "its certificate a has expired",
            ),
        ] {
            let known = Reading::Known {
                holds: expected,
                text: told.to_owned(),
            };
            assert_eq!(reading, known);
        }
    }
}
