//! Which events a target means. Apps that are gone have their events still, so what is compared is what the events say.

use regex_lite::Regex;
use rpm_wire::api::ApiError;
use rpm_wire::events::Head;

use crate::apps::catalog::{Catalog, pattern_of};

/// What is asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// None: everything.
    targets: Vec<Target>,
    pub(crate) since_ms: u64,
    /// For targets that no app and no instance has: what is said if no event has it either.
    pub(crate) unknown: Option<ApiError>,
}

#[derive(Debug)]
enum Target {
    Name(String),
    Namespace(String),
    /// An instance, of the app that has it now.
    Id(u32, String),
    Pattern(Regex),
    /// Nothing that is there now is called so.
    Gone(String),
}

impl Wanted {
    /// What these targets, with line breaks between them, mean.
    ///
    /// # Errors
    /// A pattern is none.
    pub(crate) fn of(catalog: Catalog<'_>, targets: Option<&str>, since_ms: u64) -> Result<Wanted, ApiError> {
        let mut wanted = Wanted {
            since_ms,
            ..Wanted::default()
        };
        for text in targets.into_iter().flat_map(|targets| targets.split('\n')) {
            if text == "all" {
                wanted.targets.clear();
                return Ok(wanted);
            }
            if let Some(pattern) = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
                wanted.targets.push(Target::Pattern(pattern_of(pattern)?));
                continue;
            }
            let target = match catalog.meant(text) {
                Ok(ids) if catalog.resolve_name(text).is_none() => {
                    let only = ids.iter().next().filter(|id| id.to_string() == text);
                    let name = only.and_then(|id| catalog.name_of(*id));
                    match (only, name) {
                        (Some(id), Some(name)) => Target::Id(id.0, name.to_owned()),
                        (Some(_) | None, _) => Target::Namespace(text.to_owned()),
                    }
                }
                Ok(_) => Target::Name(text.to_owned()),
                Err(unknown) => {
                    wanted.unknown.get_or_insert(unknown);
                    Target::Gone(text.to_owned())
                }
            };
            wanted.targets.push(target);
        }
        Ok(wanted)
    }

    pub(crate) fn fits(&self, head: &Head) -> bool {
        head.at_ms >= self.since_ms && self.is_meant(head)
    }

    /// The same, whenever it was.
    pub(crate) fn is_meant(&self, head: &Head) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|target| target.is_meant(head))
    }
}

impl Target {
    fn is_meant(&self, head: &Head) -> bool {
        let (app, namespace) = (head.app.as_deref(), head.namespace.as_deref());
        match self {
            Target::Name(name) => app == Some(name),
            Target::Namespace(name) => namespace == Some(name),
            Target::Id(id, name) => head.id == Some(*id) && app == Some(name),
            Target::Pattern(regex) => app.is_some_and(|app| regex.is_match(app)),
            Target::Gone(text) => {
                let id = head.id.map(|id| id.to_string());
                app == Some(text) || namespace == Some(text) || id.as_deref() == Some(text)
            }
        }
    }
}
