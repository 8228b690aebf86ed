//! Time tables of cron (`cron_restart`): five fields, or six with seconds, in a time zone.

use std::time::{Duration, Instant};

use croner::Cron;
use croner::parser::CronParser;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A clock that is put right by so little goes back without anything being due again.
const PUT_RIGHT: Duration = Duration::from_secs(5);

/// When something is due.
#[derive(Debug)]
pub(crate) struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// `zone`: an IANA name; `None` is that of the system.
    ///
    /// # Errors
    /// Not a time table, or not a zone: what is wrong.
    pub(crate) fn parse(text: &str, zone: Option<&str>) -> Result<Schedule, String> {
        let cron = CronParser::new().parse(text).map_err(|error| {
            format!(
                "{text:?} is not a cron schedule: {}",
                fault(text, &error.to_string())
            )
        })?;
        let zone = match zone {
            Some(name) => TimeZone::get(name).map_err(|_| format!("there is no time zone {name:?}"))?,
            None => TimeZone::system(),
        };
        Ok(Schedule { cron, zone })
    }

    /// The next time after this; `None`: never.
    pub(crate) fn after(&self, now: Timestamp) -> Option<Timestamp> {
        let now: Zoned = now.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&now, false).ok()?;
        Some(next.timestamp())
    }
}

/// The fields of a schedule with the numbers that they take, seconds first.
const FIELDS: [(&str, u32, u32); 6] = [
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
];

/// What is wrong with a schedule; `other`: what the parser says, where it is something else than these.
fn fault(text: &str, other: &str) -> String {
    let given: Vec<&str> = text.split_whitespace().collect();
    let count = given.len();
    if !(5..=6).contains(&count) {
        let fields = if count == 1 { "field" } else { "fields" };
        return format!(
            "it has {count} {fields}, and needs 5 (minute hour day month weekday) or 6 (seconds first)"
        );
    }
    for ((name, least, most), field) in FIELDS[6 - count..].iter().zip(given) {
        let items = field.split(',').filter_map(|item| item.split('/').next());
        let mut numbers = items
            .flat_map(|item| item.split('-'))
            .filter_map(|number| number.parse::<u32>().ok());
        if let Some(wrong) = numbers.find(|number| !(*least..=*most).contains(number)) {
            return format!("its {name} is {wrong}, and can be {least} to {most}");
        }
    }
    other.to_owned()
}

/// What is due again and again, by a clock that may be set.
#[derive(Debug)]
pub(crate) struct Timer {
    schedule: Schedule,
    /// `None`: never.
    pub(crate) next: Option<Timestamp>,
    /// When it was looked at last: by the clock, and by one that nobody sets.
    looked: (Timestamp, Instant),
}

impl Timer {
    /// Begins now.
    pub(crate) fn new(schedule: Schedule, now: Timestamp, steady: Instant) -> Timer {
        let next = schedule.after(now);
        Timer {
            schedule,
            next,
            looked: (now, steady),
        }
    }

    /// Is it due? If so, it is due again at the next time after this.
    pub(crate) fn handle_look(&mut self, now: Timestamp, steady: Instant) -> bool {
        let (clock, before) = self.looked;
        self.looked = (now, steady);
        let passed = steady.saturating_duration_since(before);
        // What was computed by the clock before it was set back would be hours away.
        let expected = clock.checked_add(passed).unwrap_or(clock);
        let back = Duration::try_from(expected.duration_since(now)).unwrap_or_default();
        if back > PUT_RIGHT {
            self.next = self.schedule.after(now);
        }
        let is_due = self.next.is_some_and(|next| next <= now);
        if is_due {
            self.next = self.schedule.after(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, zone: &str, now: &str) -> String {
        let schedule = Schedule::parse(text, Some(zone)).unwrap();
        schedule.after(now.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn times_are_those_of_the_zone() {
        assert_eq!(
            next("0 3 * * *", "UTC", "2026-11-26T20:00:00Z"),
            "2026-11-27T03:00:00Z"
        );
        assert_eq!(
            next("0 3 * * *", "Europe/Berlin", "2026-11-26T20:00:00Z"),
            "2026-11-27T02:00:00Z"
        );
        assert_eq!(
            next("*/10 * * * * *", "UTC", "2026-11-26T20:00:01Z"),
            "2026-11-26T20:00:10Z"
        );
        // Clocks are put forward: there is no half past two, and the job runs all the same, that day.
        let spring = next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z");
        assert!(spring.starts_with("2026-03-29T0"), "{spring}");
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_said() {
        for (text, expected) in [
            (
                "0 3 * *",
                "it has 4 fields, and needs 5 (minute hour day month weekday) or 6 (seconds first)",
            ),
            (
                "soon",
                "it has 1 field, and needs 5 (minute hour day month weekday) or 6 (seconds first)",
            ),
            ("0 25 * * *", "its hour is 25, and can be 0 to 23"),
            ("*/5 0 25 * * *", "its hour is 25, and can be 0 to 23"),
            ("0 0 1-32 * *", "its day is 32, and can be 1 to 31"),
            ("0 0 * 0,13 *", "its month is 0, and can be 1 to 12"),
        ] {
            let error = Schedule::parse(text, None).unwrap_err();
            assert_eq!(error, format!("{text:?} is not a cron schedule: {expected}"));
        }
        let other = Schedule::parse("0 0 * * nay", None).unwrap_err();
        assert!(
            other.starts_with("\"0 0 * * nay\" is not a cron schedule: "),
            "{other}"
        );
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_what_is_due() {
        // Each look: seconds that have passed, the clock, and whether it is due.
        for (text, looks) in [
            // As it goes.
            (
                "* * * * *",
                &[
                    (30, "12:00:50", false),
                    (11, "12:01:01", true),
                    (1, "12:01:02", false),
                ][..],
            ),
            // Four hours back.
            (
                "* * * * *",
                &[
                    (30, "08:00:50", false),
                    (11, "08:01:01", true),
                    (60, "08:02:01", true),
                ],
            ),
            // Back by the moment in which it is put right: the same minute is not due twice.
            (
                "* * * * *",
                &[
                    (41, "12:01:01", true),
                    (1, "12:00:59", false),
                    (2, "12:01:01", false),
                    (60, "12:02:01", true),
                ],
            ),
            // Forward: what was passed over is due once.
            ("0 14 * * *", &[(1, "16:00:00", true), (1, "16:00:01", false)]),
            // Back, and forward again.
            (
                "0 13 * * *",
                &[
                    (1, "02:00:00", false),
                    (1, "12:30:00", false),
                    (1800, "13:00:00", true),
                ],
            ),
        ] {
            let clock = |time: &str| -> Timestamp { format!("2026-11-26T{time}Z").parse().unwrap() };
            let mut steady = Instant::now();
            let schedule = Schedule::parse(text, Some("UTC")).unwrap();
            let mut timer = Timer::new(schedule, clock("12:00:20"), steady);
            for (passed, time, due) in looks {
                steady += Duration::from_secs(*passed);
                assert_eq!(
                    timer.handle_look(clock(time), steady),
                    *due,
                    "{text}: {looks:?} at {time}"
                );
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["", "soon", "* * *", "61 * * * *", "0 25 * * *"] {
            assert!(
                Schedule::parse(wrong, None)
                    .unwrap_err()
                    .contains("is not a cron schedule"),
                "{wrong}"
            );
        }
        assert!(
            Schedule::parse("* * * * *", Some("Mars/Base"))
                .unwrap_err()
                .contains("Mars/Base")
        );
    }
}
