//! The hidden app that serves the metrics (`rpm observe on`), and the settings that it is made from.

use std::path::PathBuf;

use rpm_wire::api::{AppSpec, ExecMode, OBSERVE, ObserveSpec, ObserveTls};

/// The command, and its options.
const COMMAND: &str = "observe";
const LISTEN: &str = "--listen";
const TOKEN_FILE: &str = "--token-file";
const TLS_CERT: &str = "--tls-cert";
const TLS_KEY: &str = "--tls-key";
const TLS_CLIENT_CA: &str = "--tls-client-ca";
/// What the kernel adds to the path of a program whose file was replaced.
const REPLACED: &str = " (deleted)";

/// The app that serves the metrics.
pub(crate) fn app_of(
    program: String,
    env: impl Iterator<Item = (String, String)>,
    wanted: &ObserveSpec,
) -> AppSpec {
    let mut args = vec![COMMAND.to_owned(), LISTEN.to_owned(), wanted.listen.to_string()];
    let tls = wanted.tls.as_ref();
    for (option, file) in [
        (TOKEN_FILE, wanted.token_file.as_ref()),
        (TLS_CERT, tls.map(|tls| &tls.cert)),
        (TLS_KEY, tls.map(|tls| &tls.key)),
        (TLS_CLIENT_CA, tls.and_then(|tls| tls.client_ca.as_ref())),
    ] {
        args.extend(
            file.into_iter()
                .flat_map(|file| [option.to_owned(), file.clone()]),
        );
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
    // The first word is the command; an option is followed by its value.
    let pairs = spec.args.get(1..)?.chunks_exact(2);
    let of = |option: &str| {
        let mut pairs = pairs.clone();
        pairs.find_map(|pair| (pair[0] == option).then(|| &pair[1]))
    };
    let tls = of(TLS_CERT).zip(of(TLS_KEY)).map(|(cert, key)| ObserveTls {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: of(TLS_CLIENT_CA).cloned(),
    });
    Some(ObserveSpec {
        listen: of(LISTEN)?.parse().ok()?,
        token_file: of(TOKEN_FILE).cloned(),
        tls,
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
        let tls = |client_ca: Option<&str>| {
            Some(ObserveTls {
                cert: "--tls-key".to_owned(),
                key: "/a.key".to_owned(),
                client_ca: client_ca.map(str::to_owned),
            })
        };
        for (listen, token_file, tls) in [
            ("127.0.0.1:9209", None, None),
            ("[::]:1", Some("--listen"), tls(None)),
            ("[::]:1", Some("/run/token"), tls(Some("/ca"))),
        ] {
            let wanted = ObserveSpec {
                listen: listen.parse().expect("an address"),
                token_file: token_file.map(str::to_owned),
                tls,
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
