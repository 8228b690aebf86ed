//! Candidates that the grammar does not know: from a running daemon, and from files. No daemon is started, and no error is reported.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rpm_wire::api::{Known, Saved};
use serde::de::DeserializeOwned;

use crate::commands::keys_that_are_set;
use crate::connect::connect;
use crate::home::{Home, home_dir};
use crate::http::Session;

/// Time for the daemon to answer: a person waits at the cursor.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Maximum size of an ecosystem file to search.
const MOST_BYTES: u64 = 1024 * 1024;

/// Prefix of the name of a block of variables.
const BLOCK: &str = "env_";

/// The current candidates.
pub(super) trait Source {
    /// The processes.
    fn known(&self) -> Vec<Known>;
    /// The keys that `rpm set` has set.
    fn values(&self) -> Vec<String>;
    /// The names of an app's variables.
    fn variables(&self, app: &str) -> Vec<String>;
    /// The names of `env_<name>` in the ecosystem files among these words, or in the usual one.
    fn environments(&self, words: &[String]) -> Vec<String>;
}

/// Of this directory and this user.
pub(super) struct Here;

impl Source for Here {
    fn known(&self) -> Vec<Known> {
        asked("/v1/known").unwrap_or_default()
    }

    fn values(&self) -> Vec<String> {
        keys_that_are_set()
    }

    fn variables(&self, app: &str) -> Vec<String> {
        let saved: Vec<Saved> = asked("/v1/dump").unwrap_or_default();
        let app = saved.into_iter().find(|saved| saved.app.name == app);
        app.map_or_else(Vec::new, |saved| saved.app.env.into_keys().collect())
    }

    fn environments(&self, words: &[String]) -> Vec<String> {
        let is_file = |path: &PathBuf| {
            path.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.len() <= MOST_BYTES)
        };
        let mut files: Vec<PathBuf> = words.iter().map(PathBuf::from).filter(is_file).collect();
        if files.is_empty() {
            let here = fs::read_dir(".").into_iter().flatten().flatten();
            let usual = here.filter(|entry| entry.file_name().to_string_lossy().starts_with("ecosystem."));
            files = usual.map(|entry| entry.path()).filter(is_file).collect();
        }
        let texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
        let found: BTreeSet<String> = texts.flat_map(|text| blocks(&text)).collect();
        found.into_iter().collect()
    }
}

/// The names of the blocks. The file is not evaluated: that may take long, or have side effects.
fn blocks(text: &str) -> Vec<String> {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && !['_', '-'].contains(&letter));
    let names = words.filter_map(|word| word.strip_prefix(BLOCK));
    let names = names.filter(|name| !name.is_empty() && *name != "file");
    names.map(str::to_owned).collect()
}

/// Asks a running daemon, if it answers at once.
fn asked<T: DeserializeOwned>(path: &str) -> Option<T> {
    let asked = async {
        let home = Home::open(home_dir().ok()?).ok()?;
        let mut session = Session::open(connect(&home).await.ok()??).await.ok()?;
        session.get(path).await.ok()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let answered = runtime.block_on(async { tokio::time::timeout(ANSWER_WITHIN, asked).await });
    answered.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_variables_are_found_in_any_format() {
        for text in [
            "module.exports = { apps: [{ env_file: '.env', env: {}, env_production: { A: 1 }, 'env_eu-west': {} }] }",
            r#"{"apps": [{"env_production": {}, "env_eu-west": {"X_env_no": 1}}]}"#,
            "apps:\n  - env_production:\n      A: 1\n    env_eu-west: {}\n",
        ] {
            assert_eq!(blocks(text), ["production", "eu-west"], "{text}");
        }
    }
}
