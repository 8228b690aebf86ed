//! Defaults of apps from PM2's environment variables.

use rpm_wire::api::AppSpec;

use super::{ResolveError, Surroundings};

/// The defaults of a new app.
pub(super) fn spec(around: &Surroundings) -> Result<AppSpec, ResolveError> {
    let usual = AppSpec::default();
    let variable = |name: &'static str| {
        let text = around.env.get(name).map(|text| text.trim());
        text.filter(|text| !text.is_empty()).map(|text| (name, text))
    };
    let wrong =
        |name: &str, error: String| ResolveError::Value(format!("{name} in the environment: {error}"));
    let kill_signal = match variable("PM2_KILL_SIGNAL") {
        Some((name, text)) => text.parse().map_err(|error| wrong(name, format!("{error}")))?,
        None => usual.kill_signal,
    };
    let kill_timeout_ms = variable("PM2_KILL_TIMEOUT").map(|(name, text)| {
        let time = rpm_spec::time(text);
        time.map_err(|error| wrong(name, format!("expected {error}")))
    });
    let message = variable("PM2_KILL_USE_MESSAGE");
    Ok(AppSpec {
        kill_signal,
        kill_timeout_ms: kill_timeout_ms.transpose()?,
        shutdown_with_message: message.is_some_and(|(_, text)| !["0", "false"].contains(&text)),
        ..usual
    })
}

#[cfg(test)]
mod tests {
    use rpm_spec::AppOptions;
    use rpm_wire::api::StopSignal;

    use super::*;
    use crate::resolve::app_spec;
    use crate::resolve::tests::Place;

    #[test]
    fn variables_of_pm2_are_the_defaults_of_apps() {
        let place = Place::new();
        place.file("app.js", 0o644);
        place.file("bin/node", 0o755);
        let with = |variables: &[(&str, &str)], options: AppOptions| {
            let mut around = place.around();
            let variables = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            around.env.extend(variables);
            let options = AppOptions {
                script: Some("app.js".to_owned()),
                ..options
            };
            let spec = app_spec(&options, &around, None, None).map_err(|error| error.to_string())?;
            Ok::<_, String>((spec.kill_signal, spec.kill_timeout_ms, spec.shutdown_with_message))
        };
        let unsaid = AppOptions::default;
        let all = [
            ("PM2_KILL_SIGNAL", "SIGTERM"),
            ("PM2_KILL_TIMEOUT", "3000"),
            ("PM2_KILL_USE_MESSAGE", "true"),
        ];
        assert_eq!(
            with(&all, unsaid()),
            Ok((StopSignal::Terminate, Some(3000), true))
        );
        let own = AppOptions {
            settings: [
                ("kill_signal", "SIGUSR2".into()),
                ("kill_timeout", 7.into()),
                ("shutdown_with_message", false.into()),
            ]
            .into(),
            ..unsaid()
        };
        let usual = AppSpec::default().kill_signal;
        assert_eq!(with(&all, own), Ok((StopSignal::User2, Some(7), false)));
        let none = [("PM2_KILL_SIGNAL", ""), ("PM2_KILL_USE_MESSAGE", "false")];
        assert_eq!(with(&none, unsaid()), Ok((usual, None, false)));
        for wrong in [("PM2_KILL_SIGNAL", "SIGFOO"), ("PM2_KILL_TIMEOUT", "soon")] {
            let error = with(&[wrong], unsaid()).expect_err("refused");
            assert!(
                error.starts_with(&format!("{} in the environment: ", wrong.0)),
                "{error}"
            );
        }
    }
}
