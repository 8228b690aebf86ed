//! What must not be in an answer, even where an app has printed it: values of variables that are named like secrets, and passwords in URLs. Pure.

use rpm_wire::api::Saved;

use super::bounds::{legible, uncoloured};

/// In names of variables whose values are secrets.
const NAMES: [&str; 8] = [
    "SECRET",
    "TOKEN",
    "PASS",
    "_PWD",
    "CREDENTIAL",
    "KEY",
    "AUTH",
    "DSN",
];
/// Shortest value that is taken for a secret, in bytes: shorter ones are words that stand everywhere.
const SHORTEST: usize = 6;

/// Values of the apps' variables, and what stands in their place.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// Those of these apps.
    pub(super) fn of(apps: &[Saved]) -> Secrets {
        let variables = apps.iter().flat_map(|saved| &saved.app.env);
        let mut found: Vec<(String, String)> =
            variables.flat_map(|(name, value)| parts(name, value)).collect();
        // A value that contains another one comes first.
        found.sort_by(|one, other| (other.0.len(), &other.0).cmp(&(one.0.len(), &one.0)));
        found.dedup_by(|one, other| one.0 == other.0);
        Secrets(found)
    }

    /// The text without them, as a model needs it.
    pub(super) fn legible(&self, text: &str) -> String {
        // Colours may stand within a value.
        let mut text = uncoloured(text);
        if let Some(kept) = self.before_cut(&text) {
            text.truncate(kept);
            text.push_str("[a value that was cut]…");
        }
        legible(&self.masked(text))
    }

    /// The text without whole values.
    pub(super) fn masked(&self, mut text: String) -> String {
        for (value, place) in &self.0 {
            if text.contains(value) {
                text = text.replace(value, place);
            }
        }
        text
    }

    /// Where a value begins that was cut with the end of the text.
    fn before_cut(&self, text: &str) -> Option<usize> {
        let text = text.trim_end().strip_suffix('…')?;
        let begins = text.char_indices().map(|(at, _)| at);
        // The longest part that some value begins with.
        begins
            .filter(|at| text.len() - at >= SHORTEST)
            .find(|at| self.0.iter().any(|(value, _)| value.starts_with(&text[*at..])))
    }

    /// The same for each line of a text of several.
    pub(super) fn legible_lines(&self, text: &str) -> String {
        let lines: Vec<String> = text.lines().map(|line| self.legible(line)).collect();
        lines.join("\n")
    }
}

/// What is secret of a variable, and what stands in its place: of a value of several lines, each line, because that is how it is printed.
fn parts(name: &str, value: &str) -> Vec<(String, String)> {
    let secret = secret(name, value).unwrap_or_default();
    let long = secret
        .lines()
        .map(str::trim)
        .filter(|line| line.len() >= SHORTEST);
    long.map(|line| (line.to_owned(), format!("[value of {name}]")))
        .collect()
}

/// What is secret of a variable.
fn secret<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let upper = name.to_ascii_uppercase();
    match NAMES.iter().any(|part| upper.contains(part)) {
        true => Some(value),
        false => password_in(value),
    }
}

/// The password in a URL: `postgres://user:password@host/`.
fn password_in(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}
