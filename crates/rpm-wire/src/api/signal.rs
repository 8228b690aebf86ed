//! Signals that ask a program to stop.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a program is told to stop with. SIGKILL follows where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// As by Ctrl-C; PM2's default.
    #[default]
    #[serde(rename = "SIGINT")]
    Interrupt,
    /// As by kill(1) and systemd.
    #[serde(rename = "SIGTERM")]
    Terminate,
    /// nginx and php-fpm finish what they have.
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// The terminal is gone.
    #[serde(rename = "SIGHUP")]
    HangUp,
    /// The program's own.
    #[serde(rename = "SIGUSR1")]
    User1,
    /// The program's own.
    #[serde(rename = "SIGUSR2")]
    User2,
}

const ALL: [StopSignal; 6] = [
    StopSignal::Interrupt,
    StopSignal::Terminate,
    StopSignal::Quit,
    StopSignal::HangUp,
    StopSignal::User1,
    StopSignal::User2,
];

/// It is no signal that a program can be asked to stop by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1 or SIGUSR2")]
pub struct UnknownSignal;

impl StopSignal {
    /// Its name, as in `<signal.h>`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StopSignal::Interrupt => "SIGINT",
            StopSignal::Terminate => "SIGTERM",
            StopSignal::Quit => "SIGQUIT",
            StopSignal::HangUp => "SIGHUP",
            StopSignal::User1 => "SIGUSR1",
            StopSignal::User2 => "SIGUSR2",
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StopSignal {
    type Err = UnknownSignal;

    /// With or without `SIG`, in any case.
    fn from_str(text: &str) -> Result<StopSignal, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let is =
            |signal: &StopSignal| signal.name() == upper || signal.name().strip_prefix("SIG") == Some(&upper);
        ALL.into_iter().find(is).ok_or(UnknownSignal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for signal in ALL {
            assert_eq!(signal.to_string().parse(), Ok(signal));
            let json = serde_json::to_string(&signal).unwrap();
            assert_eq!(json, format!("\"{signal}\""));
        }
        assert_eq!("term".parse(), Ok(StopSignal::Terminate));
        assert_eq!("SIGKILL".parse::<StopSignal>(), Err(UnknownSignal));
        assert_eq!("".parse::<StopSignal>(), Err(UnknownSignal));
    }
}
