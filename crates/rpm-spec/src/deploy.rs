//! The `deploy` section of an ecosystem file: where an app is deployed to, over ssh and git.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::ecosystem::{Problem, shown, unknown};
use crate::values::variables;

/// One environment of the section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    /// User that logs in; by default, the user's ssh configuration decides.
    pub user: Option<String>,
    /// The hosts: at least one.
    pub hosts: Vec<String>,
    /// Of ssh.
    pub port: Option<u16>,
    /// A file with a private key.
    pub key: Option<String>,
    /// Of ssh, for `-o`.
    pub ssh_options: Vec<String>,
    /// The revision to check out.
    pub git_ref: String,
    /// The repository to clone.
    pub repo: String,
    /// The directory on the host.
    pub path: String,
    /// Run there before the clone.
    pub pre_setup: Option<String>,
    /// Run there after it.
    pub post_setup: Option<String>,
    /// Run here before an update.
    pub pre_deploy_local: Option<String>,
    /// Run there before the new version is checked out.
    pub pre_deploy: Option<String>,
    /// Run there after the checkout; it restarts the apps.
    pub post_deploy: Option<String>,
    /// Variables for all of these commands.
    pub env: BTreeMap<String, String>,
}

const KEYS: [&str; 15] = [
    "user",
    "host",
    "port",
    "key",
    "ssh_options",
    "ref",
    "repo",
    "path",
    "pre-setup",
    "post-setup",
    "pre-deploy-local",
    "pre-deploy",
    "post-deploy",
    "env",
    "post_deploy",
];

/// The environments of the file's `deploy` section, by their names; none if it has no such section.
///
/// # Errors
/// All errors, in their order.
pub fn deployments(file: &Value) -> Result<BTreeMap<String, Deployment>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut found = BTreeMap::new();
    match file.get("deploy") {
        None | Some(Value::Null) => {}
        Some(Value::Object(section)) => {
            for (name, value) in section {
                let place = format!("deploy.{name}");
                match value.as_object() {
                    Some(fields) => {
                        let deployment = deployment(&place, fields, &mut problems);
                        found.insert(name.clone(), deployment);
                    }
                    None => problems.push(Problem {
                        place,
                        text: format!(
                            "it must be an object with host, repo and path, not {}",
                            shown(value)
                        ),
                    }),
                }
            }
        }
        Some(other) => problems.push(Problem {
            place: "deploy".to_owned(),
            text: format!(
                "it must be an object with an environment a key, not {}",
                shown(other)
            ),
        }),
    }
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(problems)
    }
}

fn deployment(place: &str, fields: &Map<String, Value>, problems: &mut Vec<Problem>) -> Deployment {
    let mut problem = |text: String| {
        problems.push(Problem {
            place: place.to_owned(),
            text,
        });
    };
    let mut found = Deployment {
        git_ref: "origin/master".to_owned(),
        ..Deployment::default()
    };
    for (name, value) in fields {
        if value.is_null() {
            continue;
        }
        let text = value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let texts = match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => list.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let taken = match name.replace('_', "-").as_str() {
            "user" => text.map(|text| found.user = Some(text)).is_some(),
            "host" => texts.map(|texts| found.hosts = texts).is_some(),
            "ssh-options" => texts.map(|texts| found.ssh_options = texts).is_some(),
            "key" => text.map(|text| found.key = Some(text)).is_some(),
            "ref" => text.map(|text| found.git_ref = text).is_some(),
            "repo" => text.map(|text| found.repo = text).is_some(),
            "path" => text.map(|text| found.path = text).is_some(),
            "pre-setup" => text.map(|text| found.pre_setup = Some(text)).is_some(),
            "post-setup" => text.map(|text| found.post_setup = Some(text)).is_some(),
            "pre-deploy-local" => text.map(|text| found.pre_deploy_local = Some(text)).is_some(),
            "pre-deploy" => text.map(|text| found.pre_deploy = Some(text)).is_some(),
            "post-deploy" => text.map(|text| found.post_deploy = Some(text)).is_some(),
            "port" => {
                let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                found.port = number.and_then(|port| u16::try_from(port).ok());
                found.port.is_some()
            }
            "env" => variables(value).map(|env| found.env = env).is_ok(),
            _ => {
                problem(unknown(name, KEYS));
                true
            }
        };
        if !taken {
            problem(format!("`{name}` cannot be {}", shown(value)));
        }
    }
    faults_of(&found.env).into_iter().for_each(&mut problem);
    found.hosts.retain(|host| !host.is_empty());
    for (name, there) in [
        ("host", !found.hosts.is_empty()),
        ("repo", !found.repo.is_empty()),
        ("path", !found.path.is_empty()),
    ] {
        if !there {
            problem(format!("`{name}` is missing"));
        }
    }
    // ssh and git must not read either as an option.
    let option = |text: &&String| text.starts_with('-');
    let words = found
        .hosts
        .iter()
        .chain(&found.user)
        .chain([&found.repo, &found.git_ref]);
    if let Some(word) = words.into_iter().find(option) {
        problem(format!("{word:?} begins with a dash"));
    }
    found
}

/// The shell of the host reads the names, and the values up to a NUL.
fn faults_of(env: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, value) in env {
        if !is_shell_name(name) {
            faults.push(format!(
                "{name:?} in `env` cannot be the name of a variable: it has letters, digits and _, and begins with no digit"
            ));
        }
        if value.contains('\0') {
            faults.push(format!("`env.{name}` contains a NUL byte"));
        }
    }
    faults
}

/// A name that a shell takes for a variable's.
fn is_shell_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_environment_is_read_and_its_faults_are_all_told() {
        let file = json!({"apps": [], "deploy": {"production": {
            "user": "node", "host": ["a", "b"], "port": "2222", "ref": "origin/main", "repo": "git@x:y.git", "path": "/srv/y",
            "ssh_options": "StrictHostKeyChecking=no", "post-deploy": "npm i", "env": {"A": 1},
        }}});
        let found = deployments(&file).expect("an environment");
        let production = &found["production"];
        assert_eq!(production.hosts, ["a", "b"]);
        assert_eq!(production.port, Some(2222));
        assert_eq!(production.env["A"], "1");
        let faults = deployments(
            &json!({"deploy": {"p": {"host": 1, "hots": "a", "repo": "-x", "env": {"A;touch x;B": 1, "9A": 1, "_A9": "a\u{0}b"}}, "q": 3}}),
        );
        let texts: Vec<String> = faults
            .expect_err("faults")
            .iter()
            .map(ToString::to_string)
            .collect();
        for part in [
            "deploy.p: `host` cannot be 1",
            "did you mean `host`",
            "deploy.p: `host` is missing",
            "deploy.p: `path` is missing",
            "\"-x\" begins with a dash",
            "deploy.p: \"A;touch x;B\" in `env` cannot be the name of a variable",
            "deploy.p: \"9A\" in `env` cannot be",
            "deploy.p: `env._A9` contains a NUL byte",
            "deploy.q: it must be an object",
        ] {
            assert!(
                texts.iter().any(|text| text.contains(part)),
                "{part} in {texts:#?}"
            );
        }
        assert_eq!(deployments(&json!([])), Ok(BTreeMap::new()));
    }
}
