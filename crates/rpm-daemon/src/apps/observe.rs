//! The hidden app that serves the metrics (`rpm observe on`), and the settings that it is made from.

use std::path::PathBuf;

use rpm_wire::api::{AppSpec, ExecMode, OBSERVE, ObserveSpec};

/// The command, and its options.
const COMMAND: &str = "observe";
const LISTEN: &str = "--listen";
const TOKEN_FILE: &str = "--token-file";
/// What the kernel adds to the path of a program whose file was replaced.
const REPLACED: &str = " (deleted)";

/// The app that serves the metrics.
pub(crate) fn app_of(
    program: String,
    env: impl Iterator<Item = (String, String)>,
    wanted: &ObserveSpec,
) -> AppSpec {
    let mut args = vec![COMMAND.to_owned(), LISTEN.to_owned(), wanted.listen.to_string()];
    if let Some(file) = &wanted.token_file {
        args.extend([TOKEN_FILE.to_owned(), file.clone()]);
    }
    AppSpec {
        name: OBSERVE.to_owned(),
        script: program,
        args,
        cwd: "/".to_owned(),
        env: env.collect(),
        exec_mode: ExecMode::Fork,
        instances: 1,
        // Another address is a new version that listens elsewhere.
        allow_port_change: true,
        ..AppSpec::default()
    }
}

/// The settings that [`app_of`] made an app from.
pub(crate) fn settings_of(spec: &AppSpec) -> Option<ObserveSpec> {
    let of = |option: &str| {
        let at = spec.args.iter().position(|arg| arg == option)?;
        spec.args.get(at + 1)
    };
    Some(ObserveSpec {
        listen: of(LISTEN)?.parse().ok()?,
        token_file: of(TOKEN_FILE).cloned(),
    })
}

/// The path of this program as the kernel shows it, even after its file was replaced.
pub(crate) fn unreplaced(program: PathBuf) -> PathBuf {
    let replaced = program.to_str().and_then(|text| text.strip_suffix(REPLACED));
    replaced.map(PathBuf::from).unwrap_or(program)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_settings_are_in_the_app() {
        for (listen, token_file) in [("127.0.0.1:9209", None), ("[::]:1", Some("/run/--listen"))] {
            let wanted = ObserveSpec {
                listen: listen.parse().expect("an address"),
                token_file: token_file.map(str::to_owned),
            };
            let app = app_of("/usr/bin/rpm".to_owned(), std::iter::empty(), &wanted);
            assert_eq!(settings_of(&app), Some(wanted));
        }
    }

    #[test]
    fn a_replaced_program_is_where_it_was() {
        for (path, expected) in [
            ("/usr/bin/rpm (deleted)", "/usr/bin/rpm"),
            ("/bin/rpm", "/bin/rpm"),
        ] {
            assert_eq!(unreplaced(path.into()), Path::new(expected));
        }
    }
}
