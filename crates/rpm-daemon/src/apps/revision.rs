//! What an app's workers are started from: the specification as the user gave it, and what its paths meant at the
//! time. A release is often a symbolic link that moves; a worker that is started again later, or a generation that is
//! brought back, belongs to the release it was of.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rpm_core::Revision;
use rpm_wire::api::{AppSpec, OF_THE_USER};
use rpm_wire::interpreter::found_anew;

use crate::apps::delivery::Delivery;

/// The revisions of one app that may still be needed.
#[derive(Debug)]
pub(crate) struct Revisions {
    known: BTreeMap<Revision, Version>,
    last: Revision,
}

/// One revision.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    given: Arc<AppSpec>,
    /// If it is another one: specifications are large.
    real: Option<Arc<AppSpec>>,
    delivery: Delivery,
}

impl Version {
    fn new(given: AppSpec, real: AppSpec) -> Version {
        let real = (real != given).then(|| Arc::new(real));
        Version::resolved(Arc::new(given), real)
    }

    fn resolved(given: Arc<AppSpec>, real: Option<Arc<AppSpec>>) -> Version {
        let delivery = Delivery::of(real.as_ref().unwrap_or(&given));
        Version {
            given,
            real,
            delivery,
        }
    }

    /// Its specification, symbolic links resolved.
    pub(crate) fn spec(&self) -> &Arc<AppSpec> {
        self.real.as_ref().unwrap_or(&self.given)
    }

    /// How connections reach its workers.
    pub(crate) fn delivery(&self) -> Delivery {
        self.delivery
    }
}

/// A path of a specification that leads nowhere any more.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path} {why}")]
pub(crate) struct Gone {
    what: &'static str,
    path: String,
    why: String,
}

impl Revisions {
    /// The first. A path that leads nowhere stays as it is: starting the worker says so.
    pub(crate) fn new(given: AppSpec) -> Revisions {
        let first = Revision(1);
        let real = real(&given).unwrap_or_else(|_| given.clone());
        let version = Version::new(given, real);
        Revisions {
            known: BTreeMap::from([(first, version)]),
            last: first,
        }
    }

    /// What the next daemon must know, beside the last number.
    pub(crate) fn stored(&self) -> BTreeMap<u32, rpm_state::Revision> {
        let stored = |(revision, version): (&Revision, &Version)| {
            let (given, real) = (Arc::clone(&version.given), version.real.clone());
            (revision.0, rpm_state::Revision { given, real })
        };
        self.known.iter().map(stored).collect()
    }

    /// Those that were stored.
    pub(crate) fn restore(stored: BTreeMap<u32, rpm_state::Revision>, last: Revision) -> Revisions {
        let version = |(number, stored): (u32, rpm_state::Revision)| {
            let rpm_state::Revision { given, real } = stored;
            (Revision(number), Version::resolved(given, real))
        };
        Revisions {
            known: stored.into_iter().map(version).collect(),
            last,
        }
    }

    /// The number of the specification that was made last.
    pub(crate) fn last(&self) -> Revision {
        self.last
    }

    /// A revision.
    pub(crate) fn get(&self, revision: Revision) -> Option<&Version> {
        self.known.get(&revision)
    }

    /// The specification of a revision, its symbolic links resolved.
    pub(crate) fn spec(&self, revision: Revision) -> Option<&Arc<AppSpec>> {
        self.known.get(&revision).map(Version::spec)
    }

    /// The specification of a revision as it was given.
    pub(crate) fn given(&self, revision: Revision) -> Option<&Arc<AppSpec>> {
        self.known.get(&revision).map(|version| &version.given)
    }

    /// A revision of this specification. Others than this and those in `keep` are forgotten.
    ///
    /// # Errors
    /// A path leads nowhere; nothing has changed.
    pub(crate) fn put(&mut self, given: AppSpec, keep: &[Revision]) -> Result<Revision, Gone> {
        let real = real(&given)?;
        self.last = Revision(self.last.0.saturating_add(1));
        self.known.retain(|revision, _| keep.contains(revision));
        let version = Version::new(given, real);
        self.known.insert(self.last, version);
        Ok(self.last)
    }

    /// The one that was made last.
    pub(crate) fn newest(&self) -> Option<&Version> {
        self.known.last_key_value().map(|(_, version)| version)
    }

    /// A revision of what `base` was given, with these variables added, its paths resolved anew, and its interpreter if PATH had it. Others than this and
    /// those in `keep` are forgotten.
    ///
    /// # Errors
    /// A path leads nowhere; nothing has changed.
    pub(crate) fn renew(
        &mut self,
        base: Revision,
        env: &BTreeMap<String, String>,
        keep: &[Revision],
    ) -> Result<Revision, Gone> {
        let version = self.known.get(&base).or_else(|| self.known.values().next_back());
        let Some(version) = version else {
            return Ok(base);
        };
        let mut given = AppSpec::clone(&version.given);
        let before = given.env.get("PATH").cloned().unwrap_or_default();
        // Of an app with `uid` those are not of whoever types this.
        let own_user = given.uid.is_none();
        let passed = env
            .iter()
            .filter(|(name, _)| own_user || !OF_THE_USER.contains(&name.as_str()));
        given
            .env
            .extend(passed.map(|(name, value)| (name.clone(), value.clone())));
        let now = given.env.get("PATH").map_or("", String::as_str);
        let found = given
            .interpreter
            .as_deref()
            .and_then(|path| found_anew(path, (&before, now), is_program));
        given.interpreter = found.or(given.interpreter);
        self.put(given, keep)
    }

    /// Are the files of this revision still there?
    ///
    /// # Errors
    /// The first path that leads nowhere.
    pub(crate) fn check(&self, revision: Revision) -> Result<(), Gone> {
        self.spec(revision).map_or(Ok(()), |spec| real(spec).map(drop))
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The specification with its symbolic links resolved.
fn real(given: &AppSpec) -> Result<AppSpec, Gone> {
    let mut spec = given.clone();
    spec.cwd = resolved("the working directory", &given.cwd, Links::All)?;
    spec.script = match &given.interpreter {
        Some(_) => resolved("the script", &given.script, Links::All)?,
        None => resolved("the program", &given.script, Links::OfDirectory)?,
    };
    if let Some(interpreter) = &given.interpreter {
        spec.interpreter = Some(resolved("the interpreter", interpreter, Links::OfDirectory)?);
    }
    Ok(spec)
}

/// Which symbolic links of a path are resolved.
#[derive(Clone, Copy)]
enum Links {
    All,
    /// A program may go by its own name (busybox) or place (a Python environment), which may be a link.
    OfDirectory,
}

fn resolved(what: &'static str, path: &str, links: Links) -> Result<String, Gone> {
    let gone = |why: String| Gone {
        what,
        path: path.to_owned(),
        why,
    };
    if !Path::new(path).is_absolute() {
        return Ok(path.to_owned());
    }
    let real = match links {
        Links::All => Path::new(path).canonicalize(),
        Links::OfDirectory => keeping_name(Path::new(path)),
    };
    real.map_err(|error| match error.kind() {
        ErrorKind::NotFound => gone("does not exist".to_owned()),
        _ => gone(format!("cannot be read: {error}")),
    })?
    .into_os_string()
    .into_string()
    .map_err(|_| gone("is a link to a path that is not UTF-8".to_owned()))
}

fn keeping_name(path: &Path) -> std::io::Result<PathBuf> {
    path.metadata()?;
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => Ok(dir.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A new directory, by its real path.
    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rpm-revision-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        dir.canonicalize().expect("its path")
    }

    fn spec(dir: &Path) -> AppSpec {
        let text = serde_json::json!({
            "name": "api", "script": dir.join("current/app.js"), "cwd": dir.join("current"), "interpreter": "node",
            "exec_mode": "cluster", "instances": 2,
        });
        serde_json::from_value(text).expect("a specification")
    }

    fn release(dir: &Path, name: &str) {
        std::fs::create_dir_all(dir.join(name)).expect("a directory");
        std::fs::write(dir.join(name).join("app.js"), "").expect("a file");
        let link = dir.join("next");
        symlink(name, &link).expect("a link");
        std::fs::rename(&link, dir.join("current")).expect("the link moves");
    }

    #[test]
    fn each_revision_keeps_the_release_that_it_was_made_of() {
        let dir = scratch("releases");
        release(&dir, "one");
        let mut revisions = Revisions::new(spec(&dir));
        let first = Revision(1);
        release(&dir, "two");
        let none = BTreeMap::new();
        let second = revisions.renew(first, &none, &[first]).expect("it is there");
        for (revision, release) in [(first, "one"), (second, "two")] {
            let spec = revisions.spec(revision).expect("kept");
            assert_eq!(Path::new(&spec.cwd), dir.join(release));
            assert_eq!(Path::new(&spec.script), dir.join(release).join("app.js"));
        }
        let color = BTreeMap::from([("COLOR".to_owned(), "red".to_owned())]);
        let third = revisions.renew(second, &color, &[second]).expect("it is there");
        assert!(revisions.spec(first).is_none(), "not among those to keep");
        assert_eq!(revisions.spec(third).map(|spec| &spec.env), Some(&color));
        std::fs::remove_dir_all(dir.join("two")).expect("removed");
        let gone = revisions.check(second).expect_err("it is gone").to_string();
        assert!(
            gone.starts_with("the working directory") && gone.contains("two"),
            "{gone}"
        );
        assert!(revisions.renew(third, &none, &[third]).is_err());
        assert!(revisions.spec(third).is_some(), "nothing has changed");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_program_keeps_its_name_and_its_place() {
        let dir = scratch("links");
        std::fs::create_dir(dir.join("venv")).expect("a directory");
        symlink("/bin/sh", dir.join("venv/python")).expect("a link");
        symlink("venv", dir.join("current")).expect("a link");
        let kept = keeping_name(&dir.join("current/python")).expect("it is there");
        assert_eq!(kept, dir.join("venv/python"));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
