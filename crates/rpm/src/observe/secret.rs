//! A password: typed twice on a terminal that does not show it, or the first line of standard input.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Maximum length that is read, in bytes; a longer one is no password.
const LONGEST: u64 = 4096;
/// What the terminal sends for Ctrl-C and Ctrl-D.
const INTERRUPT: u8 = 3;
const END: u8 = 4;

/// The password of whoever runs the command.
///
/// # Errors
/// There is none, or two were typed.
pub(crate) fn ask(prompt: &str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        let read = io::stdin().lock().take(LONGEST).read_line(&mut line);
        let count = read.context("cannot read the password from standard input")?;
        ensure!(count > 0, "standard input has no password");
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let quiet = Quiet::new().context("cannot read the password from the terminal")?;
    let first = typed(prompt)?;
    let second = typed("Again")?;
    drop(quiet);
    ensure!(first == second, "the two passwords differ");
    Ok(first)
}

/// A terminal that shows no keys and sends each as it is pressed. It is as it was when this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> io::Result<Quiet> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        // Without signals: one that ended the command would leave the terminal so.
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Quiet(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn typed(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}: ");
    let _ = io::stderr().flush();
    let line = line(io::stdin().lock().bytes());
    eprintln!();
    line
}

/// The keys up to Enter.
fn line(keys: impl Iterator<Item = io::Result<u8>>) -> anyhow::Result<String> {
    let mut typed = Vec::new();
    for key in keys {
        match key.context("cannot read the password")? {
            b'\r' | b'\n' => return String::from_utf8(typed).context("the password is not UTF-8"),
            INTERRUPT | END => bail!("no password was set"),
            // Backspace takes a whole character.
            0x7f | 0x08 => while typed.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {},
            // Ctrl-U takes all.
            0x15 => typed.clear(),
            key => typed.push(key),
        }
    }
    bail!("the terminal has gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_make_a_line() {
        for (keys, expected) in [
            ("abc\n", Some("abc")),
            ("aé\u{7f}b\r", Some("ab")),
            ("\u{8}a\n", Some("a")),
            ("abc\u{15}de\n", Some("de")),
            ("a\u{3}b\n", None),
            ("\u{4}", None),
            ("abc", None),
        ] {
            let read = line(keys.bytes().map(Ok)).ok();
            assert_eq!(read.as_deref(), expected, "{keys:?}");
        }
    }
}
