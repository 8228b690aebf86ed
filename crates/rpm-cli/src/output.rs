//! Standard output, and what to do when its reader is gone.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use rpm_wire::terminal;
use serde::Serialize;

use crate::render::Look;

/// Standard output is closed or broken.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(crate) struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the reader has gone (`rpm logs | head`), which is not a failure.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Buffered standard output; [`Output::flush`] it.
pub(crate) struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
    /// What its reader can display.
    pub(crate) look: Look,
}

impl Output {
    /// `plain`: without colours.
    pub(crate) fn new(plain: bool) -> Self {
        let stdout = io::stdout();
        let coloured = !plain && colours_wanted(std::env::var_os("NO_COLOR"));
        let look = match (stdout.is_terminal(), coloured) {
            (false, _) => Look::Plain,
            (true, false) => Look::Terminal,
            (true, true) => Look::Coloured,
        };
        Output {
            stdout: BufWriter::new(stdout.lock()),
            look,
        }
    }

    /// Prints one or more lines. Of control sequences a terminal gets only colours: the text may come from apps.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), OutputError> {
        match self.look {
            Look::Plain => Ok(writeln!(self.stdout, "{text}")?),
            Look::Terminal | Look::Coloured => Ok(writeln!(
                self.stdout,
                "{}",
                terminal::coloured(&text.to_string())
            )?),
        }
    }

    /// Prints a line as it is, with all control sequences.
    pub(crate) fn raw_line(&mut self, text: &str) -> Result<(), OutputError> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        Ok(self.stdout.write_all(bytes)?)
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), OutputError> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        match self.look {
            Look::Plain => self.stdout.write_all(text.as_bytes())?,
            Look::Terminal | Look::Coloured => self.stdout.write_all(terminal::json(&text).as_bytes())?,
        }
        Ok(writeln!(self.stdout)?)
    }

    pub(crate) fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.stdout.flush()?)
    }
}

/// Whether `NO_COLOR` is set and not empty: <https://no-color.org>.
pub(crate) fn colours_wanted(no_color: Option<OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_is_honoured() {
        assert!(colours_wanted(None));
        assert!(colours_wanted(Some("".into())));
        assert!(!colours_wanted(Some("1".into())));
    }
}
