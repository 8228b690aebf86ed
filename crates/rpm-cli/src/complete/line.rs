//! A command line as bash has it: its words, and the one at the cursor.

use std::path::{Path, PathBuf};

use super::Candidate;

/// A line up to the cursor.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Those between the program and the cursor's word.
    pub(super) words: Vec<String>,
    /// The cursor's word, without quotes.
    pub(super) current: String,
    /// The quote that it stands in.
    pub(super) quote: Option<char>,
    /// Letters of `current` that neither a quote nor a backslash protects, by their place in it.
    bare: Vec<(usize, char)>,
}

impl Split {
    /// How much of the cursor's word stands before what bash completes: it breaks words at `=` and `:`, too.
    pub(super) fn cut(&self, breaks: &str) -> usize {
        let last = self
            .bare
            .iter()
            .rev()
            .find(|(_, letter)| breaks.contains(*letter));
        match (self.quote, last) {
            (None, Some((at, letter))) => at + letter.len_utf8(),
            _ => 0,
        }
    }
}

/// Splits a line as a shell does, expanding nothing. The first word of several is the program, and left out.
pub(super) fn split(line: &str) -> Split {
    let (mut words, mut split, mut begun) = (Vec::new(), Split::default(), false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, split.quote) {
            ('\'' | '"', None) => (begun, split.quote) = (true, Some(letter)),
            (_, Some(quote)) if letter == quote => split.quote = None,
            ('\\', None | Some('"')) => {
                begun = true;
                split.current.extend(letters.next());
            }
            (_, None) if letter.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut split.current));
                    split.bare.clear();
                }
                begun = false;
            }
            (_, quote) => {
                begun = true;
                if quote.is_none() {
                    split.bare.push((split.current.len(), letter));
                }
                split.current.push(letter);
            }
        }
    }
    split.words = words.into_iter().skip(1).collect();
    split
}

/// A word with a backslash before what is special to bash.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() && !letter.is_ascii_alphanumeric() && !"-_./:@%+,=~".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// The files whose path begins with `value`; of directories the names end with a slash, and nothing may stand behind them yet.
pub(super) fn files(value: &str, directories_only: bool) -> Vec<Candidate> {
    let (parent, start) = value.split_at(value.rfind('/').map_or(0, |at| at + 1));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let looked = match (parent.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ if parent.is_empty() => PathBuf::from("."),
        _ => PathBuf::from(parent),
    };
    let entries = std::fs::read_dir(looked).into_iter().flatten().flatten();
    let mut found: Vec<Candidate> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_directory = Path::is_dir(&entry.path());
            let wanted = name.starts_with(start) && (start.starts_with('.') || !name.starts_with('.'));
            let slash = if is_directory { "/" } else { "" };
            (wanted && (is_directory || !directories_only))
                .then(|| Candidate::new(format!("{parent}{name}{slash}"), ""))
        })
        .collect();
    found.sort();
    found
}
