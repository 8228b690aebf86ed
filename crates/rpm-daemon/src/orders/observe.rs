//! `rpm observe on`: the process that serves the metrics is a hidden app, made from a few settings.

use std::path::Path;

use rpm_core::protocol::Command;
use rpm_core::{AppId, InstanceId, StateView};
use rpm_wire::api::{ApiError, AppSpec, ApplyMode, OBSERVE, ObserveRequest, ObserveSpec};
use rpm_wire::otlp::OTLP_VARIABLES;
use tracing::warn;

use crate::apps::observe::{app_of, settings_of, unreplaced};
use crate::failure::failure;
use crate::orders::apply::Way;
use crate::orders::targets::settled;
use crate::orders::{Accepted, Orders};

/// Variables of the daemon that its process gets, besides those of OpenTelemetry.
const INHERITED: [&str; 3] = ["PATH", "HOME", "TZ"];

impl Orders<'_> {
    /// Turns the metrics on or off.
    pub(crate) fn observe(&mut self, request: &ObserveRequest) -> Result<Accepted, ApiError> {
        let present = self.catalog().find_hidden(OBSERVE);
        let Some(wanted) = &request.observe else {
            return Ok(match present {
                Some(app) => self.obey(self.catalog().instances_of(app), |instances| Command::Delete {
                    instances,
                    hard: false,
                }),
                None => settled(Vec::new(), vec!["the metrics are off already".to_owned()]),
            });
        };
        check(wanted)?;
        let spec = self.observer(wanted)?;
        match present {
            None => {
                let app = AppId::hidden(self.new_number());
                self.add_as(app, spec, false)
            }
            Some(app) if request.unless_on => Ok(settled(self.catalog().instances_of(app), Vec::new())),
            Some(app) => self.bring(app, spec, ApplyMode::Changed),
        }
    }

    /// Has this program serve the metrics, where it has taken over from another daemon. `updated`: from one of another version.
    pub(crate) fn renew_observer(&mut self, updated: bool) {
        let Some(app) = self.catalog().find_hidden(OBSERVE) else {
            return;
        };
        let ids = self.catalog().instances_of(app);
        let online = |id: &InstanceId| {
            let view = self.core.instance(*id);
            view.is_some_and(|view| matches!(view.state, StateView::Online { .. }))
        };
        let Some(wanted) = self.catalog().given(app).and_then(settings_of) else {
            return;
        };
        if !ids.iter().all(online) {
            return;
        }
        let mode = match updated {
            true => ApplyMode::Reload,
            false => ApplyMode::Changed,
        };
        let renewed = self
            .observer(&wanted)
            .and_then(|spec| self.bring(app, spec, mode));
        match renewed {
            // Nobody waits for it. If it fails the old process keeps serving.
            Ok(accepted) => drop(accepted),
            Err(error) => warn!(%error, "the metrics are served by the previous version"),
        }
    }

    fn bring(&mut self, app: AppId, spec: AppSpec, mode: ApplyMode) -> Result<Accepted, ApiError> {
        let way = Way { mode, hard: false };
        let accepted = self.bring_to(app, spec, way)?;
        self.apps_have_changed();
        let unchanged = || settled(self.catalog().instances_of(app), Vec::new());
        Ok(accepted.unwrap_or_else(unchanged))
    }

    fn observer(&self, wanted: &ObserveSpec) -> Result<AppSpec, ApiError> {
        let program = std::env::current_exe()
            .map_err(|error| failure(format!("the daemon does not know its own program: {error}"), None))?;
        let (program, root) = (as_text(&unreplaced(program))?, as_text(self.home.root())?);
        let variables = INHERITED.iter().chain(&OTLP_VARIABLES).filter_map(|name| {
            let value = std::env::var(name).ok()?;
            Some(((*name).to_owned(), value))
        });
        let own = [("RPM_HOME".to_owned(), root)];
        Ok(app_of(program, variables.chain(own), wanted))
    }
}

/// Whether the process could serve anybody. What is in the files it checks itself.
fn check(wanted: &ObserveSpec) -> Result<(), ApiError> {
    let address = wanted.listen.ip();
    if wanted.token_file.is_none() && !wanted.certifies_clients() && !address.is_loopback() {
        return Err(failure(
            format!(
                "{address} can be reached from other machines, and the metrics name your apps and what they do"
            ),
            Some(
                "give a token with --token-file, or ask for certificates with --tls-client-ca, or listen on 127.0.0.1",
            ),
        ));
    }
    if let Some(file) = &wanted.token_file {
        is_file(
            file,
            "the token",
            "make one: (umask 077; openssl rand -hex 16 > token)",
        )?;
    }
    let Some(tls) = &wanted.tls else { return Ok(()) };
    let files = [("the certificate", &tls.cert), ("the private key", &tls.key)];
    let authorities = tls.client_ca.iter().map(|file| ("the authorities", file));
    files.into_iter().chain(authorities).try_for_each(|(what, file)| {
        is_file(
            file,
            what,
            "it must be a file in PEM that the daemon's user may read",
        )
    })
}

fn is_file(path: &str, what: &str, hint: &str) -> Result<(), ApiError> {
    if !Path::new(path).is_absolute() {
        return Err(failure(
            format!("the path of the file with {what}, {path:?}, is not absolute"),
            None,
        ));
    }
    match Path::new(path).is_file() {
        true => Ok(()),
        false => Err(failure(
            format!("cannot read {what} in {path}: it is no file"),
            Some(hint),
        )),
    }
}

fn as_text(path: &Path) -> Result<String, ApiError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| failure(format!("the path {} is not UTF-8", path.display()), None))
}
