//! Time tables of cron (`cron_restart`): five fields, or six with seconds, in a time zone.

use croner::Cron;
use croner::parser::CronParser;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

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
        let cron = CronParser::new()
            .parse(text)
            .map_err(|error| format!("{text:?} is no time table of cron: {error}"))?;
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
    fn nonsense_is_refused() {
        for wrong in ["", "soon", "* * *", "61 * * * *", "0 25 * * *"] {
            assert!(
                Schedule::parse(wrong, None)
                    .unwrap_err()
                    .contains("no time table"),
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
