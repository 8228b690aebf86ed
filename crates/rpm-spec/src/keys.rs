//! Every key that an app may have in an ecosystem file: the options of `rpm-wire`, and PM2's keys for which there is nothing to do.

use rpm_wire::api::{AppSpec, LogSpec, ProxySpec};
pub use rpm_wire::options::{Flag, Heading, Key, Kind, State};

/// Why the keys of PM2's dashboard have no effect.
const DASHBOARD: &str = "it was for PM2's dashboard; `rpm observe` gives metrics to Prometheus";

/// Keys of PM2 without an effect.
const WITHOUT_EFFECT: &[Key] = &[
    Key::needless("execute_command", "`exec_mode: \"fork\"` says it"),
    Key::needless("kill_retry_time", "rpm sees the end of a process at once"),
    Key::needless("vizion", "rpm does not read git"),
    Key::needless("pmx", DASHBOARD),
    Key::needless("automation", DASHBOARD),
    Key::needless("trace", DASHBOARD),
    Key::needless("disable_trace", DASHBOARD),
    Key::needless("v8", DASHBOARD),
    Key::needless("event_loop_inspector", DASHBOARD),
    Key::needless("deep_monitoring", DASHBOARD),
    Key::needless("io", DASHBOARD),
    Key::needless("write", "it is for PM2's own files"),
    Key::needless("username", "the app inherits USER"),
    Key::needless("windows_hide", "it is for Windows"),
    Key::needless(
        "watch_options",
        "the kernel reports changes; use ignore_watch and watch_delay",
    ),
    Key::instead("post_update", "run it in your deploy script, before the reload"),
    Key::instead("install_url", "install what the app needs before it is started"),
];

/// The key of this name or alias, in snake or camel case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    let snake = snake_case(name);
    let known = |key: &&Key| {
        let mut names = [key.name].into_iter().chain(key.aliases.iter().copied());
        names.any(|known| known == name || known == snake)
    };
    all().find(known)
}

/// Every key.
pub fn all() -> impl Iterator<Item = &'static Key> {
    [
        AppSpec::OPTIONS,
        LogSpec::OPTIONS,
        ProxySpec::OPTIONS,
        WITHOUT_EFFECT,
    ]
    .into_iter()
    .flatten()
}

/// The description of a key in the documentation, with its default.
#[must_use]
pub fn described(key: &Key) -> String {
    let plane = match key.heading {
        Heading::Proxy => "With `balance: proxy`: ",
        _ => "",
    };
    let default = key
        .default
        .map_or_else(String::new, |default| format!(" (default: {default})"));
    format!("{plane}{}{default}", key.doc)
}

/// `maxMemoryRestart` is `max_memory_restart`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_spelling_and_are_unique() {
        for (name, canonical) in [
            ("maxMemoryRestart", "max_memory_restart"),
            ("interpreterArgs", "node_args"),
            ("cmd", "script"),
            ("errFile", "error_file"),
            ("_mode", "exec_mode"),
            ("windowsHide", "windows_hide"),
        ] {
            assert_eq!(find(name).map(|key| key.name), Some(canonical), "{name}");
        }
        assert_eq!(find("colour"), None);
        let mut names: Vec<&str> = all()
            .flat_map(|key| key.aliases.iter().chain([&key.name]))
            .copied()
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
