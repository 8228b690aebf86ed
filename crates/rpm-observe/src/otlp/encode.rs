//! What metrics and spans share: the mapping of protobuf to JSON, and the resource.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What is said of all that is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resource {
    /// The name of this machine.
    pub host: String,
    /// `service.name`, if the user has given one for all apps.
    pub service: Option<String>,
    /// What `service.instance.id` begins with, if the user has given it; else the host.
    pub instance: Option<String>,
    /// Attributes of the user.
    pub attributes: BTreeMap<String, String>,
}

/// What is not about an app is about rpm itself.
const OWN: &str = "rpm";

impl Resource {
    /// The resource of an app, or of one of its instances. What the user has said comes first. An instance has the same number on each host, so that
    /// the host is part of its name.
    pub(super) fn of(&self, app: Option<&str>, instance: Option<&str>) -> Value {
        let mut attributes = BTreeMap::from([("host.name", self.host.as_str())]);
        attributes.extend(
            self.attributes
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        attributes.insert("service.name", self.service.as_deref().or(app).unwrap_or(OWN));
        let place = self.instance.as_deref().unwrap_or(&self.host);
        let id = instance.map_or_else(|| place.to_owned(), |instance| format!("{place}/{instance}"));
        attributes.insert("service.instance.id", &id);
        let attributes: Vec<Value> = attributes
            .into_iter()
            .map(|(name, value)| text(name, value))
            .collect();
        json!({"attributes": attributes})
    }
}

/// Who has measured.
pub(super) fn scope() -> Value {
    json!({"name": "rpm", "version": env!("CARGO_PKG_VERSION")})
}

/// An attribute that is a text.
pub(super) fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// One that is a whole number: those of 64 bits are written as text.
pub(super) fn whole(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

/// One that is a number.
pub(super) fn number(key: &str, value: f64) -> Value {
    json!({"key": key, "value": {"doubleValue": value}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_told_apart_from_that_of_another_host() {
        for (prefix, instance, expected) in [
            (None, None, "box"),
            (None, Some("3"), "box/3"),
            (Some("pod"), None, "pod"),
            (Some("pod"), Some("3"), "pod/3"),
        ] {
            let resource = Resource {
                host: "box".to_owned(),
                instance: prefix.map(str::to_owned),
                ..Resource::default()
            };
            for app in [Some("web"), None] {
                let made = resource.of(app, instance);
                let attributes = [
                    text("host.name", "box"),
                    text("service.instance.id", expected),
                    text("service.name", app.unwrap_or(OWN)),
                ];
                assert_eq!(made, json!({"attributes": attributes}), "{prefix:?} {instance:?}");
            }
        }
    }
}
