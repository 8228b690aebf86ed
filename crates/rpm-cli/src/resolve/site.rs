//! Directories of static files: this program, as an app that serves them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rpm_spec::AppOptions;
use rpm_wire::api::{AppSpec, ExecMode};

use super::surroundings::{Surroundings, path_from};
use super::{ResolveError, mode, name, utf8, variables, working_directory};
use crate::args::{SITE_PASSWORD, SITE_USER, STATIC_SITE};

/// Default port.
pub(crate) const USUAL_PORT: u16 = 8080;
const NO_PASSWORD: &str =
    "basic authentication needs a user and a password, or the files would be open to everybody; give both";
/// The script by which PM2 knows such an app.
const SCRIPT: &str = "serve";
/// How the names of the variables begin that say more of it.
const PREFIXES: [&str; 2] = ["RPM_SERVE_", "PM2_SERVE_"];

/// Which files, and how they are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) path: PathBuf,
    pub(crate) port: u16,
    /// The address; by default, all.
    pub(crate) host: Option<String>,
    /// What is not there is the index.
    pub(crate) spa: bool,
    /// Files whose names begin with a dot, too.
    pub(crate) dotfiles: bool,
    /// What links that lead out of the directory lead to, too.
    pub(crate) follow_links: bool,
    /// Another file than `index.html` for that.
    pub(crate) homepage: Option<String>,
    /// User and password.
    pub(crate) auth: Option<(String, String)>,
}

impl Site {
    /// The app that serves it, with these variables.
    pub(crate) fn app(self, mut env: BTreeMap<String, String>) -> Result<AppSpec, ResolveError> {
        if !self.path.is_dir() {
            return Err(ResolveError::Value(format!(
                "{} is not a directory; name one that has files to serve",
                self.path.display()
            )));
        }
        let path = utf8("the directory", self.path)?;
        let port = self.port.to_string();
        let mut args = vec![STATIC_SITE.to_owned(), path.clone(), "--port".to_owned(), port];
        for (option, said) in [
            ("--spa", self.spa),
            ("--dotfiles", self.dotfiles),
            ("--follow-links", self.follow_links),
        ] {
            args.extend(said.then(|| option.to_owned()));
        }
        for (option, value) in [("--host", self.host), ("--homepage", self.homepage)] {
            args.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        }
        if self
            .auth
            .as_ref()
            .is_some_and(|(user, password)| user.is_empty() || password.is_empty())
        {
            return Err(ResolveError::Value(NO_PASSWORD.to_owned()));
        }
        // Not among the arguments, which everybody may read.
        if let Some((user, password)) = self.auth {
            env.extend([(SITE_USER.to_owned(), user), (SITE_PASSWORD.to_owned(), password)]);
        }
        let program = std::env::current_exe().map_err(|error| ResolveError::Value(error.to_string()))?;
        Ok(AppSpec {
            name: format!("static-page-server-{}", self.port),
            script: utf8("the path of this program", program)?,
            args,
            cwd: path,
            env,
            // Its listening is how it is known to be ready.
            exec_mode: ExecMode::Cluster,
            instances: 1,
            ..AppSpec::default()
        })
    }

    /// As the variables say. `places`: where the directory is looked for.
    fn of(
        env: &BTreeMap<String, String>,
        places: &[&Path],
        home: Option<&str>,
    ) -> Result<Site, ResolveError> {
        let said = |name: &str| {
            let mut names = PREFIXES.iter().map(|prefix| format!("{prefix}{name}"));
            let found = names
                .find_map(|name| env.get(&name))
                .filter(|value| !value.is_empty());
            found.cloned()
        };
        let switched = |name: &str| said(name).is_some_and(|text| text == "true");
        let port = match said("PORT") {
            None => USUAL_PORT,
            Some(text) => text
                .parse()
                .map_err(|_| ResolveError::Value(format!("PM2_SERVE_PORT must be a port, not {text:?}")))?,
        };
        let path = said("PATH").unwrap_or_else(|| ".".to_owned());
        let from = |place: &&Path| PathBuf::from(path_from(place, &path, home));
        let paths: Vec<PathBuf> = places.iter().map(from).collect();
        let there = paths.iter().find(|path| path.is_dir()).or_else(|| paths.first());
        Ok(Site {
            path: there.cloned().unwrap_or_default(),
            port,
            host: said("HOST"),
            spa: switched("SPA"),
            dotfiles: switched("DOTFILES"),
            follow_links: switched("FOLLOW_LINKS"),
            homepage: said("HOMEPAGE"),
            auth: match said("BASIC_AUTH").as_deref() {
                Some("true") => {
                    let own = |name| said(name).unwrap_or_default();
                    Some((own("BASIC_AUTH_USERNAME"), own("BASIC_AUTH_PASSWORD")))
                }
                None | Some("false") => None,
                Some(text) => {
                    return Err(ResolveError::Value(format!(
                        "PM2_SERVE_BASIC_AUTH must be true or false, not {text:?}"
                    )));
                }
            },
        })
    }
}

/// The app, if it serves files: its script is `serve`, and there is no such file.
pub(super) fn resolve(
    options: &AppOptions,
    around: &Surroundings,
    env_name: Option<&str>,
    beside: Option<&Path>,
) -> Result<Option<AppSpec>, ResolveError> {
    if options.script.as_deref() != Some(SCRIPT) || options.interpreter.is_some() {
        return Ok(None);
    }
    let cwd = working_directory(options, &SCRIPT.into(), around, beside)?;
    let places: Vec<&Path> = [Some(cwd.as_path()), beside].into_iter().flatten().collect();
    let env = variables::of_new(options, around, env_name, (&cwd, beside))?;
    let is_told = env
        .keys()
        .any(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    let lies_there = places.iter().any(|place| place.join(SCRIPT).exists());
    if lies_there || (!is_told && around.which(SCRIPT.as_ref()).is_some()) {
        return Ok(None);
    }
    let spec = Site::of(&env, &places, around.home())?.app(env)?;
    let (exec_mode, instances) = mode(options, spec.exec_mode, spec.instances);
    Ok(Some(AppSpec {
        name: name(options, SCRIPT, env_name),
        exec_mode,
        instances,
        ..spec
    }))
}
